import { type Clock, type Instant, plus } from '../lib/clock.ts';
import { codeOf, reasonOf } from '../lib/errors.ts';
import { fieldsOf, parseJson, stringOf } from '../lib/json.ts';
import { LazyAgent, TIMED_OUT, undici } from './agent.ts';
import type { NodesAccess } from './capabilities.ts';
import { type ListedNodes, type NodeListName, readNodeList } from './node-list.ts';

export interface NodesLimits {
  /** The time limit for the whole answer. */
  readonly timeoutMs: number;
  readonly maxAnswerBytes: number;
}

/** 8 000 nodes are about 6 MB, for which Headscale 0.29 needs a quarter of a second. */
const LIMITS: NodesLimits = { timeoutMs: 20_000, maxAnswerBytes: 64 * 1024 * 1024 };

/** An OAuth client may have more scopes than it needs. The token gets only this one. */
const SCOPE = 'devices:core:read';
const TOKEN_PATH = '/api/v2/oauth/token';
const DEVICES_PATH = '/api/v2/tailnet/-/devices';
/** A token is renewed this long before it expires, so that it does not expire on the way. */
const RENEW_BEFORE_MS = 60_000;

interface Token {
  readonly text: string;
  /** The secret that it was issued for. */
  readonly secret: string;
  readonly renewAt: Instant;
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

interface Request {
  /** For messages: `asking Headscale for its nodes`. */
  readonly doing: string;
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** Asks Headscale for its nodes, with an API key, or with the access token of an OAuth client. */
export class NodeRequests {
  readonly #upstream: URL;
  readonly #clock: Clock;
  readonly #limits: NodesLimits;
  readonly #agent: LazyAgent;
  #token: Token | undefined;

  constructor(upstream: URL, clock: Clock, limits: NodesLimits = LIMITS) {
    this.#upstream = upstream;
    this.#clock = clock;
    this.#limits = limits;
    this.#agent = new LazyAgent(limits.timeoutMs, limits.maxAnswerBytes);
  }

  nodes(access: NodesAccess): Promise<ListedNodes> {
    switch (access.by) {
      case 'API key':
        return this.#nodesByKey(access.apiKey, access.paths);
      case 'OAuth client':
        return this.#nodesByClient(access.secret);
      default:
        return access satisfies never;
    }
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  async #nodesByKey(apiKey: string, [path, ...otherwise]: readonly [string, ...string[]]) {
    const first = nodesRequest(path, apiKey);
    const answer = await this.#send(first);
    for (const other of answer.status === 404 ? otherwise : []) {
      const request = nodesRequest(other, apiKey);
      const second = await this.#send(request);
      if (second.status === 200) return this.#read(request, second, 'machines');
    }
    if (answer.status !== 200) throw this.#refused(first, answer, { key: NEW_KEY, secret: 'API key' });
    return this.#read(first, answer, 'nodes');
  }

  async #nodesByClient(secret: string) {
    const known = this.#token;
    const isUsable = known?.secret === secret && this.#clock.now() < known.renewAt;
    let token = isUsable ? known : await this.#newToken(secret);
    let answer = await this.#send(nodesRequest(DEVICES_PATH, token.text));
    if (answer.status === 401 && isUsable) {
      // Headscale forgets tokens when its database is replaced, and refuses those of a client that was deleted.
      token = await this.#newToken(secret);
      answer = await this.#send(nodesRequest(DEVICES_PATH, token.text));
    }
    const request = nodesRequest(DEVICES_PATH, token.text);
    if (answer.status === 200) return this.#read(request, answer, 'devices');
    const key =
      answer.status === 403
        ? OTHER_CLIENT
        : "Headscale refuses a token that it has just issued; look in Headscale's log";
    throw this.#refused(request, answer, { key, secret: 'access token' });
  }

