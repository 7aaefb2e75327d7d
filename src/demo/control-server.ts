import { createServer, type IncomingMessage, type Server } from 'node:http';
import { performServerHandshake } from 'node:http2';
import { type AddressInfo, isIPv4 } from 'node:net';
import type { Duplex } from 'node:stream';
import { formatMachineKey, machineKeyOf } from '../identity/keys.ts';
import { formatNoiseKey, type NoiseKey } from '../identity/noise.ts';
import { addressAndPort } from '../lib/addresses.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import { StartError } from '../lib/errors.ts';
import {
  type ControlClient,
  ControlNodes,
  type ControlStream,
  hostnameOf,
  MapStreams,
  type OnControlEvent,
  type SecondStream,
} from './control-state.ts';
import { answerMachineRequest, type MachineApi } from './machine-api.ts';
import { connectNoise, EARLY_PAYLOAD_SINCE_VERSION, earlyPayload } from './noise-connection.ts';
import { answerHandshake, formatNoiseKeyFile, generateNoiseKey } from './noise-handshake.ts';
import { startStunResponder } from './stun-responder.ts';

/**
 * A stand-in for Headscale. It speaks enough of the control protocol that a real tailscaled logs in and stays connected.
 *
 * As in Headscale: the Noise handshake with its early payload, HTTP/2 inside, the answers to `/key`, `/health` and
 * `/version`, the map stream with its keepalives, what happens to a node's second map stream, and what a refusing version tells
 * a node about itself (see `MapStreams`).
 * Different from Headscale:
 *
 * - Every client is logged in at once. Auth keys are ignored, node keys never expire, nothing is written to disk.
 * - Every node is alone: there are no peers, no DNS and no policy. Of the API there is only the list of nodes, and only if there is a key for it. The map has one relay, which only answers STUN, and
 *   it switches off captive portal detection. A client needs both to reach Running without the Internet.
 * - There is no TLS and no WebSocket (`GET /ts2021`), so browser clients cannot connect.
 * - An upgrade request must have `upgrade` in its `Connection` header. Headscale does not require that.
 * - TCP keepalive is off. Headscale probes idle connections every 15 s, nine times. Node would give up after ten probes one
 *   second apart, which is too soon. Headscale's keepalive messages are under way long before its probes have failed, so
 *   there, too, only the kernel's retransmission limit counts.
 * - A map request that is neither a stream, nor read-only, nor an update gets one full map. Headscale 0.23.0-alpha10 would
 *   send it keepalives for ever. No client sends such a request.
 */

export interface ControlServerOptions {
  /** Default: 127.0.0.1. */
  readonly host?: string;
  /** Default: 0, any free port. */
  readonly port?: number;
  readonly secondStream: SecondStream;
  /** Time between two keepalives of a stream, in milliseconds. Default: 50 to 59 s, random for each stream, as in Headscale. */
  readonly keepaliveMs?: number;
  /** Where the STUN responder listens (IPv4, any free port). Default: `host`. */
  readonly stunHost?: string;
  /** Default: a new key. */
  readonly noiseKey?: NoiseKey;
  /** With it, the API lists the nodes. Default: there is no API. */
  readonly apiKey?: string;
  readonly clock?: Clock;
  readonly onEvent?: OnControlEvent;
}

export interface ControlServer {
  readonly url: URL;
  /** The content of Headscale's `noise_private.key`. */
  noiseKeyFile(): Buffer;
  /** How many map streams have been refused so far. */
  readonly refusals: number;
  /** The open map streams. */
  streams(): readonly ControlStream[];
  /** Closes every connection, and resolves when all have closed. */
  close(): Promise<void>;
}

const LOOPBACK = '127.0.0.1';
const KEEPALIVE_MS = 50_000;
const KEEPALIVE_SPREAD_MS = 9_000;

