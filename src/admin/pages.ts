import type { IncomingMessage, ServerResponse } from 'node:http';
import type { StreamId } from '../streams/stream.ts';
import { type Asset, readBody, send, sendJson, sendText } from './answers.ts';
import { eventQuery } from './event-list.ts';
import type { Gate, Sessions } from './gate.ts';
import type { AdminPorts } from './ports.ts';
import { listStreams } from './stream-list.ts';

/** One request and its answer. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly query: URLSearchParams;
  /** What the path's `:id` stands for. */
  readonly id: string;
  /** Whether the gate lets it in; pages for anyone are asked for all the same. */
  readonly isLetIn: boolean;
}

export interface Page {
  readonly methods: readonly string[];
  /** Whether it answers those, too, whom the gate refuses: it tells them nothing that they may not know. */
  readonly isForAnyone: boolean;
  answer(exchange: Exchange): void | Promise<void>;
}

type Answer = Page['answer'];

export interface PagesParts {
  readonly ports: AdminPorts;
  readonly assets: ReadonlyMap<string, Asset>;
  readonly gate: Gate;
  readonly sessions: Sessions;
}

/** Every page by its path. */
export function pagesOf({ ports, assets, gate, sessions }: PagesParts): ReadonlyMap<string, Page> {
  const forAnyone = (answer: Answer): Page => ({ methods: ['GET', 'HEAD'], isForAnyone: true, answer });
  const files = [...assets].map(([path, asset]) => {
    return [path, forAnyone(({ response }) => send(response, 200, asset.contentType, asset.text))] as const;
  });
  return new Map<string, Page>([
    ...files,
    ['/healthz', forAnyone(({ response }) => sendText(response, 200, 'ok'))],
    ['/readyz', forAnyone(readiness(ports))],
    ...readingPages(ports, gate),
    ['/reload', { methods: ['POST'], isForAnyone: false, answer: reload(ports) }],
    ['/streams/:id/sever', { methods: ['POST'], isForAnyone: false, answer: sever(ports) }],
    ['/login', { methods: ['POST'], isForAnyone: true, answer: login(gate, sessions) }],
    ['/logout', { methods: ['POST'], isForAnyone: true, answer: logout(sessions) }],
  ]);
}

function readingPages(ports: AdminPorts, { needsToken }: Gate): readonly (readonly [string, Page])[] {
  const reading = (answer: Answer): Page => ({ methods: ['GET', 'HEAD'], isForAnyone: false, answer });
  const metrics: Answer = async ({ response }) => {
    const { contentType, text } = await ports.metrics();
    send(response, 200, contentType, text);
  };
  const streams: Answer = async ({ response, query }) =>
    sendJson(response, 200, listStreams(await ports.streams(), query, ports.keysOf));
  const nodes: Answer = ({ response }) => {
    const all = ports.nodes();
    sendJson(response, 200, { total: all.length, nodes: all });
  };
  const events: Answer = ({ response, query }) => {
    const found = ports.history.find(eventQuery(query, ports.keysOf));
    sendJson(response, 200, { lastSeq: ports.history.lastSeq, events: found.map(ports.eventView) });
  };
  return [
    ['/metrics', reading(metrics)],
    ['/streams', reading(streams)],
    ['/nodes', reading(nodes)],
    ['/events', reading(events)],
    ['/overview', reading(({ response }) => sendJson(response, 200, { ...ports.overview(), needsToken }))],
  ];
}

/** Probes carry no token: without one it says whether it is ready, and nothing of Headscale. */
function readiness(ports: AdminPorts): Answer {
  return ({ response, isLetIn }) => {
    const { ready, detail } = ports.readiness();
    sendJson(response, ready ? 200 : 503, isLetIn ? detail : { ready });
  };
}

function reload(ports: AdminPorts): Answer {
  return ({ response }) => {
    const outcome = ports.reload();
    sendJson(response, outcome.ok ? 200 : 422, outcome);
  };
}

function sever(ports: AdminPorts): Answer {
  return ({ response, id, query }) => {
    const outcome = ports.sever(Number(id) as StreamId, query.get('replica') ?? undefined);
    const cure = 'GET /streams lists those that are open';
    if (outcome === 'unknown') sendText(response, 404, `There is no stream ${id} (any more): ${cure}.`);
    else if (outcome === 'ending') sendText(response, 409, `Stream ${id} is ending already: ${cure}.`);
    else if (outcome === 'asked') sendJson(response, 202, { asked: Number(id) });
    else sendJson(response, 200, { severed: Number(id) });
  };
}

const LONGEST_LOGIN = 8 * 1024;

function login(gate: Gate, sessions: Sessions): Answer {
  return async ({ request, response }) => {
    const body = await readBody(request, LONGEST_LOGIN);
    if (body === undefined || !gate.isToken(tokenIn(body))) {
      sendText(response, 401, 'This is not the token: it is what the file of --admin-token-file holds.');
      return;
    }
    response.setHeader('Set-Cookie', sessions.begin());
    sendJson(response, 200, { ok: true });
  };
}

function tokenIn(body: string): string {
  try {
    const { token } = JSON.parse(body) as { token?: unknown };
    return typeof token === 'string' ? token.trim() : '';
  } catch {
    return '';
  }
}

function logout(sessions: Sessions): Answer {
  return ({ request, response }) => {
    response.setHeader('Set-Cookie', sessions.end(request.headers.cookie));
    sendJson(response, 200, { ok: true });
  };
}
