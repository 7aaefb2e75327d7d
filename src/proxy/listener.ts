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
import { type FirstBytes, readFirstBytes, withUpgrade } from './first-bytes.ts';
import { forwardedRawHeaders, type Origin, originOf } from './forwarded.ts';
import { answerOwnPage, type OwnPages } from './own-pages.ts';
import { boundBody, type PlainProxy } from './plain.ts';
import { isProxyHeader, ProxyProtocolSources } from './proxy-protocol.ts';
import type { Trust } from './trusted-proxies.ts';
import type { UpgradeRequest } from './tunnel.ts';

const ignore = (): void => {};

export interface ListenerHandlers {
  readonly plain: PlainProxy;
  upgrade(upgrade: UpgradeRequest, origin: Origin): void;
  /** Whose word about where a client is counts; asked for every connection. */
  trust(): Trust;
  readonly pages: OwnPages;
  refused(because: RefusalReason, why: string, address: string): void;
  /** See `FrontProxies.requested`. */
  requested(request: IncomingMessage, sender: string): void;
  /** Takes a connection in, see `Admission.connect`. */
  connected(address: string | undefined): (() => void) | undefined;
  /** Sets the TCP keepalive of a connection, on which a client waits for an answer until it becomes a stream. */
  keepAlive(socket: Socket): void;
  /** A request was refused, since its body is too large. */
  tooLarge(address: string): void;
  limits(): Pick<Limits, 'bodyBytes'>;
}

export interface ClientListener {
  readonly server: Server;
  readonly listen: Listen;
  /** For connections from here on; those that are open keep theirs. Wipes its key. Only where it speaks TLS. */
  useCertificate(certificate: Certificate): void;
  readonly unanswered: Unanswered;
  /** All of them, also those that the server does not know yet or any more: a stop must not wait for them. */
  readonly connections: OpenConnections;
}

/** What a server is made with, and keeps. */
export type ServerLimits = Pick<Limits, 'headerBytes' | 'headerMs' | 'bodyMs'>;

const TLS: TlsServerOptions = { minVersion: 'TLSv1.2', ALPNProtocols: ['http/1.1'] };

/** How often Node looks for connections that are too slow. */
const LOOKS_EVERY_MS = 1000;

function optionsOf({ headerBytes, headerMs, bodyMs }: ServerLimits) {
  return {
    maxHeaderSize: headerBytes,
    headersTimeout: headerMs,
    requestTimeout: headerMs + bodyMs,
    connectionsCheckingInterval: LOOKS_EVERY_MS,
  };
}

/**
 * An HTTP server for clients: upgrades go to the tunnel, all else to the plain proxy, but for what a plain listener
 * answers itself. A connection's way: PROXY protocol header, TLS, the first head, HTTP; most have only the last two.
 *
 * @param certificate undefined where it speaks plain HTTP; its key is wiped.
 */
