/**
 * A stand-in for Headscale: enough of its client side that a real tailscaled logs in and stays connected.
 *
 * The same as in a real one: the Noise handshake with its early payload, HTTP/2 inside, the answers to `/key`,
 * `/health` and `/version`, the map stream with its keepalives, and above all what happens to a second map
 * stream of a node (see map-streams.ts). What differs:
 *
 * - Whoever asks is logged in at once; auth keys are not looked at, node keys never expire, nothing is kept on disk.
 * - Every node is alone: no peers, no DNS, no policy, no API. Of the one relay in its map only the STUN half exists, and
 *   it is told not to look for captive portals: what a client needs to reach Running without the Internet.
 * - No TLS, and no WebSocket (`GET /ts2021`): browser clients cannot connect.
 * - The upgrade must name `upgrade` in `Connection`; Headscale does not insist.
 * - Headscale probes idle connections by TCP keepalive every 15 s, nine times. Here nobody does: Node would give
 *   up after ten probes a second apart, far sooner than Headscale, whose own keepalive messages are on the way by
 *   then, so that only the kernel's limit for retransmissions counts, as it does here.
 * - A map request that is neither a stream, nor read-only, nor an update gets one full map; 0.23.0-alpha10 would
 *   send it keepalives for ever. No client sends one.
 */
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { type AddressInfo, isIPv4 } from 'node:net';
import type { Duplex } from 'node:stream';
import type { NoiseKey } from '../identity/machine-key.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import { StartError } from '../lib/errors.ts';
import { addressAndPort } from '../proxy/forwarded.ts';
import type { ControlStream, OnControlEvent } from './control-events.ts';
import { ControlNodes } from './control-nodes.ts';
import { answerPlain } from './control-plain.ts';
import { ControlSessions } from './control-sessions.ts';
import { MapStreams, type SecondStream } from './map-streams.ts';
import { formatNoiseKeyFile, generateNoiseKey } from './noise-key.ts';
import { startStunResponder } from './stun-responder.ts';

export interface ControlServerOptions {
  /** Default: 127.0.0.1. */
  readonly host?: string;
  /** Default: 0, any free one. */
  readonly port?: number;
  readonly secondStream: SecondStream;
  /** Between two keepalives of a stream, in milliseconds. Default: 50 to 59 s, drawn for each stream, as Headscale does. */
  readonly keepaliveMs?: number;
  /** Where the STUN responder listens (IPv4, any free port). Default: `host`. */
  readonly stunHost?: string;
  /** Default: a fresh one. */
  readonly noiseKey?: NoiseKey;
  readonly clock?: Clock;
  readonly onEvent?: OnControlEvent;
}

export interface ControlServer {
  readonly url: URL;
  /** What a real Headscale would have in `noise_private.key`. */
  noiseKeyFile(): Buffer;
  /** How many map streams have been refused so far. */
  readonly refusals: number;
  /** The open map streams. */
  streams(): readonly ControlStream[];
  /** Ends every connection, and resolves when nothing is left. */
  close(): Promise<void>;
}

const LOOPBACK = '127.0.0.1';
const KEEPALIVE_MS = 50_000;
const KEEPALIVE_SPREAD_MS = 9_000;

/** @throws {StartError} when it cannot listen. */
export async function startControlServer(options: ControlServerOptions): Promise<ControlServer> {
  const { host = LOOPBACK, port = 0, secondStream, keepaliveMs, clock = systemClock, onEvent = () => {} } = options;
  const noiseKey = options.noiseKey ?? generateNoiseKey();
  const mapStreams = new MapStreams(secondStream, clock, onEvent);
  const stun = await startStunResponder(options.stunHost ?? host);
  const sessions = new ControlSessions(noiseKey, {
    clock,
    nodes: new ControlNodes(),
    mapStreams,
    emit: onEvent,
    relayFor: ({ reachedAt }) => ({ address: reachedAt ?? LOOPBACK, stunPort: stun.port }),
    keepaliveMs: () => keepaliveMs ?? headscaleKeepaliveMs(),
  });
  const server = httpServer(noiseKey, secondStream, sessions);
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

/** 50 s and up to nine more, drawn anew for each stream (`hscontrol/poll.go`, keepAliveInterval). */
function headscaleKeepaliveMs(): number {
  return KEEPALIVE_MS + Math.floor(Math.random() * KEEPALIVE_SPREAD_MS);
}

function httpServer(noiseKey: NoiseKey, secondStream: SecondStream, sessions: ControlSessions): Server {
  const server = createServer((request, response) => {
    const { status, type, body } = answerPlain(noiseKey, secondStream, request);
    request.resume();
    response.writeHead(status, type === undefined ? {} : { 'content-type': type }).end(body);
  });
  server.on('upgrade', (request, socket, head) => upgrade(sessions, request, socket, head));
  return server;
}

async function listen(server: Server, host: string, port: number): Promise<AddressInfo> {
  return await new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      reject(new StartError(`The control server cannot listen on ${host}:${port}: ${cause.message}`, { cause }));
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
