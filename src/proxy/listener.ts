import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  createServer as createTlsServer,
  type Server as TlsServer,
  type ServerOptions as TlsServerOptions,
} from 'node:https';
import type { Socket } from 'node:net';
import type { Certificate } from '../config/secrets.ts';
import type { Limits, Listen } from '../config/types.ts';
import { plainAddress } from '../lib/addresses.ts';
import { reasonOf } from '../lib/errors.ts';
import { OpenConnections } from '../lib/open-connections.ts';
import type { RefusalReason } from '../streams/events.ts';
import { endToEnd, type ReadRequest, readRequest } from '../streams/request.ts';
import { answerWith, closeAfter, refuseUpgrade, textAnswer, unavailableAnswer } from './answer.ts';
import {
  type FirstBytes,
  type FirstUpgrade,
  readFirstBytes,
  readFirstUpgrade,
  type UpgradeMessage,
  withUpgrade,
} from './first-bytes.ts';
import { forwardedRawHeaders, type Origin, originOf } from './forwarded.ts';
import { answerOwnPage, type OwnPages } from './own-pages.ts';
import { limitBody, type PlainProxy } from './plain.ts';
import { isProxyHeader, ProxyProtocolSources } from './proxy-protocol.ts';
import type { Trust } from './trusted-proxies.ts';
import type { UpgradeRequest } from './tunnel-parts.ts';

const ignore = (): void => {};

/** What a listener hands its connections and requests to, and what it reports. */
export interface ListenerHandlers {
  readonly plain: PlainProxy;
  upgrade(upgrade: UpgradeRequest, origin: Origin): void;
  /** The trusted proxies, read for every connection. */
  trust(): Trust;
  readonly pages: OwnPages;
  refused(because: RefusalReason, why: string, address: string): void;
  /** A request has arrived, see `FrontProxies.requested`. */
  requested(request: UpgradeMessage, sender: string): void;
  /** Admits a connection or not, see `Admission.admitConnection`. */
  connected(address: string | undefined): (() => void) | undefined;
  /** Sets the TCP keepalive of a client with a plain request. A stream gets timeouts of its own. */
  keepAlive(socket: Socket): void;
  /** A request was refused because its body is too large. */
  tooLarge(address: string): void;
  limits(): Pick<Limits, 'bodyBytes'>;
}

export interface ClientListener {
  readonly server: Server;
  readonly listen: Listen;
  /** Uses another certificate for new connections, on a TLS listener. Wipes the key of `certificate`. */
  useCertificate(certificate: Certificate): void;
  readonly unanswered: Unanswered;
  /** All open connections, including those that the HTTP server does not know yet or any more. A stop closes them. */
  readonly connections: OpenConnections;
}

/** Limits that are fixed when the server is created. */
export type ServerLimits = Pick<Limits, 'headerBytes' | 'headerMs' | 'bodyMs'>;

const TLS: TlsServerOptions = { minVersion: 'TLSv1.2', ALPNProtocols: ['http/1.1'] };

/** How often Node looks for slow connections. */
const CHECK_INTERVAL_MS = 1000;

function optionsOf({ headerBytes, headerMs, bodyMs }: ServerLimits) {
  return {
    maxHeaderSize: headerBytes,
    headersTimeout: headerMs,
    requestTimeout: headerMs + bodyMs,
    connectionsCheckingInterval: CHECK_INTERVAL_MS,
  };
}

/**
 * Creates an HTTP server for clients. Upgrades become streams, and all other requests go to the plain proxy, except those that
 * a plain HTTP listener answers itself. A connection passes these steps: PROXY protocol header, TLS, first head, HTTP.
 * Most connections have only the last two. If the first head is a usual upgrade, the last one is skipped, too.
 *
 * @param certificate undefined for plain HTTP. Its key is wiped.
 */
