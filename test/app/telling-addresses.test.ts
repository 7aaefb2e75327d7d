import type { Socket } from 'node:net';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import type { NoiseKey } from '../../src/identity/noise.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, readHead, SWITCHING, until, upgradeHead } from '../support/harness.ts';
import { freshHandshake, initiations, noiseKeyOf } from '../support/initiations.ts';

/** The address of a bridge of this machine. */
const BRIDGE = '172.18.0.1';
vi.mock('node:os', async (original) => ({
  ...(await original<typeof import('node:os')>()),
  networkInterfaces: () => ({ br0: [{ address: BRIDGE }] }),
}));

const harness = new Harness();
afterEach(() => harness.closeAll());

const [recorded] = initiations;
const RECORD = Buffer.from([4, 0, 2, 1, 2]);

/** A watchdog behind a trusted proxy, which says where clients are. */
async function bench() {
  const upstream = await harness.upstream((_request, socket) => {
    socket.on('error', () => {}).write(SWITCHING);
    socket.on('end', () => socket.end()).resume();
  });
  const clock = new FakeClock();
  const flags = { trustedProxies: '127.0.0.1', hold: 'off' };
  const { port, events } = await harness.watchdog(upstream.url, flags, noiseKeyOf(recorded), { clock });
  const told = <K extends WatchdogEvent['kind']>(kind: K) =>
    events.filter((event): event is Extract<WatchdogEvent, { kind: K }> => event.kind === kind);
  const opens = async (address: string, machine: NoiseKey): Promise<Socket> => {
    const client = harness.client(port);
    const handshake = `X-Tailscale-Handshake: ${freshHandshake(recorded, machine)}\r\n`;
    client.write(upgradeHead('/ts2021', `${handshake}X-Forwarded-For: ${address}\r\n`));
    expect(await readHead(client)).toBe(SWITCHING);
    return client;
  };
  return { clock, told, opens };
}

test('nodes that share an address of this machine: told as those behind a proxy of the container engine', async () => {
  const { told, opens } = await bench();
  for (const _node of [1, 2]) await opens(BRIDGE, generateNoiseKey());
  expect(told('client_addresses_hidden')).toMatchObject([{ address: BRIDGE, isTrusted: false, isEngine: true }]);
});

describe('two machines with one key, which both speak', () => {
  /** @param others how many other nodes have a stream from the second address. @returns how often it was told. */
  async function speakFrom(addresses: readonly [string, string], others = 0): Promise<number> {
    const { clock, told, opens } = await bench();
    const machine = generateNoiseKey();
    for (let i = 0; i < others; i++) await opens(addresses[1], generateNoiseKey());
    const clients = [await opens(addresses[0], machine), await opens(addresses[1], machine)];
    const streams = told('stream_opened')
      .slice(-2)
      .map(({ stream }) => stream);
    for (let spokenMs = 0; spokenMs < 120_000; spokenMs += 5000) {
      for (const client of clients) client.write(RECORD);
      await until(
        () => streams.every(({ heardAt, firstRecordAt }) => firstRecordAt && heardAt === clock.now()),
        'heard',
      );
      clock.advance(5000);
    }
    return told('machine_key_duplicated').length;
  }

  test('at addresses of their own are told', async () => {
    expect(await speakFrom(['192.0.2.11', '192.0.2.12'])).toBe(1);
  });

  test('one at an address of this machine: a proxy is there, and may move with its clients', async () => {
    expect(await speakFrom(['192.0.2.11', BRIDGE])).toBe(0);
  });

  test('one at an address that many nodes share: a NAT is there', async () => {
    expect(await speakFrom(['192.0.2.11', '198.51.100.7'], 3)).toBe(1);
    expect(await speakFrom(['192.0.2.11', '198.51.100.7'], 4)).toBe(0);
  });
});
