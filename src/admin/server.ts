import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { plainAddress } from '../lib/addresses.ts';
import type { Clock } from '../lib/clock.ts';
import { type ApiErrorCode, codeOf, ERRORS } from '../lib/errors.ts';
import { OpenConnections } from '../lib/open-connections.ts';
import {
  type AccessControl,
  type AccessRequest,
  createAccessControl,
  type Refusal,
  type Role,
  Sessions,
} from './access.ts';
import { eventQuery } from './event-list.ts';
import { LiveFeed } from './live.ts';
import { ParameterError } from './parameters.ts';
import { problemOf, problemResponse, sendError } from './responses.ts';
import { type AdminBackend, type Route, readAssets, routesOf } from './routes.ts';

interface AdminServerOptions {
  readonly clock: Clock;
  /** All requests need one of them, except probes. Without `all`, no token is needed. */
  readonly tokens: Readonly<Record<Role, string | undefined>>;
  /** The host of `--admin`. */
  readonly adminHost: string;
  /** The sites whose pages may read. */
  corsOrigins(): readonly string[];
  /** Whether X-Forwarded-Host and X-Forwarded-Proto from this address are believed. */
  isTrustedProxy(address: string): boolean;
}

/** @property endLive disconnects those that listen to events, so that they connect to another process. */
export type AdminServer = Server & { endLive(): void };

const LIVE = '/events/live';
/** How long a client whose upgrade was refused may take to disconnect. */
const LINGER_MS = 10_000;

/** Serves the status page, the admin API, `/metrics`, `/healthz` and `/readyz`. */
export function createAdminServer(backend: AdminBackend, options: AdminServerOptions): AdminServer {
  const { clock, isTrustedProxy } = options;
  const sessions = new Sessions(clock);
  const access = createAccessControl({ ...options, sessionOf: (cookie) => sessions.roleOf(cookie) });
  const routes = routesOf({ backend, assets: readAssets(), access, sessions });
  const live = new LiveFeed({ clock, history: backend.history, view: backend.eventView });
  const server = createServer((request, response) =>
    answer(request, response, { routes, access, backend, isTrustedProxy }),
  );
  server.on('upgrade', (request: IncomingMessage, _stream, head) => {
    // On Node 26, the stream of an upgrade with a body is not its socket.
    upgrade(request, request.socket, head, { live, access, backend, isTrustedProxy });
  });
  server.on('clientError', (error, socket) => refuseRequest(socket, error));
  const connections = new OpenConnections();
  server.prependListener('connection', (socket: Socket) => connections.add(socket));
  // Node's own closeAllConnections leaves out upgraded connections.
  server.closeAllConnections = () => {
    live.close();
    connections.endAll();
  };
  return Object.assign(server, { endLive: () => live.close() });
}

/** What every request needs, also an upgrade. */
interface Context {
  readonly access: AccessControl;
  readonly backend: AdminBackend;
  isTrustedProxy(address: string): boolean;
}

interface RequestContext extends Context {
  readonly routes: ReadonlyMap<string, Route>;
}

function answer(request: IncomingMessage, response: ServerResponse, context: RequestContext): void {
  const { routes, access, backend, isTrustedProxy } = context;
  const { path, query } = urlOf(request);
  const { pattern, id } = patternOf(path);
  const route = routes.get(pattern);
  const does = request.method === 'GET' || request.method === 'HEAD' ? 'read' : 'change';
  const { asked, isSecure } = accessRequestOf(request, does, isTrustedProxy);
  const refusal = access.refusalFor(asked);
  const counts = route?.isPublic ? access.crossSiteRefusal(asked) : refusal;
  if (allowsCors(request, response, access)) return;
  if (counts !== undefined) sendRefusal(response, counts);
  else if (path === LIVE) sendError(response, 'HSW_ADMIN_REQUEST_INVALID', `${LIVE} is a WebSocket: send an upgrade.`);
  else if (route === undefined)
    sendError(response, 'HSW_ADMIN_PATH_UNKNOWN', `No such path. Known paths: ${known(routes)}.`);
  else if (!route.methods.includes(request.method ?? '')) {
    response.setHeader('Allow', route.methods.join(', '));
    sendError(response, 'HSW_ADMIN_METHOD_NOT_ALLOWED', `Use ${route.methods.join(' or ')}.`);
  } else {
    const isAuthorized = refusal === undefined;
    const exchange = { request, response, query, id, isAuthorized, mayChange: access.mayChange(asked), isSecure };
    Promise.resolve()
      .then(() => route.answer(exchange))
      .catch((error: unknown) => sendFailure(response, error, (mishap) => backend.failed(`answering ${path}`, mishap)));
  }
}

const PREFLIGHT_S = 600;

/**
 * Lets the pages of `--admin-cors-origin` read. They get no cookie, so they must send a token if one is needed.
 *
 * @returns true if the request was only the browser's question whether the page may read.
 */
