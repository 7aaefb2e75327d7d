import { readdirSync, readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { extname } from 'node:path';
import type { FoundEvents, History, HistoryEntry, HistoryQuery } from '../history/history.ts';
import { formatMachineKey, type MachineKey, parseMachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { ErrorCode } from '../lib/errors.ts';
import { fieldsOf, parseJson, stringOf } from '../lib/json.ts';
import { inQuotes } from '../lib/text.ts';
import { isConnected, type NodePresence } from '../nodes/presence.ts';
import type { StreamId } from '../streams/stream.ts';
import { type AccessControl, type Sessions, WRONG_TOKEN } from './access.ts';
import { listAvailability, type NamedNode, nodeAvailability, type PresenceHistory } from './availability-list.ts';
import { badgeSvg, healthBadge, nodeBadge, nodesBadge } from './badge.ts';
import { eventQuery, listEvents } from './event-list.ts';
import { keysOfNode, listNodes, nodeHealth, presenceView, type Sharing, type ShownStream } from './node-list.ts';
import { Parameters } from './parameters.ts';
import { problemOf, readBody, send, sendError, sendJson, sendPicture, sendProblem, sendText } from './responses.ts';
import type { HandedOver } from './schemas.ts';
import { listStreams } from './stream-list.ts';
import type { EventView, NodeDetail, Overview, PolicyView, PresenceView, Readiness, StreamView } from './views.ts';

/** One request and its response. */
interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly query: URLSearchParams;
  /** What is in the place of `:id` in the path; empty for paths without one. */
  readonly id: string;
  /** Whether access control allows the request. Public routes answer others too. */
  readonly isAuthorized: boolean;
  /** Whether it may sever streams and reload. */
  readonly mayChange: boolean;
  /** Whether a browser sent it over HTTPS, as a trusted proxy says. */
  readonly isSecure: boolean;
}

export interface Route {
  readonly methods: readonly string[];
  /** Whether it answers requests without the token. It must not reveal anything to them. */
  readonly isPublic: boolean;
  answer(exchange: Exchange): void | Promise<void>;
}

type Answer = Route['answer'];

interface RoutesOptions {
  readonly backend: AdminBackend;
  readonly assets: ReadonlyMap<string, Asset>;
  readonly access: AccessControl;
  readonly sessions: Sessions;
}

/** All routes, by path. */
export function routesOf({ backend, assets, access, sessions }: RoutesOptions): ReadonlyMap<string, Route> {
  const publicRoute = (answer: Answer): Route => ({ methods: ['GET', 'HEAD'], isPublic: true, answer });
  const files = [...assets].map(([path, asset]) => {
    return [path, publicRoute(({ response }) => sendAsset(response, path, asset))] as const;
  });
  return new Map<string, Route>([
    ...files,
    ['/healthz', publicRoute(({ response }) => sendText(response, 200, 'ok'))],
    ['/readyz', publicRoute(readiness(backend))],
    ['/openapi.json', publicRoute(description)],
    ...readingRoutes(backend, access),
    ['/reload', { methods: ['POST'], isPublic: false, answer: reload(backend) }],
    ['/handover', { methods: ['POST'], isPublic: false, answer: handOver(backend) }],
    ['/streams/:id/sever', { methods: ['POST'], isPublic: false, answer: sever(backend) }],
    ['/login', { methods: ['POST'], isPublic: true, answer: login(access, sessions) }],
    ['/logout', { methods: ['POST'], isPublic: true, answer: logout(sessions) }],
  ]);
}

function readingRoutes(backend: AdminBackend, { needsToken }: AccessControl): readonly (readonly [string, Route])[] {
  const reading = (answer: Answer): Route => ({ methods: ['GET', 'HEAD'], isPublic: false, answer });
  const metrics: Answer = async ({ response }) => {
    const { contentType, text } = await backend.metrics();
    send(response, 200, contentType, text);
  };
  const streams: Answer = async ({ response, query }) =>
    sendJson(response, 200, listStreams(await backend.streams(), query, backend.keysOf));
  const view = (node: NodePresence<ShownStream>): PresenceView =>
    presenceView(node, backend.sharingOf(node.machineKey));
  const nodes: Answer = async ({ response, query }) =>
    sendJson(response, 200, listNodes((await backend.nodes()).map(view), query));
  const nodeDetail = (found: NodePresence<ShownStream>): NodeDetail => ({
    ...view(found),
    policy: backend.policyOf(found),
  });
  const node: Answer = (exchange) =>
    answerNode(backend, exchange, (found) => sendJson(exchange.response, 200, nodeDetail(found)));
  const health: Answer = (exchange) =>
    answerNode(backend, exchange, (found) =>
      sendJson(exchange.response, isConnected(found) ? 200 : 503, nodeHealth(found)),
    );
  const badgeOfNode: Answer = (exchange) =>
    answerNode(backend, exchange, (found) => {
      const label = new Parameters(exchange.query, ['label']).text('label');
      sendPicture(exchange.response, badgeSvg(nodeBadge(found, label ?? found.node?.name ?? 'node')), BADGE_SECONDS);
    });
  const badge: Answer = async ({ response, query }) => {
    const shows = new Parameters(query, ['show']).words('show', BADGES);
    const isHealth = shows?.has('health') ?? false;
    sendPicture(
      response,
      badgeSvg(isHealth ? healthBadge(backend.readiness()) : nodesBadge(await backend.nodes())),
      BADGE_SECONDS,
    );
  };
  const availability: Answer = async ({ response, query }) =>
    sendJson(response, 200, listAvailability(backend.presence, await backend.nodes(), query, backend.now()));
  const events: Answer = async ({ response, query }) => {
    const { history } = backend;
    const asked = eventQuery(query, history, backend.keysOf, backend.now());
    const before = { run: history.run, lastSeq: history.lastSeq };
    sendJson(response, 200, listEvents(before, asked, await backend.events(asked), backend.eventView));
  };
  const overview: Answer = ({ response, mayChange }) => {
    const whole: Overview = { ...backend.overview(), needsToken, mayChange };
    sendJson(response, 200, whole);
  };
  return [
    ['/metrics', reading(metrics)],
    ['/streams', reading(streams)],
    ['/nodes', reading(nodes)],
    ['/nodes/:id', reading(node)],
    ['/nodes/:id/health', reading(health)],
    ['/nodes/:id/availability', reading(availabilityOfNode(backend))],
    ['/availability', reading(availability)],
    ['/nodes/:id/badge.svg', reading(badgeOfNode)],
    ['/badge.svg', reading(badge)],
    ['/events', reading(events)],
    ['/overview', reading(overview)],
  ];
}

function availabilityOfNode(backend: AdminBackend): Answer {
  return async (exchange) => {
    const { response, id, query } = exchange;
    const answer = (node: NamedNode) => nodeAvailability(backend.presence, node, query, backend.now());
    const machineKey = parseMachineKey(id);
    // A node that was deleted has a history too.
    if (machineKey === undefined || !backend.presence.has(machineKey)) {
      await answerNode(backend, exchange, (found) => sendJson(response, 200, answer(found)));
    } else sendJson(response, 200, answer({ machineKey, node: backend.nodeOf(machineKey) }));
  };
}

export const BADGES = ['nodes', 'health'] as const;

/** Answers about the one node that the path names. */
async function answerNode(
  backend: AdminBackend,
  { response, id }: Exchange,
  answerWith: (found: NodePresence<ShownStream>) => void,
): Promise<void> {
  const nodes = await backend.nodes();
  const keys = keysOfNode(nodes, id);
  const [found, another] = nodes.filter(({ machineKey }) => keys.has(machineKey));
  const name = inQuotes(id);
  if (found === undefined) {
    sendError(response, 'HSW_NODE_UNKNOWN', `There is no node ${name}: GET /nodes lists those that are known.`);
  } else if (another !== undefined) {
    const choice = [...keys].map(formatMachineKey).join(' or ');
    sendError(response, 'HSW_NODE_AMBIGUOUS', `Several nodes are called ${name}: write the machine key, ${choice}.`);
  } else answerWith(found);
}

/** Probes send no token: without one the answer says whether the watchdog is ready, and nothing about Headscale. */
function readiness(backend: AdminBackend): Answer {
  return ({ response, isAuthorized }) => {
    const readiness = backend.readiness();
    const { ready } = readiness;
    sendJson(response, ready ? 200 : 503, isAuthorized ? readiness : { ready });
  };
}

/** The description is read when it is asked for, which is rare, so that it takes no memory. */
const description: Answer = ({ response }) => {
  send(response, 200, 'application/json', readFileSync(new URL('./openapi.json', import.meta.url)));
};

function reload(backend: AdminBackend): Answer {
  return ({ response }) => {
    const outcome = backend.reload();
    if (outcome.ok) sendJson(response, 200, outcome);
    else sendProblem(response, { ...problemOf(outcome.code, 'Not reloaded: nothing has changed.', 422), ...outcome });
  };
}

function handOver(backend: AdminBackend): Answer {
  return async ({ response }) => {
    const outcome = await backend.handOver();
    // This process is about to stop listening.
    response.shouldKeepAlive = false;
    if (outcome.ok) sendJson(response, 200, outcome);
    else sendProblem(response, { ...problemOf(outcome.code, 'Not handed over.', 422), ...outcome });
  };
}

function sever(backend: AdminBackend): Answer {
  return ({ response, id, query }) => {
    const outcome = backend.sever(Number(id) as StreamId, query.get('replica') ?? undefined);
    const hint = 'GET /streams lists the open streams';
    if (outcome === 'unknown') sendError(response, 'HSW_STREAM_UNKNOWN', `There is no open stream ${id}: ${hint}.`);
    else if (outcome === 'ending')
      sendError(response, 'HSW_STREAM_ENDING', `Stream ${id} is already closing: ${hint}.`);
    else if (outcome === 'asked') sendJson(response, 202, { asked: Number(id) });
    else sendJson(response, 200, { severed: Number(id) });
  };
}

const MAX_LOGIN_BYTES = 8 * 1024;

function login(access: AccessControl, sessions: Sessions): Answer {
  return async ({ request, response, isSecure }) => {
    const body = await readBody(request, MAX_LOGIN_BYTES);
    if (body === undefined) {
      response.setHeader('Connection', 'close');
      sendError(response, 'HSW_ADMIN_BODY_TOO_LARGE', `Send at most ${MAX_LOGIN_BYTES} bytes: { "token": "…" }.`);
      return;
    }
    const role = access.roleOf(tokenIn(body));
    if (role === undefined) {
      sendError(response, WRONG_TOKEN.code, WRONG_TOKEN.message);
      return;
    }
    response.setHeader('Set-Cookie', sessions.begin(role, isSecure));
    sendJson(response, 200, { ok: true });
  };
}

function tokenIn(body: string): string {
  return stringOf(fieldsOf(parseJson(body)).token).trim();
}

function logout(sessions: Sessions): Answer {
  return ({ request, response }) => {
    response.setHeader('Set-Cookie', sessions.end(request.headers.cookie));
    sendJson(response, 200, { ok: true });
  };
}

/** Badges are shown on pages that many people load. */
const BADGE_SECONDS = 30;
/** A watchdog that does not answer cannot send the icon that says so, so browsers keep it. */
const ICON_SECONDS = 86_400;

function sendAsset(response: ServerResponse, path: string, { contentType, text }: Asset): void {
  if (path.endsWith('.svg')) sendPicture(response, text, ICON_SECONDS);
  else send(response, 200, contentType, text);
}

/** A file of the status page. */
interface Asset {
  readonly contentType: string;
  readonly text: string;
}

const CONTENT_TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
};

