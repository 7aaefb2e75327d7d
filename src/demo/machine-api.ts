import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { formatMachineKey } from '../identity/keys.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { hasFields, parseJson } from '../lib/json.ts';
import {
  type ControlClient,
  type ControlNode,
  type ControlNodes,
  hostnameOf,
  type MapStreams,
  type NodeReport,
  type OnControlEvent,
} from './control-state.ts';

/** What all Noise sessions of a control server share. */
export interface MachineApi {
  readonly clock: Clock;
  readonly nodes: ControlNodes;
  readonly mapStreams: MapStreams;
  readonly emit: OnControlEvent;
  /** Time between two keepalives of a map stream, in milliseconds. Called once for each stream. */
  keepaliveMs(): number;
  relayFor(client: ControlClient): Relay;
}

interface RegisterRequest extends NodeReport {
  readonly Expiry?: string;
}

interface MapRequest extends NodeReport {
  readonly Version?: number;
  readonly Compress?: string;
  readonly Stream?: boolean;
  readonly ReadOnly?: boolean;
  readonly OmitPeers?: boolean;
}

const OLDEST_VERSION = 58;
const MAX_REQUEST_BYTES = 4 * 1024 * 1024;

/** Answers one request of a client inside its Noise session. */
export async function answerMachineRequest(
  api: MachineApi,
  client: ControlClient,
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
): Promise<void> {
  // When a client resets a stream, 'error' comes before 'close'. Only 'close' matters here.
  stream.on('error', () => {});
  const body = await jsonBodyOf(stream);
  if (stream.destroyed) return;
  const route = `${headers[':method']} ${headers[':path']}`;
  if (body === undefined) refuseWith(stream, 500);
  else if (route === 'POST /machine/register') register(api, client, stream, body);
  else if (headers[':path'] === '/machine/map') answerMap(api, client, stream, body);
  else refuseWith(stream, 404);
}

function register(api: MachineApi, client: ControlClient, stream: ServerHttp2Stream, request: RegisterRequest): void {
  const now = api.clock.dateOf(api.clock.now());
  const expiry = Date.parse(request.Expiry ?? '');
  // A client logs out with an expiry in the past. Go's zero time means that there is no expiry.
  if (expiry > 0 && expiry < now.getTime()) {
    api.nodes.forget(client.machineKey);
    respondJson(stream, loggedOut());
    return;
  }
  const { NodeKey, Hostinfo } = request;
  const node = api.nodes.save(client.machineKey, withoutGaps({ NodeKey, Hostinfo }), now);
  api.emit({ kind: 'registered', at: now, client, hostname: hostnameOf(node) });
  respondJson(stream, loggedIn());
}

/** Answers a map request. The order of the cases is that of Headscale 0.23.0-alpha10 (`hscontrol/poll.go`, serve). */
function answerMap(api: MachineApi, client: ControlClient, stream: ServerHttp2Stream, request: MapRequest): void {
  const { Version: version = 0, Stream, ReadOnly, OmitPeers } = request;
  const node = api.nodes.get(client.machineKey);
  if (version < OLDEST_VERSION) refuseWith(stream, 400);
  else if (node === undefined) refuseWith(stream, 500);
  else if (Stream) openMapStream(api, client, stream, node, request);
  else if (OmitPeers && !ReadOnly) update(api, client, stream, request);
  else {
    const now = api.clock.dateOf(api.clock.now());
    const relay = api.relayFor(client);
    const message = OmitPeers ? selfMap(node, version, relay, now) : fullMap(node, version, relay, now);
    stream.respond({ ':status': 200, 'content-type': 'application/json; charset=utf-8' });
    stream.end(encodeMapMessage(message, request.Compress));
  }
}

/** Saves what a client reports about itself while its stream is open. */
function update(api: MachineApi, client: ControlClient, stream: ServerHttp2Stream, request: MapRequest): void {
  const { NodeKey, DiscoKey, Endpoints, Hostinfo } = request;
  const report = withoutGaps({ NodeKey, DiscoKey, Endpoints, Hostinfo });
  api.mapStreams.nodeChanged(api.nodes.save(client.machineKey, report, api.clock.dateOf(api.clock.now())));
  respondEmpty(stream);
}