function allowsCors({ method, headers }: IncomingMessage, response: ServerResponse, access: AccessControl): boolean {
  if (!access.isCorsOrigin(headers.origin)) return false;
  const wanted = headers['access-control-request-method'];
  const isQuestion = method === 'OPTIONS' && wanted !== undefined;
  // Browsers would send a POST even if only GET were allowed here.
  if (isQuestion && wanted !== 'GET' && wanted !== 'HEAD') return false;
  response.setHeader('Access-Control-Allow-Origin', headers.origin);
  if (!isQuestion) return false;
  response.setHeader('Access-Control-Allow-Methods', 'GET, HEAD');
  response.setHeader('Access-Control-Allow-Headers', 'authorization');
  response.setHeader('Access-Control-Max-Age', PREFLIGHT_S);
  response.writeHead(204).end();
  return true;
}

/** The path with `:id` in place of a stream's number or a node's name, and what was in that place. */
function patternOf(path: string): { readonly pattern: string; readonly id: string } {
  const [, stream] = /^\/streams\/(\d{1,15})\/sever$/.exec(path) ?? [];
  if (stream !== undefined) return { pattern: '/streams/:id/sever', id: stream };
  const [, node = '', more = ''] = /^\/nodes\/([^/]{1,300})(\/health|\/availability|\/badge\.svg)?$/.exec(path) ?? [];
  return node === '' ? { pattern: path, id: '' } : { pattern: `/nodes/:id${more}`, id: decoded(node) };
}

/** Text that is no URL encoding is left as it is. No node has such a name. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function sendFailure(response: ServerResponse, error: unknown, failed: (error: unknown) => void): void {
  if (error instanceof ParameterError) {
    sendError(response, 'HSW_PARAMETER_INVALID', error.message);
    return;
  }
  failed(error);
  if (response.headersSent) response.destroy();
  else sendError(response, 'HSW_INTERNAL', 'The watchdog failed to answer. See its log.');
}

function sendRefusal(response: ServerResponse, { code, message }: Refusal): void {
  if (ERRORS[code].status === 401) response.setHeader('WWW-Authenticate', 'Bearer');
  sendError(response, code, message);
}

function known(routes: ReadonlyMap<string, Route>): string {
  return [...routes.keys(), LIVE].filter((path) => !path.startsWith('/page/')).join(', ');
}

interface UpgradeContext extends Context {
  readonly live: LiveFeed;
}

function upgrade(
  request: IncomingMessage,
  socket: Socket,
  head: Buffer,
  { live, access, backend, isTrustedProxy }: UpgradeContext,
): void {
  socket.on('error', () => socket.destroy());
  const { path, query } = urlOf(request);
  const refusal = access.refusalFor(accessRequestOf(request, 'watch', isTrustedProxy).asked);
  if (refusal !== undefined) refuseUpgrade(socket, refusal.code, refusal.message);
  else if (path !== LIVE) refuseUpgrade(socket, 'HSW_ADMIN_PATH_UNKNOWN', `The only WebSocket path is ${LIVE}.`);
  else if (live.isFull)
    refuseUpgrade(socket, 'HSW_ADMIN_FULL', 'Too many clients are listening. Poll /events instead.');
  else {
    try {
      live.take(request, socket, head, eventQuery(query, backend.history, backend.keysOf, backend.now()));
    } catch (error) {
      if (error instanceof ParameterError) refuseUpgrade(socket, 'HSW_PARAMETER_INVALID', error.message);
      else {
        backend.failed(`answering ${path}`, error);
        socket.destroy();
      }
    }
  }
}

function refuseUpgrade(socket: Socket, code: ApiErrorCode, detail: string): void {
  socket.end(problemResponse(problemOf(code, detail)));
  // Without reading, we would not notice when the client closes.
  socket.resume().setTimeout(LINGER_MS, () => socket.destroy());
}

/** Answers what Node could not read as a request. */
function refuseRequest(socket: Duplex, error: Error): void {
  const [status, detail] = REQUEST_ERRORS[codeOf(error) ?? ''] ?? [400, 'This is not an HTTP request.'];
  if (!socket.writable) socket.destroy();
  else socket.end(problemResponse(problemOf('HSW_ADMIN_REQUEST_INVALID', detail, status)), () => socket.destroy());
}

const REQUEST_ERRORS: Readonly<Record<string, readonly [status: number, detail: string]>> = {
  HPE_HEADER_OVERFLOW: [431, 'The head of the request is too large.'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'The request did not arrive in time.'],
};

function accessRequestOf(
  { headers, socket }: IncomingMessage,
  does: AccessRequest['does'],
  isTrustedProxy: (address: string) => boolean,
): { readonly asked: AccessRequest; readonly isSecure: boolean } {
  const { host, origin, authorization, cookie } = headers;
  const [fetchSite] = [headers['sec-fetch-site']].flat();
  const isBehindProxy = isTrustedProxy(plainAddress(socket.remoteAddress));
  const told = (name: string): readonly string[] =>
    isBehindProxy ? [headers[name] ?? []].flat().flatMap((value) => value.split(/\s*,\s*/)) : [];
  return {
    asked: { host, forwardedHosts: told('x-forwarded-host'), origin, authorization, cookie, does, fetchSite },
    isSecure: told('x-forwarded-proto').at(-1) === 'https',
  };
}

function urlOf({ url = '' }: IncomingMessage): { readonly path: string; readonly query: URLSearchParams } {
  const [path = '', query = ''] = url.split('?', 2);
  return { path, query: new URLSearchParams(query) };
}
