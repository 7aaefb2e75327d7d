import { formatMachineKey, parseMachineKey } from '../identity/keys.ts';
import type { Connection } from '../lib/addresses.ts';
import { type Instant, plus } from '../lib/clock.ts';
import { fieldsOf, type JsonFields } from '../lib/json.ts';
import type { ClientPath } from '../liveness/proxy-sockets.ts';
import type { HandedUpgrade } from '../proxy/tunnel-parts.ts';
import { isProtocol } from '../streams/request.ts';
import { SEVER_REASONS, STREAM_KINDS, type Stream, type StreamId } from '../streams/stream.ts';

/*
 * A stream on its way from one process to the next. The two may be of different versions, so the form on the way is JSON of a
 * numbered format. A reader ignores fields that it does not know. Whatever an older reader must not ignore gets a higher number.
 */

/** Everything about a stream besides its two sockets. */
export interface Handed {
  readonly stream: Stream;
  readonly path: ClientPath;
  /** The other streams that it contests, or that contest it, and since when. */
  readonly contests: ReadonlyMap<StreamId, Instant>;
  /** What other replicas know about it: see `StreamDirectory`. */
  readonly known?: JsonFields | undefined;
  readonly carries:
    | { readonly kind: 'session'; readonly unansweredBytes: number }
    /** Nothing has been forwarded to Headscale yet. */
    | {
        readonly kind: 'upgrade';
        readonly upgrade: HandedUpgrade;
        /** The other replicas that had older streams of its node when it came. */
        readonly elsewhere: readonly string[];
        /** The ephemeral key of its handshake. */
        readonly ephemeral: Buffer | undefined;
      };
}

/** @param now when it is sent. Only durations travel, because each process has a clock of its own. */
export function writeHanded({ stream, path, contests, known, carries }: Handed, now: Instant): JsonFields {
  const ago = (at: Instant | undefined): number | undefined => (at === undefined ? undefined : now - at);
  const { id, kind, machineKey, capabilityVersion, address, remoteAddress, bytesReceived, bytesSent, wouldSever } =
    stream;
  return {
    ...{ format: 1, id, kind, capabilityVersion, address, remoteAddress, bytesReceived, bytesSent, wouldSever, path },
    machineKey: machineKey && formatMachineKey(machineKey),
    replicas: known,
    openedAgoMs: ago(stream.openedAt),
    heardAgoMs: ago(stream.heardAt),
    loginEndedAgoMs: ago(stream.loginEndedAt),
    spokenAgoMs: ago(stream.spokenAt),
    firstRecordAgoMs: ago(stream.firstRecordAt),
    contests: [...contests].map(([other, since]) => ({ stream: other, openedAgoMs: ago(since) })),
    ...(carries.kind === 'session'
      ? { session: { unansweredBytes: carries.unansweredBytes } }
      : { upgrade: writeUpgrade(carries) }),
  };
}

function writeUpgrade({ upgrade, elsewhere, ephemeral }: Extract<Handed['carries'], { kind: 'upgrade' }>): JsonFields {
  const { early, ...head } = upgrade;
  return { ...head, early: early.toString('base64'), elsewhere, ephemeral: ephemeral?.toString('base64') };
}

/** @param now when it was received. @returns undefined if this version does not understand it. */
export function readHanded(fields: JsonFields, now: Instant): Handed | undefined {
  try {
    return fields.format === 1 ? readFormat1(fields, now) : undefined;
  } catch (error) {
    if (error instanceof Misfit) return undefined;
    throw error;
  }
}

/** A field is missing or has another type or value than this version knows. */
class Misfit extends Error {}