/** @throws StartError if it cannot listen. */
export async function startControlServer(options: ControlServerOptions): Promise<ControlServer> {
  const { host = LOOPBACK, port = 0, secondStream, keepaliveMs, clock = systemClock, onEvent = () => {} } = options;
  const noiseKey = options.noiseKey ?? generateNoiseKey();
  const mapStreams = new MapStreams(secondStream, clock, onEvent);
  const nodes = new ControlNodes();
  const stun = await startStunResponder(options.stunHost ?? host);
  const sessions = new ControlSessions(noiseKey, {
    clock,
    nodes,
    mapStreams,
    emit: onEvent,
    relayFor: ({ reachedAt }) => ({ address: reachedAt ?? LOOPBACK, stunPort: stun.port }),
    keepaliveMs: () => keepaliveMs ?? headscaleKeepaliveMs(),
  });
  const { apiKey } = options;
  const server = httpServer(sessions, (request) =>
    apiKey !== undefined && request.url === '/api/v1/node'
      ? answerNodes(apiKey, request, nodes, mapStreams)
      : answerPlain(noiseKey, secondStream, request),
  );
  const address = await listen(server, host, port).catch(async (error) => {
    await stun.close();
    throw error;
  });
  const close = async (): Promise<void> => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeAllConnections();
    await Promise.all([sessions.close(), stun.close(), closed]);
  };
  let closing: Promise<void> | undefined;
  return {
    url: new URL(`http://${addressAndPort(host, address.port)}`),
    noiseKeyFile: () => formatNoiseKeyFile(noiseKey),
    get refusals() {
      return mapStreams.refusals;
    },
    streams: () => mapStreams.list(),
    close() {
      closing ??= close();
      return closing;
    },
  };
}

/** 50 to 59 s, random for each stream. Source: headscale `hscontrol/poll.go`, keepAliveInterval. */
function headscaleKeepaliveMs(): number {
  return KEEPALIVE_MS + Math.floor(Math.random() * KEEPALIVE_SPREAD_MS);
}

function httpServer(sessions: ControlSessions, answer: (request: IncomingMessage) => PlainAnswer): Server {
  const server = createServer((request, response) => {
    const { status, type, body } = answer(request);
    request.resume();
    response.writeHead(status, type === undefined ? {} : { 'content-type': type }).end(body);
  });
  server.on('upgrade', (request, socket, head) => upgrade(sessions, request, socket, head));
  return server;
}

async function listen(server: Server, host: string, port: number): Promise<AddressInfo> {
  return await new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      reject(
        new StartError('HSW_LISTEN_FAILED', `The control server cannot listen on ${host}:${port}: ${cause.message}`, {
          cause,
        }),
      );
    });
    server.listen(port, host, () => resolve(server.address() as AddressInfo));
  });
}

function upgrade(sessions: ControlSessions, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  const handshake = request.headers['x-tailscale-handshake'];
  const isControl =
    request.method === 'POST' &&
    request.url === '/ts2021' &&
    request.headers.upgrade?.toLowerCase() === 'tailscale-control-protocol';
  socket.on('error', () => socket.destroy());
  if (!isControl || typeof handshake !== 'string') {
    socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n', () => socket.destroy());
    return;
  }
  const reachedBy = request.headers.host?.replace(/:\d+$/, '') ?? '';
  sessions.begin(socket, head, handshake, {
    remoteAddress: request.socket.remoteAddress ?? 'unknown',
    reachedAt: isIPv4(reachedBy) ? reachedBy : undefined,
  });
}

interface PlainAnswer {
  readonly status: number;
  readonly type?: string;
  readonly body?: string;
}

const NOISE_SINCE_VERSION = 39;
const LEGACY_KEY = formatMachineKey(machineKeyOf(Buffer.alloc(32)));
const VERSION = {
  version: 'v0.29.2',
  commit: 'stand-in',
  buildTime: '1970-01-01T00:00:00Z',
  go: { version: 'none', os: process.platform, arch: process.arch },
  dirty: false,
};

/** Answers requests outside of Noise sessions. Source: headscale `hscontrol/handlers.go`, 0.23.0-alpha10 and 0.29.2. */
function answerPlain(noiseKey: NoiseKey, secondStream: SecondStream, request: IncomingMessage): PlainAnswer {
  const [path, query] = (request.url ?? '/').split('?');
  switch (`${request.method} ${path}`) {
    case 'GET /key':
      return answerKey(noiseKey, new URLSearchParams(query).get('v'));
    case 'GET /health':
      return json('application/health+json; charset=utf-8', { status: 'pass' });
    case 'GET /version':
      // `/version` exists since 0.27. Versions that refuse a second stream are older.
      return secondStream === 'accept' ? json('application/json', VERSION) : { status: 404 };
    case 'POST /ts2021':
      // The client is behind a proxy that does not pass upgrades on.
      return { status: 500, type: 'text/plain; charset=utf-8', body: 'Internal error\n' };
    default:
      return { status: 404 };
  }
}