const MISSING: Asset = {
  contentType: 'text/plain; charset=utf-8',
  text: "The status page's files are missing; run npm run build again. /streams and /events work without them.\n",
};

/** Reads the status page's files once, by URL path. No other file can be requested. */
export function readAssets(folder = new URL('./page/', import.meta.url)): ReadonlyMap<string, Asset> {
  const assets = new Map<string, Asset>();
  for (const name of namesIn(folder)) {
    const contentType = CONTENT_TYPES[extname(name)];
    if (contentType === undefined) continue;
    const path = name === 'index.html' ? '/' : `/page/${name}`;
    assets.set(path, { contentType, text: readFileSync(new URL(name, folder), 'utf8') });
  }
  // A missing page must not stop the proxy.
  return assets.has('/') ? assets : new Map([['/', MISSING]]);
}

function namesIn(folder: URL): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** What has come of a hand-over. */
type HandoverResult =
  | HandedOver
  | { readonly ok: false; readonly code: ErrorCode; readonly problems: readonly string[] };

/** What the admin server can show and do. It asks again for every request. */
export interface AdminBackend {
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
  readiness(): Readiness;
  /** Replica by replica, each in the order in which they opened. */
  streams(): Promise<readonly StreamView[]>;
  /** Every node that Headscale lists, and every machine key that has a stream or had one. */
  nodes(): Promise<readonly NodePresence<ShownStream>[]>;
  /** Whether two machines use this key. */
  sharingOf(key: MachineKey): Sharing;
  /** The settings that apply to a node. */
  policyOf(node: NodePresence): PolicyView;
  /** The figures and warnings at the top of the status page. */
  overview(): Omit<Overview, 'needsToken' | 'mayChange'>;
  readonly history: History;
  /** The events that match, also those from before this start. */
  events(query: HistoryQuery): Promise<FoundEvents>;
  readonly presence: PresenceHistory;
  nodeOf(key: MachineKey): NodeInfo | undefined;
  /** Milliseconds since 1970. */
  now(): number;
  eventView(entry: HistoryEntry): EventView;
  /** The machine keys of the nodes with this name, id or key. Empty if there is no such node. */
  keysOf(node: string): ReadonlySet<MachineKey>;
  /**
   * @param replica the replica that has the stream; undefined means this one.
   * @returns `asked` if another replica was asked to sever it.
   */
  sever(id: StreamId, replica: string | undefined): 'severed' | 'ending' | 'unknown' | 'asked';
  /** Reads flags and file again, and applies them. */
  reload():
    | { readonly ok: true }
    | { readonly ok: false; readonly code: ErrorCode; readonly problems: readonly string[] };
  /** Hands everything over to a new process, and resolves when that listens. */
  handOver(): Promise<HandoverResult>;
  /** Reports an error in our own code. */
  failed(during: string, error: unknown): void;
}