function readFormat1(fields: JsonFields, now: Instant): Handed {
  const at = (name: string): Instant => plus(now, -numberIn(fields, name));
  const maybeAt = (name: string): Instant | undefined => (fields[name] === undefined ? undefined : at(name));
  const session = fields.session === undefined ? undefined : fieldsOf(fields.session);
  const loginEndedAt = maybeAt('loginEndedAgoMs');
  const stream: Stream = {
    id: numberIn(fields, 'id') as StreamId,
    kind: oneOf(fields.kind, STREAM_KINDS),
    machineKey: fields.machineKey === undefined ? undefined : known(parseMachineKey(textIn(fields, 'machineKey'))),
    capabilityVersion: fields.capabilityVersion === undefined ? undefined : numberIn(fields, 'capabilityVersion'),
    address: textIn(fields, 'address'),
    remoteAddress: textIn(fields, 'remoteAddress'),
    openedAt: at('openedAgoMs'),
    heardAt: at('heardAgoMs'),
    ...(loginEndedAt !== undefined && { loginEndedAt }),
    spokenAt: maybeAt('spokenAgoMs'),
    firstRecordAt: maybeAt('firstRecordAgoMs'),
    bytesReceived: numberIn(fields, 'bytesReceived'),
    bytesSent: numberIn(fields, 'bytesSent'),
    state: session === undefined ? { kind: 'connecting' } : { kind: 'open' },
    wouldSever: fields.wouldSever === undefined ? undefined : oneOf(fields.wouldSever, SEVER_REASONS),
  };
  const contests = listIn(fields, 'contests')
    .map(fieldsOf)
    .map((contest) => {
      return [numberIn(contest, 'stream') as StreamId, plus(now, -numberIn(contest, 'openedAgoMs'))] as const;
    });
  return {
    ...{ stream, path: pathIn(fieldsOf(fields.path)), contests: new Map(contests) },
    known: fields.replicas === undefined ? undefined : fieldsOf(fields.replicas),
    carries:
      session === undefined
        ? readUpgrade(fieldsOf(fields.upgrade))
        : { kind: 'session', unansweredBytes: numberIn(session, 'unansweredBytes') },
  };
}

function readUpgrade(fields: JsonFields): Handed['carries'] {
  const protocol = textIn(fields, 'protocol');
  if (!isProtocol(protocol)) throw new Misfit();
  const rawHeaders = listIn(fields, 'rawHeaders').map(text);
  const upgrade: HandedUpgrade = {
    ...{ method: textIn(fields, 'method'), url: textIn(fields, 'url'), httpMinor: numberIn(fields, 'httpMinor') },
    ...{ rawHeaders, protocol, early: Buffer.from(textIn(fields, 'early'), 'base64') },
  };
  const ephemeral = fields.ephemeral === undefined ? undefined : Buffer.from(textIn(fields, 'ephemeral'), 'base64');
  return { kind: 'upgrade', upgrade, ephemeral, elsewhere: listIn(fields, 'elsewhere').map(text) };
}

function pathIn(fields: JsonFields): ClientPath {
  const kind = oneOf(fields.kind, ['direct', 'one_proxy', 'several_proxies', 'address_hidden'] as const);
  if (kind === 'direct') return { kind };
  const proxy = connectionIn(fieldsOf(fields.proxy));
  if (kind !== 'one_proxy') return { kind, proxy };
  const { port, ...client } = { port: undefined, ...fieldsOf(fields.client) };
  return {
    ...{ kind, proxy },
    client: { address: textIn(client, 'address'), port: port === undefined ? undefined : number(port) },
    listener: fields.listener === undefined ? undefined : endpointIn(fieldsOf(fields.listener)),
  };
}

function connectionIn(fields: JsonFields): Connection {
  return { local: endpointIn(fieldsOf(fields.local)), remote: endpointIn(fieldsOf(fields.remote)) };
}

function endpointIn(fields: JsonFields): Connection['local'] {
  return { address: textIn(fields, 'address'), port: numberIn(fields, 'port') };
}

function known<T>(value: T | undefined): T {
  if (value === undefined) throw new Misfit();
  return value;
}

function number(value: unknown): number {
  return known(typeof value === 'number' && Number.isFinite(value) ? value : undefined);
}

function text(value: unknown): string {
  return known(typeof value === 'string' ? value : undefined);
}

function numberIn(fields: JsonFields, name: string): number {
  return number(fields[name]);
}

function textIn(fields: JsonFields, name: string): string {
  return text(fields[name]);
}

function listIn(fields: JsonFields, name: string): readonly unknown[] {
  const value = fields[name];
  return known(Array.isArray(value) ? value : undefined);
}

function oneOf<T extends string>(value: unknown, values: readonly T[]): T {
  return known(values.find((each) => each === value));
}
