import type { Socket } from 'node:net';
import type { Agent } from 'undici';
import type { NodeInfo } from '../identity/node-info.ts';
import { codeOf, NoAnswerError, reasonOf } from '../lib/errors.ts';
import { fieldsOf, type JsonFields, parseJson } from '../lib/json.ts';
import { readNodeList } from './node-list.ts';
import { CHECK_TIMEOUT_MS } from './silence.ts';

const MAX_ANSWER_BYTES = 64 * 1024;
/** 8 000 nodes are about 6 MB, for which Headscale 0.29 needs a quarter of a second. */
const NODES_LIMITS: NodesLimits = { timeoutMs: 20_000, maxAnswerBytes: 64 * 1024 * 1024 };
/** The capability version to send with `/key`. With any recent one Headscale answers with its Noise key. */
const CAPABILITY_VERSION = 142;

/**
 * The part of Headscale's HTTP API that the watchdog uses. Every call rejects if Headscale cannot be reached. The first two
 * reject with a `NoAnswerError` if Headscale accepts the connection but does not answer.
 */
export interface HeadscaleApi {
  /** The public half of Headscale's Noise key, `mkey:<64 hex>`; undefined if the answer holds no such key. */
  noisePublicKey(): Promise<string | undefined>;
  /** For example `v0.29.2`; undefined before 0.27, which has no `/version`. */
  version(): Promise<string | undefined>;
  /**
   * All nodes. No machine key comes twice.
   *
   * @param apiKey as `headscale apikeys create` prints it. Error messages never contain it.
   * @throws Error that says what was asked, what came back, and what to do.
   */
  nodes(apiKey: string): Promise<readonly NodeInfo[]>;
  close(): Promise<void>;
}

export interface NodesLimits {
  /** The time limit for the whole answer. */
  readonly timeoutMs: number;
  readonly maxAnswerBytes: number;
}

/** Loaded on first use, because loading it takes a fifth of the start-up time. */
const undici = () => import('undici');

export function headscaleApi(upstream: URL, nodesLimits: NodesLimits = NODES_LIMITS): HeadscaleApi {
  const dispatcher = new LazyAgent(CHECK_TIMEOUT_MS, MAX_ANSWER_BYTES);
  const forNodes = new LazyAgent(nodesLimits.timeoutMs, nodesLimits.maxAnswerBytes);

  async function get(path: string): Promise<JsonFields | undefined> {
    const { request } = await undici();
    const agent = await dispatcher.get();
    const before = dispatcher.accepted;
    try {
      const signal = AbortSignal.timeout(CHECK_TIMEOUT_MS);
      const { statusCode, body } = await request(new URL(path, upstream), { dispatcher: agent, signal });
      const text = await body.text();
      return statusCode === 200 ? fieldsOf(parseJson(text)) : undefined;
    } catch (error) {
      if (!(error instanceof Error && (TIMED_OUT.has(error.name) || error.name === 'ConnectTimeoutError'))) throw error;
      const within = `within ${CHECK_TIMEOUT_MS / 1000} s`;
      if (dispatcher.accepted === before) throw new Error(`no connection ${within}`, { cause: error });
      throw new NoAnswerError(`the connection was accepted, and GET ${path} not answered ${within}`, { cause: error });
    }
  }

  return {
    async noisePublicKey() {
      const answer = await get(`/key?v=${CAPABILITY_VERSION}`);
      const key = answer?.publicKey;
      return typeof key === 'string' && /^mkey:[0-9a-f]{64}$/.test(key) ? key : undefined;
    },
    async version() {
      const version = (await get('/version'))?.version;
      return typeof version === 'string' ? version : undefined;
    },
    nodes: (apiKey) => askForNodes(new URL('/api/v1/node', upstream), apiKey, forNodes, nodesLimits),
    async close() {
      await Promise.all([dispatcher.destroy(), forNodes.destroy()]);
    },
  };
}

/** An undici agent that is created on first use, and counts its connections. */
class LazyAgent {
  readonly #timeoutMs: number;
  readonly #maxResponseSize: number;
  #agent: Promise<Agent> | undefined;
  #accepted = 0;