/** Source: headscale `proto/headscale/v1/node.proto`. */
function answerNodes(apiKey: string, request: IncomingMessage, nodes: ControlNodes, streams: MapStreams): PlainAnswer {
  if (request.headers.authorization !== `Bearer ${apiKey}`) return { status: 401, body: 'Unauthorized' };
  const online = new Set(streams.list().map(({ client }) => client.machineKey));
  const listed = nodes.all().map((node) => ({
    ...{ id: String(node.id), machineKey: formatMachineKey(node.machineKey), nodeKey: node.report.NodeKey },
    ...{ name: hostnameOf(node), givenName: hostnameOf(node), user: { name: 'demo' }, ipAddresses: [] },
    ...{ online: online.has(node.machineKey), expiry: null, preAuthKey: null },
  }));
  return json('application/json', { nodes: listed });
}

function answerKey(noiseKey: NoiseKey, version: string | null): PlainAnswer {
  const clientVersion = Number.parseInt(version ?? '', 10);
  if (Number.isNaN(clientVersion)) return { status: 500, type: 'text/plain; charset=utf-8' };
  if (clientVersion < NOISE_SINCE_VERSION) return { status: 200 };
  return json('application/json', { legacyPublicKey: LEGACY_KEY, publicKey: formatNoiseKey(noiseKey) });
}

function json(type: string, value: object): PlainAnswer {
  return { status: 200, type, body: `${JSON.stringify(value)}\n` };
}

const SWITCHING =
  'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tailscale-control-protocol\r\n\r\n';

/** The Noise sessions of a control server, each from the upgrade to the end of its connection. */
class ControlSessions {
  readonly #noiseKey: NoiseKey;
  readonly #api: MachineApi;
  readonly #open = new Map<Duplex, Promise<void>>();
  #lastId = 0;

  constructor(noiseKey: NoiseKey, api: MachineApi) {
    this.#noiseKey = noiseKey;
    this.#api = api;
  }

  /** Answers the handshake (base64) of an upgrade request on its socket, and serves HTTP/2 inside the session. */
  begin(
    socket: Duplex,
    head: Buffer,
    handshake: string,
    from: Pick<ControlClient, 'remoteAddress' | 'reachedAt'>,
  ): void {
    const { clock, emit } = this.#api;
    const now = (): Date => clock.dateOf(clock.now());
    this.#open.set(socket, new Promise((resolve) => socket.once('close', resolve)));
    socket.once('close', () => this.#open.delete(socket));
    const answer = answerHandshake(this.#noiseKey, handshake);
    // Headscale sends 101 before it reads the handshake. If the handshake is invalid, it closes the connection without an answer.
    socket.write(SWITCHING);
    if (!answer.ok) {
      emit({ kind: 'handshake failed', at: now(), remoteAddress: from.remoteAddress, why: answer.why });
      socket.end(() => socket.destroy());
      return;
    }
    socket.write(answer.response);
    if (head.length > 0) socket.unshift(head);
    const client: ControlClient = { sessionId: ++this.#lastId, machineKey: answer.machineKey, ...from };
    emit({ kind: 'session opened', at: now(), client });
    socket.once('close', () => emit({ kind: 'session closed', at: now(), client }));
    const { duplex } = connectNoise(socket, answer.keys);
    if (answer.version >= EARLY_PAYLOAD_SINCE_VERSION) duplex.write(earlyPayload());
    this.#serve(duplex, client);
  }

  #serve(duplex: Duplex, client: ControlClient): void {
    const session = performServerHandshake(duplex);
    session.on('stream', (stream, headers) => void answerMachineRequest(this.#api, client, stream, headers));
    // When the client sends FIN, Node's HTTP/2 session closes with all its streams, as Go's does.
    duplex.once('close', () => session.destroy());
    duplex.on('error', () => session.destroy());
    session.on('error', () => duplex.destroy());
    session.once('close', () => duplex.destroy());
  }

  /** Ends every session at once, and resolves when all sockets have closed. */
  async close(): Promise<void> {
    const closed = [...this.#open.values()];
    for (const socket of this.#open.keys()) socket.destroy();
    await Promise.all(closed);
  }
}