function openMapStream(
  api: MachineApi,
  client: ControlClient,
  stream: ServerHttp2Stream,
  node: ControlNode,
  request: MapRequest,
): void {
  const { clock } = api;
  const now = (): Date => clock.dateOf(clock.now());
  const send = (message: object): void => {
    stream.write(encodeMapMessage(message, request.Compress));
  };
  // A read-only stream is served like any other, but does not count as the node's stream.
  const end = request.ReadOnly ? () => {} : api.mapStreams.open(client, node, () => send(selfChange(now())));
  if (end === undefined) {
    respondEmpty(stream);
    return;
  }
  stream.once('close', end);
  const intervalMs = api.keepaliveMs();
  let timer: Timer;
  const keepAlive = (): void => {
    timer = clock.after(intervalMs, () => {
      send(keepalive(now()));
      keepAlive();
    });
  };
  stream.respond({ ':status': 200 });
  send(fullMap(node, request.Version ?? 0, api.relayFor(client), now()));
  keepAlive();
  stream.once('close', () => timer.cancel());
}

function respondJson(stream: ServerHttp2Stream, answer: object): void {
  stream.respond({ ':status': 200, 'content-type': 'application/json; charset=utf-8' });
  stream.end(JSON.stringify(answer));
}

function respondEmpty(stream: ServerHttp2Stream): void {
  stream.respond({ ':status': 200, 'content-length': 0 }, { endStream: true });
}

function refuseWith(stream: ServerHttp2Stream, status: number): void {
  stream.respond({ ':status': status, 'content-type': 'text/plain; charset=utf-8' });
  stream.end('Internal error\n');
}

/** Reads a request's JSON object. @returns undefined if there is none, or if it is too long. */
async function jsonBodyOf(stream: ServerHttp2Stream): Promise<object | undefined> {
  try {
    const chunks: Buffer[] = [];
    let length = 0;
    for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > MAX_REQUEST_BYTES) return undefined;
    }
    const value = parseJson(Buffer.concat(chunks).toString());
    return hasFields(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Removes fields that the request leaves out, so that they do not erase known values. */
function withoutGaps(report: { [Key in keyof NodeReport]: NodeReport[Key] | undefined }): NodeReport {
  return Object.fromEntries(Object.entries(report).filter(([, value]) => value !== undefined)) as NodeReport;
}

const USER = { ID: 1, LoginName: 'demo', DisplayName: 'demo' };
const NEVER = '0001-01-01T00:00:00Z';

const RELAY_REGION = 900;
const DISCARD_PORT = 9;

/** The relay in a client's map. Only its STUN side exists: nothing listens on its relay port, and nothing needs to. */
interface Relay {
  /** An IPv4 address that the client can reach. */
  readonly address: string;
  readonly stunPort: number;
}

/** The answer to a register request: every client is logged in. */
function loggedIn(): object {
  return {
    User: { ID: USER.ID, DisplayName: USER.DisplayName, Created: NEVER },
    Login: { ID: USER.ID, Provider: '', LoginName: USER.LoginName, DisplayName: USER.DisplayName },
    NodeKeyExpired: false,
    MachineAuthorized: true,
    AuthURL: '',
  };
}

/** The answer to a register request that logs out. */
function loggedOut(): object {
  return { ...loggedIn(), NodeKeyExpired: true, MachineAuthorized: false };
}

const RULES = {
  PacketFilter: [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65535 } }] }],
  SSHPolicy: { rules: [] },
};

/** The first message of a map stream: the node itself, no peers, and a packet filter that allows everything. */
function fullMap(node: ControlNode, version: number, relay: Relay, now: Date): object {
  return {
    ...selfMap(node, version, relay, now),
    Peers: [],
    DNSConfig: {},
    ...RULES,
    UserProfiles: [USER],
  };
}

/** What a refusing Headscale tells a node about a change of its own: the rules anew, since it is not among its own peers. */
function selfChange(now: Date): object {
  return { ControlTime: now.toISOString(), ...RULES, UserProfiles: [USER] };
}

