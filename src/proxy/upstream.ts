import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { hostAndPortOf } from '../lib/addresses.ts';
import { NoAnswerError } from '../lib/errors.ts';
import { OpenConnections } from '../lib/open-connections.ts';

/** A client gives up on its control connection after ten seconds: by then it should have its 502. */
const CONNECTS_WITHIN_MS = 5000;

/** Where Headscale is, and how to connect to it. */
export interface Upstream {
  readonly url: URL;
  readonly host: string;
  readonly port: number;
  /**
   * A connection that fails when it has not come about in five seconds. Half-open is allowed, so that each side's FIN
   * can be passed on by itself.
   */
  connect(): Socket;
  /** A stop ends what is left of them. */
  readonly connections: OpenConnections;
}

/**
 * @param url `http://host[:port]` or `https://host[:port]`, without a path.
 * @param keepAlive sets the TCP keepalive of a connection once there is one.
 */
export function upstreamOf(url: URL, keepAlive: (socket: Socket) => void = () => {}): Upstream {
  const tls = url.protocol === 'https:';
  const { host, port } = hostAndPortOf(url);
  const options = { host, port, allowHalfOpen: true, noDelay: true };
  // The certificate is that of the host in the URL, whatever host the client asked for. An address is no server name.
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
    const within = `within ${CONNECTS_WITHIN_MS / 1000} s`;
    socket.destroy(isAccepted ? new NoAnswerError(`no TLS session ${within}`) : new Error(`no connection ${within}`));
  };
  socket.setTimeout(CONNECTS_WITHIN_MS, giveUp);
  socket.once(connected, () => socket.setTimeout(0, giveUp));
  return socket;
}

/** What a client is answered when Headscale has not answered. */
export function gatewayAnswer(error: unknown): { readonly status: 502 | 504; readonly text: string } {
  return error instanceof NoAnswerError
    ? { status: 504, text: 'Headscale does not answer.' }
    : { status: 502, text: 'Headscale cannot be reached.' };
}