  async #newToken(secret: string): Promise<Token> {
    this.#token = undefined;
    const request: Request = {
      ...{ doing: 'asking Headscale for an access token', method: 'POST', path: TOKEN_PATH },
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: String(new URLSearchParams({ grant_type: 'client_credentials', client_secret: secret, scope: SCOPE })),
    };
    const answer = await this.#send(request);
    const { status, text } = answer;
    const fields = fieldsOf(parseJson(text));
    if (status !== 200) {
      const error = stringOf(fields.error);
      // Up to 0.26 there is no such path. From 0.27 to 0.29 every unknown path under /api/ wants an API key.
      if (status === 404 || (status === 401 && error === '')) throw this.#failed(request, `${status}, ${NO_CLIENTS}`);
      const key = error === 'invalid_scope' ? OTHER_CLIENT : NEW_CLIENT;
      if (status === 400) throw this.#failed(request, `400, ${key}`);
      throw this.#refused(request, answer, { key, secret: "OAuth client's secret" });
    }
    const token = stringOf(fields.access_token);
    if (!/^[\x21-\x7e]+$/.test(token)) {
      throw this.#failed(request, `200, but the answer holds no access token; ${POINT_AT_HEADSCALE}`);
    }
    const lifetimeMs = typeof fields.expires_in === 'number' ? fields.expires_in * 1000 : 0;
    // A token that is not said to last is used once.
    this.#token = { text: token, secret, renewAt: plus(this.#clock.now(), lifetimeMs - RENEW_BEFORE_MS) };
    return this.#token;
  }

  async #send(request: Request): Promise<Answer> {
    const { method, path, headers, body: sent } = request;
    const { timeoutMs } = this.#limits;
    try {
      const { request: send } = await undici();
      const { statusCode, body } = await send(new URL(path, this.#upstream), {
        dispatcher: await this.#agent.get(),
        method,
        headers: { accept: 'application/json', ...headers },
        ...(sent === undefined ? {} : { body: sent }),
        // The agent's timeouts restart with each chunk. This one covers the whole answer.
        signal: AbortSignal.timeout(timeoutMs),
      });
      return { status: statusCode, text: await body.text() };
    } catch (error) {
      throw this.#failed(request, withoutAnswer(error, this.#limits), error);
    }
  }

  #read(request: Request, { text }: Answer, name: NodeListName): ListedNodes {
    const list = readNodeList(text, name);
    if (list.ok) return list.nodes;
    throw this.#failed(request, `200, but the answer ${list.why}; ${POINT_AT_HEADSCALE}`);
  }

  #refused(request: Request, { status, text }: Answer, says: Refusal): Error {
    return this.#failed(request, `${status}, ${refusal(status, text, says)}`);
  }

  #failed({ doing, method, path }: Request, why: string, cause?: unknown): Error {
    return new Error(`${doing} (${method} ${this.#upstream.origin}${path}): ${why}`, { cause });
  }
}

function nodesRequest(path: string, bearer: string): Request {
  const headers = { authorization: `Bearer ${bearer}` };
  return { doing: 'asking Headscale for its nodes', method: 'GET', path, headers };
}

export const POINT_AT_HEADSCALE = "point --upstream at Headscale's listen_addr";
const NEW_KEY =
  'Headscale refuses the API key; create a new one with `headscale apikeys create` and put it into the file that --headscale-api-key-file names';
const CREATE_CLIENT = `create one with \`headscale oauth-clients create --scope ${SCOPE}\` and put its secret into the file that --headscale-oauth-client-file names`;
const NEW_CLIENT = `Headscale refuses the OAuth client; ${CREATE_CLIENT}`;
const OTHER_CLIENT = `the OAuth client may not read nodes, because it lacks the scope ${SCOPE}; ${CREATE_CLIENT}`;
const NO_CLIENTS =
  'so this Headscale has no OAuth clients, which are new in 0.30; upgrade it, or use --headscale-api-key-file instead';

function withoutAnswer(error: unknown, { timeoutMs, maxAnswerBytes }: NodesLimits): string {
  if (codeOf(error) === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') {
    return `the answer is longer than ${maxAnswerBytes} bytes; ${POINT_AT_HEADSCALE}`;
  }
  if (error instanceof Error && TIMED_OUT.has(error.name))
    return `no complete answer within ${timeoutMs} ms; look in Headscale's log for the cause`;
  return `${reasonOf(error)}; check that Headscale runs, and ${POINT_AT_HEADSCALE}`;
}

interface Refusal {
  /** What to do if Headscale refuses what the request came with. */
  readonly key: string;
  /** What the request came with. */
  readonly secret: string;
}

function refusal(status: number, text: string, { key, secret }: Refusal): string {
  // Headscale 0.23 answers 500 to an unknown key.
  if (status === 401 || status === 403 || (status === 500 && text === 'Unauthorized')) return key;
  // Following a redirect could send the secret to another server.
  if (status >= 300 && status < 400)
    return `a redirect, which is not followed with the ${secret}; ${POINT_AT_HEADSCALE}`;
  if (status >= 500) return "Headscale or a proxy in front of it failed; look in Headscale's log";
  return `so this is not Headscale's API; ${POINT_AT_HEADSCALE}`;
}