export function createListener(
  listen: Listen,
  certificate: Certificate | undefined,
  limits: ServerLimits,
  handlers: ListenerHandlers,
): ClientListener {
  const options = optionsOf(limits);
  const server: Server =
    certificate === undefined
      ? createServer(options)
      : createTlsServer({ ...TLS, ...options, handshakeTimeout: limits.headerMs, ...pairOf(certificate) });
  certificate?.key.fill(0);
  // No limit: Node would silently drop headers after the first thousand, and with them the length of the body.
  server.maxHeadersCount = 0;
  const sources = new ProxyProtocolSources();
  const connections = new OpenConnections();
  // The last step is added first, because each one is put before the others.
  const serveAgain = before(server, certificate === undefined ? 'connection' : 'secureConnection', (socket, serve) => {
    // As on Node's plain HTTP server, each side closes separately. Not before the TLS handshake is done: the socket of
    // a client that leaves during the handshake would stay open.
    socket.allowHalfOpen = true;
    if (certificate !== undefined) connections.add(socket);
    const slow = (): void => void socket.end(textAnswer(408, 'The head of this request arrived too slowly.'));
    let upgrade: FirstUpgrade | undefined;
    const read = (bytes: Buffer): FirstBytes => {
      if (listen.proxyProtocol || !isProxyHeader(bytes)) {
        upgrade = readFirstUpgrade(bytes, socket, limits.headerBytes);
        return upgrade === undefined ? withUpgrade(bytes) : { kind: 'done', rest: bytes };
      }
      const why =
        'it begins with a PROXY protocol header: add proxy-protocol=true to this listener, or remove send-proxy';
      handlers.refused('unexpected_proxy_header', why, plainAddress(socket.remoteAddress));
      return { kind: 'refuse' };
    };
    readFirstBytes(socket, read, { withinMs: limits.headerMs, slow }, (rest) => {
      if (upgrade !== undefined) {
        const { request, read: found, head } = upgrade;
        // As Node's server does: what arrives now waits until somebody listens.
        (socket as { readableFlowing: boolean | null }).readableFlowing = null;
        passUpgrade({ request, client: socket, head }, found, origin(request), handlers);
        return;
      }
      serve();
      // Node's server listens now. Handing it the bytes is cheaper than putting them back into the socket.
      socket.emit('data', rest);
    });
  });
  if (listen.proxyProtocol) before(server, 'connection', (socket, serve) => sources.read(socket, handlers, serve));
  // This step comes before all others.
  before(server, 'connection', (socket, serve) => {
    const address = plainAddress(socket.remoteAddress);
    const closed = handlers.connected(handlers.trust()(address) ? undefined : address);
    connections.add(socket, closed);
    if (closed === undefined) socket.destroy();
    else serve();
  });
  const origin = (request: UpgradeMessage): Origin => {
    const claimed = sources.of(request.socket);
    handlers.requested(request, claimed?.client.address ?? plainAddress(request.socket.remoteAddress));
    return originOf(request, claimed, handlers.trust());
  };
  const unanswered = new Unanswered();
  server.on('request', (request, response) => {
    // Node has already parsed a request that came together with the one before.
    if (unanswered.endsConnection(request.socket)) return;
    unanswered.note(request, response);
    handlers.keepAlive(request.socket);
    passRequest(request, response, origin(request), listen, handlers);
  });
  server.on('upgrade', (request: IncomingMessage, stream: Socket, head: Buffer) => {
    const client = request.socket;
    // An error without a listener would end the process.
    client.off('error', ignore).on('error', ignore);
    const read = readRequest(request);
    // Two answers would get mixed up. No real client does this, so we need not answer.
    if (unanswered.has(client)) client.destroy();
    else if (read.kind === 'upgrade') passUpgrade({ request, client, head }, read, origin(request), handlers);
    else if (read.kind === 'refused') {
      handlers.refused('bad_request', read.why, origin(request).address);
      refuseUpgrade(client, textAnswer(400, badRequest(read.why)));
    }
    // Since Node 26, the body of an upgrade is parsed, and we do not get the socket meanwhile.
    else if (stream !== client || request.readableLength > 0)
      refuseUpgrade(client, unavailableAnswer(NEEDS_NEW_CONNECTION));
    else serveAsPlain(serveAgain, request, client, head);
  });
  server.on('tlsClientError', (error, socket) => {
    handlers.refused('tls_handshake', reasonOf(error), plainAddress(socket.remoteAddress));
  });
  const useCertificate = (renewed: Certificate): void => {
    (server as TlsServer).setSecureContext({ ...TLS, ...pairOf(renewed) });
    renewed.key.fill(0);
  };
  return { server, listen, unanswered, connections, useCertificate };
}

function pairOf({ cert, key }: Certificate) {
  return { cert, key };
}

/**
 * Puts a step before what a server does with each connection. The step calls `serve` to continue.
 *
 * @returns a function that serves a connection without this step.
 */
function before(
  server: Server,
  event: 'connection' | 'secureConnection',
  step: (socket: Socket, serve: () => void) => void,
): (socket: Socket) => void {
  const served = server.listeners(event);
  const serve = (socket: Socket): void => {
    for (const each of served) each.call(server, socket);
  };
  server.removeAllListeners(event);
  server.on(event, (socket: Socket) => step(socket, () => serve(socket)));
  return serve;
}

