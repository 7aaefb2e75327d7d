import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { machineKeyOf } from '../../src/identity/keys.ts';
import { type Instant, plus } from '../../src/lib/clock.ts';
import type { JsonFields } from '../../src/lib/json.ts';
import { type Handed, readHanded, writeHanded } from '../../src/pipeline/handed-stream.ts';
import { SEVER_REASONS, STREAM_KINDS, type StreamId } from '../../src/streams/stream.ts';

const NOW = 1_000_000 as Instant;
/** The other process's clock. */
const THERE = 5000 as Instant;

const ago = fc.integer({ min: 0, max: 900_000 });
const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(value, { nil: undefined });
const endpoint = fc.record({ address: fc.ipV4(), port: fc.integer({ min: 1, max: 65_535 }) });
const connection = fc.record({ local: endpoint, remote: endpoint });
const path: fc.Arbitrary<Handed['path']> = fc.oneof(
  fc.constant({ kind: 'direct' } as const),
  fc.record({
    kind: fc.constant('one_proxy' as const),
    proxy: connection,
    client: fc.record({ address: fc.ipV6(), port: maybe(fc.integer({ min: 1, max: 65_535 })) }),
    listener: maybe(endpoint),
  }),
  fc.record({ kind: fc.constantFrom('several_proxies' as const, 'address_hidden' as const), proxy: connection }),
);
const bytes = (most: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength: most }).map((each) => Buffer.from(each));
const carries: fc.Arbitrary<Handed['carries']> = fc.oneof(
  fc.record({ kind: fc.constant('session' as const), unansweredBytes: fc.nat() }),
  fc.record({
    kind: fc.constant('upgrade' as const),
    upgrade: fc.record({
      method: fc.constantFrom('POST', 'GET'),
      url: fc.constantFrom('/ts2021', '/derp', '/a?b=%20'),
      httpMinor: fc.constantFrom(0, 1),
      rawHeaders: fc.array(fc.string()),
      protocol: fc.constantFrom('tailscale-control-protocol' as const, 'websocket' as const, 'derp' as const),
      early: bytes(2000),
    }),
    elsewhere: fc.array(fc.string()),
    ephemeral: maybe(fc.uint8Array({ minLength: 32, maxLength: 32 }).map((each) => Buffer.from(each))),
  }),
);
const handed: fc.Arbitrary<Handed> = fc
  .record({
    ...{ id: fc.integer({ min: 1 }), kind: fc.constantFrom(...STREAM_KINDS), path, carries },
    machineKey: maybe(fc.uint8Array({ minLength: 32, maxLength: 32 }).map(machineKeyOf)),
    capabilityVersion: maybe(fc.nat()),
    ...{ address: fc.ipV4(), remoteAddress: fc.string(), bytesReceived: fc.nat(), bytesSent: fc.nat() },
    ...{ opened: ago, heard: ago, login: maybe(ago), spoken: maybe(ago), first: maybe(ago) },
    wouldSever: maybe(fc.constantFrom(...SEVER_REASONS)),
    contests: fc.array(fc.tuple(fc.integer({ min: 1 }), ago)),
  })
  .map(({ opened, heard, login, spoken, first, contests, path, carries, id, ...rest }) => {
    const at = (ms: number): Instant => plus(NOW, -ms);
    return {
      stream: {
        ...{ ...rest, id: id as StreamId, openedAt: at(opened), heardAt: at(heard) },
        ...(login === undefined ? {} : { loginEndedAt: at(login) }),
        spokenAt: spoken === undefined ? undefined : at(spoken),
        firstRecordAt: first === undefined ? undefined : at(first),
        state: carries.kind === 'session' ? { kind: 'open' } : { kind: 'connecting' },
      },
      ...{ path, carries, contests: new Map(contests.map(([other, ms]) => [other as StreamId, at(ms)])) },
    } as Handed;
  });

const sent = (fields: JsonFields): JsonFields => JSON.parse(JSON.stringify(fields)) as JsonFields;

describe('a stream on its way to another process', () => {
  test('arrives as it was', () => {
    fc.assert(
      fc.property(handed, (each) => {
        expect(readHanded(sent(writeHanded(each, NOW)), NOW)).toEqual(each);
      }),
    );
  });

  test('keeps its times, although the other process has another clock', () => {
    fc.assert(
      fc.property(handed, (each) => {
        const read = readHanded(sent(writeHanded(each, NOW)), THERE);
        expect(THERE - (read?.stream.openedAt ?? 0)).toBe(NOW - each.stream.openedAt);
        expect(THERE - (read?.stream.heardAt ?? 0)).toBe(NOW - each.stream.heardAt);
      }),
    );
  });

  test('is understood with fields that this version does not know, at any depth', () => {
    const withMore = (value: unknown): unknown =>
      Array.isArray(value)
        ? value.map(withMore)
        : typeof value === 'object' && value !== null
          ? {
              ...Object.fromEntries(Object.entries(value).map(([name, each]) => [name, withMore(each)])),
              later: { a: [1] },
            }
          : value;
    fc.assert(
      fc.property(handed, (each) => {
        const fields = withMore(sent(writeHanded(each, NOW))) as JsonFields;
        expect(readHanded(fields, NOW)).toEqual(each);
      }),
    );
  });

  test('is not understood in a newer format, or with values that this version does not know', () => {
    fc.assert(
      fc.property(handed, (each) => {
        const fields = sent(writeHanded(each, NOW));
        expect(readHanded({ ...fields, format: 2 }, NOW)).toBeUndefined();
        expect(readHanded({ ...fields, kind: 'quic' }, NOW)).toBeUndefined();
        expect(readHanded({ ...fields, path: { kind: 'tor' } }, NOW)).toBeUndefined();
        expect(readHanded({ ...fields, machineKey: 'nodekey:00' }, NOW)).toBeUndefined();
        expect(readHanded({ ...fields, openedAgoMs: undefined }, NOW)).toBeUndefined();
      }),
    );
  });

  test('never throws, whatever comes', () => {
    fc.assert(
      fc.property(handed, fc.string(), fc.jsonValue(), (each, name, value) => {
        const fields = sent(writeHanded(each, NOW));
        const known = Object.keys(fields);
        for (const field of [name, ...known]) readHanded({ ...fields, [field]: value }, NOW);
      }),
    );
  });
});