export function createListener(
  listen: Listen,
  certificate: Certificate | undefined,
  limits: ServerLimits,
  ports: ListenerHandlers,
): ClientListener {
  const options = optionsOf(limits);
  const server: Server =
    certificate === undefined
      ? createServer(options)
      : createTlsServer({ ...TLS, ...options, handshakeTimeout: limits.headerMs, ...pairOf(certificate) });
  certificate?.key.fill(0);
  // All of them: Node would drop those beyond a thousand without a word, and what they say of the body with them.
  server.maxHeadersCount = 0;
  const claims = new ProxyProtocolSources();
  const connections = new OpenConnections();
  // The last of the steps first: each is put before those that are there.
  const serveAgain = before(server, certificate === undefined ? 'connection' : 'secureConnection', (socket, serve) => {
    // As Node's plain HTTP server has it: each side's end is passed on alone. Not before there is a session:
    // a client that leaves in the middle of the handshake would stay.
    socket.allowHalfOpen = true;
    if (certificate !== undefined) connections.add(socket);
    const slow = (): void => void socket.end(textAnswer(408, 'The head of this request came too slowly.'));
    const read = (bytes: Buffer): FirstBytes => {
      if (listen.proxyProtocol || !isProxyHeader(bytes)) return withUpgrade(bytes);
      const why =
        'it begins with a PROXY protocol header: add proxy-protocol=true to this listener, or remove send-proxy';
      ports.refused('unexpected_proxy_header', why, plainAddress(socket.remoteAddress));
      return { kind: 'refuse' };
    };
    readFirstBytes(socket, read, { withinMs: limits.headerMs, slow }, serve);
  });
  if (listen.proxyProtocol) before(server, 'connection', (socket, serve) => claims.read(socket, ports, serve));
  // Before all other steps.
  before(server, 'connection', (socket, serve) => {
    connections.add(socket);
    const address = plainAddress(socket.remoteAddress);
    const closed = ports.connected(ports.trust()(address) ? undefined : address);
    if (closed === undefined) socket.destroy();
    else {
      socket.once('close', closed);
      ports.keepAlive(socket);
      serve();
    }
  });
  const origin = (request: IncomingMessage): Origin => {
    const claimed = claims.of(request.socket);
    ports.requested(request, claimed?.address ?? plainAddress(request.socket.remoteAddress));
    return originOf(request, claimed, ports.trust());
  };
  const unanswered = new Unanswered();
  server.on('request', (request, response) => {
    // Node has read it already where it came with the one before.
    if (unanswered.endsConnection(request.socket)) return;
    unanswered.note(request, response);
    passRequest(request, response, origin(request), listen, ports);
  });
  server.on('upgrade', (request: IncomingMessage, stream: Socket, head: Buffer) => {
    const client = request.socket;
    // Until somebody listens, an error of the socket would be nobody's.
    client.off('error', ignore).on('error', ignore);
    const read = readRequest(request);
    // Two answers would come mixed. No client asks so, and none is owed one.
    if (unanswered.has(client)) client.destroy();
    else if (read.kind === 'upgrade') passUpgrade({ request, client, head }, read, origin(request), ports);
    else if (read.kind === 'refused') {
      ports.refused('bad_request', read.why, origin(request).address);
      refuseUpgrade(client, textAnswer(400, badRequest(read.why)));
    }
    // From 26 on Node reads the body of an upgrade, and hands out no socket while it does.
    else if (stream !== client || request.readableLength > 0) refuseUpgrade(client, unavailableAnswer(COME_AGAIN));
    else readAgain(serveAgain, request, client, head);
  });
  server.on('tlsClientError', (error, socket) => {
    ports.refused('tls_handshake', reasonOf(error), plainAddress(socket.remoteAddress));
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
 * Puts a step before what a server does with each connection; `serve` goes on.
 *
 * @returns what serves a connection without that step.
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
  ports: ListenerHandlers,
): void {
  if (!origin.isDirect || isForwarded(request)) closeAfter(response);
  const read = readRequest(request);
  if (read.kind === 'refused') {
    ports.refused('bad_request', read.why, origin.address);
    closeAfter(response);
    answerWith(response, 400, badRequest(read.why));
    return;
  }
  if (read.kind === 'upgrade') {
    // Connection does not name it, which can be mended in a connection's first head alone.
    closeAfter(response);
    answerWith(response, 503, COME_AGAIN);
    return;
  }
  if (listen.tls === undefined && answerOwnPage(request, response, origin, listen.redirect, ports.pages)) return;
  if (boundBody(request, response, ports.limits().bodyBytes, () => ports.tooLarge(origin.address))) {
    ports.plain(request, response, forwardedRawHeaders(read.headers, origin), origin.address);
  }
}

/** The next request may be an upgrade, which must come first: behind a trusted proxy, and one that we do not know. */
function isForwarded({ headers }: IncomingMessage): boolean {
  return ['x-forwarded-for', 'x-real-ip', 'forwarded', 'via'].some((name) => headers[name] !== undefined);
}

/** What can be mended in the first head of a connection alone, see `withUpgrade`. */
const COME_AGAIN = 'This request can only be the first of a connection: send it again on a new one.';

function badRequest(why: string): string {
  return `This request is refused: ${why}.`;
}

function passUpgrade(
  { request, client, head }: Pick<UpgradeRequest, 'request' | 'client' | 'head'>,
  { headers, asked }: Extract<ReadRequest, { kind: 'upgrade' }>,
  origin: Origin,
  ports: ListenerHandlers,
): void {
  const rawHeaders = forwardedRawHeaders(headers, origin);
  // Node would send a POST without a length as chunked.
  if (request.headers['content-length'] === undefined && request.method !== 'GET')
    rawHeaders.push('Content-Length', '0');
  rawHeaders.push('Upgrade', asked.protocol, 'Connection', 'Upgrade');
  ports.upgrade({ request, asked, client, head, rawHeaders }, origin);
}

/** Reads a request once more, as a plain one: Node's parser has let go of it. */
function readAgain(serve: (client: Socket) => void, request: IncomingMessage, client: Socket, head: Buffer): void {
  const { method, url, httpVersion, rawHeaders } = request;
  const headers = endToEnd(rawHeaders);
  let again = `${method} ${url} HTTP/${httpVersion}\r\n`;
  for (let i = 0; i + 1 < headers.length; i += 2) again += `${headers[i]}: ${headers[i + 1]}\r\n`;
  client.unshift(Buffer.concat([Buffer.from(`${again}\r\n`, 'latin1'), head]));
  serve(client);
}

/** Of each connection the requests that have not been answered whole. */
export class Unanswered {
  readonly #bySocket = new Map<Socket, Map<IncomingMessage, ServerResponse>>();

  /** An answer that waits behind another one never closes when its connection does: then all of that are forgotten. */
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

  /** Whether the connection ends behind one of them: what was sent after that is nobody's. */
  endsConnection(socket: Socket): boolean {
    for (const response of this.#bySocket.get(socket)?.values() ?? []) if (!response.shouldKeepAlive) return true;
    return false;
  }

  all(): readonly (readonly [IncomingMessage, ServerResponse])[] {
    return [...this.#bySocket.values()].flatMap((requests) => [...requests]);
  }
}
