import type { ClientRequest } from 'node:http';
import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { hostAndPortOf } from '../lib/addresses.ts';
import { NoAnswerError } from '../lib/errors.ts';
import { OpenConnections } from '../lib/open-connections.ts';

/** Tailscale clients give up on a control connection after ten seconds. They get their 502 before that. */
const CONNECT_TIMEOUT_MS = 5000;

/** Where Headscale is, and how to connect to it. */
export interface Upstream {
  readonly url: URL;
  readonly host: string;
  readonly port: number;
  /**
   * Opens a connection, which fails if it is not established within five seconds. Half-open is allowed, so that the
   * FIN of each side can be passed on separately.
   */
  connect(): Socket;
  /** All open connections to Headscale. Shutdown closes those that are left. */
  readonly connections: OpenConnections;
}

/**
 * @param url `http://host[:port]` or `https://host[:port]`, without a path.
 * @param keepAlive sets the TCP keepalive of a new connection.
 */
export function upstreamOf(url: URL, keepAlive: (socket: Socket) => void = () => {}): Upstream {
  const tls = url.protocol === 'https:';
  const { host, port } = hostAndPortOf(url);
  const options = { host, port, allowHalfOpen: true, noDelay: true };
  // The certificate must match the host in the URL, not the host that the client asked for. SNI does not allow addresses.
  const tlsOptions = { ...options, servername: isIP(host) ? '' : host, ALPNProtocols: ['http/1.1'] };
  const connections = new OpenConnections();
  const connect = (): Socket => {
    const socket = tls
      ? withDeadline(connectTls(tlsOptions), 'secureConnect')
      : withDeadline(connectTcp(options), 'connect');
    connections.add(socket);
    return socket.once('connect', () => keepAlive(socket));
  };
  return { url, host, port, connect, connections };
}

function withDeadline(socket: Socket, connected: 'connect' | 'secureConnect'): Socket {
  let isAccepted = false;
  socket.once('connect', () => {
    isAccepted = true;
  });
  const giveUp = (): void => {
    const within = `within ${CONNECT_TIMEOUT_MS / 1000} s`;
    socket.destroy(isAccepted ? new NoAnswerError(`no TLS session ${within}`) : new Error(`no connection ${within}`));
  };
  // After `setTimeout`, a socket keeps its timer in memory for as long as it lives.
  const timer = setTimeout(giveUp, CONNECT_TIMEOUT_MS).unref();
  const over = (): void => {
    clearTimeout(timer);
    socket.off(connected, over).off('close', over);
  };
  // A client that leaves meanwhile ends it without an error. The timer would keep it in memory for its five seconds.
  socket.on(connected, over).on('close', over);
  return socket;
}

/** A request that waits for Headscale's answer. */
export interface PendingAnswer {
  /** The whole request has been sent. */
  sent(): void;
  answered(): void;
  /** The request is over, with or without an answer. */
  ended(): void;
}

/** Starts waiting for Headscale's answer to a request. @param giveUp is called when Headscale will not answer it. */
export type AwaitAnswer = (giveUp: () => void) => PendingAnswer;

/** Ends a request with a `NoAnswerError` when Headscale does not answer it. */
export function limitAnswerTime(request: ClientRequest, awaitAnswer: AwaitAnswer): void {
  const pending = awaitAnswer(() => request.destroy(new NoAnswerError('Headscale does not answer')));
  request.once('finish', () => pending.sent());
  for (const answer of ['upgrade', 'response'] as const) request.once(answer, () => pending.answered());
  request.once('close', () => pending.ended());
}

/** What the client gets when Headscale has not answered. */
export function gatewayAnswer(error: unknown): { readonly status: 502 | 504; readonly text: string } {
  return error instanceof NoAnswerError
    ? { status: 504, text: 'Headscale does not answer.' }
    : { status: 502, text: 'Headscale cannot be reached.' };
}