function passRequest(
  request: IncomingMessage,
  response: ServerResponse,
  origin: Origin,
  listen: Listen,
  handlers: ListenerHandlers,
): void {
  if (origin.path.kind !== 'direct' || isForwarded(request)) closeAfter(response);
  const read = readRequest(request);
  if (read.kind === 'refused') {
    handlers.refused('bad_request', read.why, origin.address);
    closeAfter(response);
    answerWith(response, 400, badRequest(read.why));
    return;
  }
  if (read.kind === 'upgrade') {
    // Connection does not name Upgrade. `withUpgrade` can only correct the first head of a connection.
    closeAfter(response);
    answerWith(response, 503, NEEDS_NEW_CONNECTION);
    return;
  }
  if (listen.tls === undefined && answerOwnPage(request, response, origin, listen.redirect, handlers.pages)) return;
  if (limitBody(request, response, handlers.limits().bodyBytes, () => handlers.tooLarge(origin.address))) {
    handlers.plain(request, response, forwardedRawHeaders(read.headers, origin), origin.address);
  }
}

/** Whether a proxy sent this request, even one that we do not trust. Its next request may be an upgrade, which must come first. */
function isForwarded({ headers }: IncomingMessage): boolean {
  return ['x-forwarded-for', 'x-real-ip', 'forwarded', 'via'].some((name) => headers[name] !== undefined);
}

/** For upgrades that `withUpgrade` could only have corrected as the first request of a connection. */
const NEEDS_NEW_CONNECTION = 'This request must be the first one on its connection: send it again on a new connection.';

function badRequest(why: string): string {
  return `This request is refused: ${why}.`;
}

function passUpgrade(
  { request, client, head }: Pick<UpgradeRequest, 'request' | 'client' | 'head'>,
  { headers, asked }: Extract<ReadRequest, { kind: 'upgrade' }>,
  origin: Origin,
  handlers: ListenerHandlers,
): void {
  const rawHeaders = forwardedRawHeaders(headers, origin);
  // Without a length, Node would send a POST in chunks.
  if (request.headers['content-length'] === undefined && request.method !== 'GET')
    rawHeaders.push('Content-Length', '0');
  rawHeaders.push('Upgrade', asked.protocol, 'Connection', 'Upgrade');
  handlers.upgrade({ request, asked, client, head, rawHeaders }, origin);
}

/** Serves a request again as a plain one, after Node's parser took it for an upgrade and stopped reading. */
function serveAsPlain(serve: (client: Socket) => void, request: IncomingMessage, client: Socket, rest: Buffer): void {
  const { method, url, httpVersion, rawHeaders } = request;
  const headers = endToEnd(rawHeaders);
  let head = `${method} ${url} HTTP/${httpVersion}\r\n`;
  for (let i = 0; i + 1 < headers.length; i += 2) head += `${headers[i]}: ${headers[i + 1]}\r\n`;
  client.unshift(Buffer.concat([Buffer.from(`${head}\r\n`, 'latin1'), rest]));
  serve(client);
}

/** The requests of each connection that have no complete answer yet. */
class Unanswered {
  readonly #bySocket = new Map<Socket, Map<IncomingMessage, ServerResponse>>();

  /** A pipelined answer never emits 'close' when its connection closes, so the whole connection is removed then. */
  note(request: IncomingMessage, response: ServerResponse): void {
    const { socket } = request;
    const requests = this.#bySocket.get(socket) ?? new Map<IncomingMessage, ServerResponse>();
    if (!this.#bySocket.has(socket)) {
      this.#bySocket.set(socket, requests);
      socket.once('close', () => this.#bySocket.delete(socket));
    }
    requests.set(request, response);
    response.once('close', () => requests.delete(request));
  }

  has(socket: Socket): boolean {
    return (this.#bySocket.get(socket)?.size ?? 0) > 0;
  }

  /** Whether the connection closes after one of these answers. Requests after that one are ignored. */
  endsConnection(socket: Socket): boolean {
    for (const response of this.#bySocket.get(socket)?.values() ?? []) if (!response.shouldKeepAlive) return true;
    return false;
  }

  all(): readonly (readonly [IncomingMessage, ServerResponse])[] {
    return [...this.#bySocket.values()].flatMap((requests) => [...requests]);
  }
}