  constructor(timeoutMs: number, maxResponseSize: number) {
    this.#timeoutMs = timeoutMs;
    this.#maxResponseSize = maxResponseSize;
  }

  /** How many TCP connections were accepted, whether or not a TLS session followed. */
  get accepted(): number {
    return this.#accepted;
  }

  get(): Promise<Agent> {
    this.#agent ??= this.#make();
    return this.#agent;
  }

  async destroy(): Promise<void> {
    await (await this.#agent)?.destroy();
  }

  async #make(): Promise<Agent> {
    const { Agent, buildConnector } = await undici();
    const connector = buildConnector({ timeout: CHECK_TIMEOUT_MS });
    return new Agent({
      connect: (options, callback) => {
        // The connector returns its socket, although its type does not say so. We need it to tell "no answer" from "no connection".
        const socket = connector(options, callback) as unknown as Socket | undefined;
        socket?.once('connect', () => {
          this.#accepted += 1;
        });
      },
      headersTimeout: this.#timeoutMs,
      bodyTimeout: this.#timeoutMs,
      maxResponseSize: this.#maxResponseSize,
      // Requests are rare, so keeping connections open is not worth it.
      pipelining: 0,
    });
  }
}

const POINT_AT_HEADSCALE = "point --upstream at Headscale's listen_addr";
const NEW_KEY =
  'Headscale refuses the API key; create a new one with `headscale apikeys create` and put it into the file that --headscale-api-key-file names';

async function askForNodes(
  url: URL,
  apiKey: string,
  agent: LazyAgent,
  limits: NodesLimits,
): Promise<readonly NodeInfo[]> {
  const asked = `asking Headscale for its nodes (GET ${url.origin}${url.pathname})`;
  const { status, text } = await answerTo(url, apiKey, agent, limits).catch((error: unknown) => {
    throw new Error(`${asked}: ${withoutAnswer(error, limits)}`, { cause: error });
  });
  if (status !== 200) throw new Error(`${asked}: ${status}, ${refusal(status, text)}`);
  const list = readNodeList(text);
  if (list.ok) return list.nodes;
  throw new Error(`${asked}: 200, but the answer ${list.why}; ${POINT_AT_HEADSCALE}`);
}

async function answerTo(url: URL, apiKey: string, agent: LazyAgent, { timeoutMs }: NodesLimits) {
  const { request } = await undici();
  const { statusCode, body } = await request(url, {
    dispatcher: await agent.get(),
    headers: { authorization: `Bearer ${apiKey}`, accept: 'application/json' },
    // The agent's timeouts restart with each chunk. This one covers the whole answer.
    signal: AbortSignal.timeout(timeoutMs),
  });
  return { status: statusCode, text: await body.text() };
}

/** Names of the errors of `AbortSignal.timeout` and of the agent's two timeouts. */
const TIMED_OUT: ReadonlySet<string> = new Set(['TimeoutError', 'HeadersTimeoutError', 'BodyTimeoutError']);

function withoutAnswer(error: unknown, { timeoutMs, maxAnswerBytes }: NodesLimits): string {
  if (codeOf(error) === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') {
    return `the answer is longer than ${maxAnswerBytes} bytes; ${POINT_AT_HEADSCALE}`;
  }
  if (error instanceof Error && TIMED_OUT.has(error.name))
    return `no complete answer within ${timeoutMs} ms; look in Headscale's log for the cause`;
  return `${reasonOf(error)}; check that Headscale runs, and ${POINT_AT_HEADSCALE}`;
}

function refusal(status: number, text: string): string {
  // Headscale 0.23 answers 500 to an unknown key.
  if (status === 401 || status === 403 || (status === 500 && text === 'Unauthorized')) return NEW_KEY;
  // Following a redirect could send the key to another server.
  if (status >= 300 && status < 400) return `a redirect, which is not followed with the API key; ${POINT_AT_HEADSCALE}`;
  if (status >= 500) return "Headscale or a proxy in front of it failed; look in Headscale's log";
  return `so this is not Headscale's API; ${POINT_AT_HEADSCALE}`;
}