/** The answer to a read-only request: the node and the relays. */
function selfMap(node: ControlNode, version: number, relay: Relay, now: Date): object {
  return {
    ControlTime: now.toISOString(),
    Node: selfNode(node, version),
    DERPMap: relayMap(relay),
    Domain: 'demo',
    CollectServices: false,
    Debug: { DisableLogTail: true },
  };
}

function keepalive(now: Date): object {
  return { KeepAlive: true, ControlTime: now.toISOString() };
}

/**
 * Encodes a map message for the wire:
 *
 *     0  4  length of what follows, little-endian
 *     4  n  JSON, in a zstd frame if the client asked for it
 *
 * Source: tailscale `control/controlclient/direct.go`.
 */
function encodeMapMessage(message: object, compress: string | undefined): Buffer {
  const json = Buffer.from(JSON.stringify(message));
  const body = compress === 'zstd' ? zstdFrameOf(json) : json;
  const length = Buffer.alloc(4);
  length.writeUInt32LE(body.length);
  return Buffer.concat([length, body]);
}

// A client needs a home relay to reach Running. It chooses the relay that first answers its STUN request.
function relayMap({ address, stunPort }: Relay): object {
  const Name = `${RELAY_REGION}a`;
  const node = { Name, RegionID: RELAY_REGION, HostName: address, IPv4: address, IPv6: 'none' };
  const region = { RegionID: RELAY_REGION, RegionCode: 'nowhere', RegionName: 'Nowhere' };
  const Nodes = [{ ...node, STUNPort: stunPort, DERPPort: DISCARD_PORT }];
  return { OmitDefaultRegions: true, Regions: { [RELAY_REGION]: { ...region, Nodes } } };
}

function selfNode(node: ControlNode, version: number): object {
  const { id, report } = node;
  const name = hostnameOf(node);
  const addresses = [`100.64.${id >> 8}.${id & 0xff}/32`, `fd7a:115c:a1e0::${id.toString(16)}/128`];
  const homeRelay = report.Hostinfo?.NetInfo?.PreferredDERP ?? 0;
  return {
    ID: id,
    StableID: String(id),
    Name: `${name}.demo.`,
    Cap: version,
    User: USER.ID,
    Key: report.NodeKey,
    KeyExpiry: NEVER,
    Machine: formatMachineKey(node.machineKey),
    DiscoKey: report.DiscoKey,
    Addresses: addresses,
    AllowedIPs: addresses,
    Endpoints: report.Endpoints ?? [],
    DERP: `127.3.3.40:${homeRelay}`,
    HomeDERP: homeRelay,
    Hostinfo: report.Hostinfo ?? {},
    Created: node.createdAt.toISOString(),
    MachineAuthorized: true,
    // Captive portal detection would need the Internet, and Running waits for it.
    CapMap: { 'disable-captive-portal-detection': [] },
  };
}

// Format: RFC 8878, sections 3.1.1 (frame) and 3.1.1.2 (blocks).
const MAGIC = 0xfd2fb528;
/** Single segment, content size in four bytes. No window descriptor, dictionary or checksum. */
const FRAME_DESCRIPTOR = 0b1010_0000;
const MAX_BLOCK_LENGTH = 128 * 1024;

/** Puts `content` uncompressed into a zstd frame of raw blocks, for a receiver that requires zstd. */
export function zstdFrameOf(content: Uint8Array): Buffer {
  const header = Buffer.alloc(9);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt8(FRAME_DESCRIPTOR, 4);
  header.writeUInt32LE(content.length, 5);
  const parts: Uint8Array[] = [header];
  let from = 0;
  do {
    const block = content.subarray(from, from + MAX_BLOCK_LENGTH);
    from += block.length;
    const isLast = from >= content.length;
    const blockHeader = Buffer.alloc(3);
    // Bit 0: last block. Bits 1 and 2: type, 0 is raw. The rest: length.
    blockHeader.writeUIntLE((block.length << 3) | (isLast ? 1 : 0), 0, 3);
    parts.push(blockHeader, block);
  } while (from < content.length);
  return Buffer.concat(parts);
}
