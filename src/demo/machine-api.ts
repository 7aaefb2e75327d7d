import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import type { Clock, Timer } from '../lib/clock.ts';
import type { ControlClient, OnControlEvent } from './control-events.ts';
import { type ControlNode, type ControlNodes, hostnameOf, type NodeReport } from './control-nodes.ts';
import { encodeMapMessage, fullMap, keepalive, loggedIn, loggedOut, type Relay, selfMap } from './map-messages.ts';
import type { MapStreams } from './map-streams.ts';

/** What every Noise session of a server shares. */
export interface MachineApi {
  readonly clock: Clock;
  readonly nodes: ControlNodes;
  readonly mapStreams: MapStreams;
  readonly emit: OnControlEvent;
  /** The pause between two keepalives of a map stream, in milliseconds; asked once a stream. */
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
const LONGEST_REQUEST = 4 * 1024 * 1024;

/** Answers one request of a client, inside its Noise session. */
export async function answerMachineRequest(
  api: MachineApi,
  client: ControlClient,
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
): Promise<void> {
  // A stream that a client resets reports an error; its 'close' is all that matters here.
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
  // A client logs out by an expiry long past; the zero time of Go means none at all.
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

/** The kinds of map request, in the order in which Headscale 0.23.0-alpha10 tells them apart (`hscontrol/poll.go`, serve). */
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

/** What a client tells of itself while its stream goes on. */
function update(api: MachineApi, client: ControlClient, stream: ServerHttp2Stream, request: MapRequest): void {
  const { NodeKey, DiscoKey, Endpoints, Hostinfo } = request;
  const report = withoutGaps({ NodeKey, DiscoKey, Endpoints, Hostinfo });
  api.nodes.save(client.machineKey, report, api.clock.dateOf(api.clock.now()));
  respondEmpty(stream);
}

function openMapStream(
  api: MachineApi,
  client: ControlClient,
  stream: ServerHttp2Stream,
  node: ControlNode,
  request: MapRequest,
): void {
  // A read-only stream is served like any other, but does not count.
  const end = request.ReadOnly ? () => {} : api.mapStreams.open(client, node);
  if (end === undefined) {
    respondEmpty(stream);
    return;
  }
  stream.once('close', end);
  streamMap(api, stream, node, request, api.relayFor(client));
}

function streamMap(
  api: MachineApi,
  stream: ServerHttp2Stream,
  node: ControlNode,
  request: MapRequest,
  relay: Relay,
): void {
  const { clock } = api;
  const now = (): Date => clock.dateOf(clock.now());
  const send = (message: object): void => {
    stream.write(encodeMapMessage(message, request.Compress));
  };
  const intervalMs = api.keepaliveMs();
  let timer: Timer;
  const keepAlive = (): void => {
    timer = clock.after(intervalMs, () => {
      send(keepalive(now()));
      keepAlive();
    });
  };
  stream.respond({ ':status': 200 });
  send(fullMap(node, request.Version ?? 0, relay, now()));
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

/** The request's JSON object; undefined when it has none, or is too long to be one. */
async function jsonBodyOf(stream: ServerHttp2Stream): Promise<object | undefined> {
  try {
    const chunks: Buffer[] = [];
    let length = 0;
    for await (const chunk of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > LONGEST_REQUEST) return undefined;
    }
    const value: unknown = JSON.parse(Buffer.concat(chunks).toString());
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

/** Without the fields a request leaves out, so that they do not erase what is known. */
function withoutGaps(report: { [Key in keyof NodeReport]: NodeReport[Key] | undefined }): NodeReport {
  return Object.fromEntries(Object.entries(report).filter(([, value]) => value !== undefined)) as NodeReport;
}
