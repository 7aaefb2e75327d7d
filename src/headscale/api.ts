import type { Socket } from 'node:net';
import type { Agent } from 'undici';
import { type MachineKey, parseMachineKey, parseNodeKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { codeOf, NoAnswerError, reasonOf } from '../lib/errors.ts';
import { ANSWERS_WITHIN_MS } from './silence.ts';

const LONGEST_ANSWER = 64 * 1024;
/** 8 000 nodes are some 6 MB, and Headscale 0.29 takes a quarter of a second over them. */
const NODES_LIMITS: NodesLimits = { timeoutMs: 20_000, longestAnswer: 64 * 1024 * 1024 };
/** The capability version that makes Headscale answer `/key` with its ts2021 key: any recent one does. */
const CAPABILITY_VERSION = 142;

/**
 * Headscale's HTTP API, as far as the watchdog asks it. Every call rejects when Headscale cannot be reached, the first two
 * with a `NoAnswerError` when it accepts the connection and does not answer.
 */
export interface HeadscaleApi {
  /** `mkey:<64 hex>`, the public half of its Noise key; undefined when the answer is not understood. */
  noisePublicKey(): Promise<string | undefined>;
  /** As in `v0.29.2`; undefined before 0.27, which has no `/version`. */
  version(): Promise<string | undefined>;
  /**
   * All nodes, no machine key twice.
   *
   * @param apiKey as `headscale apikeys create` prints it; it is in no error.
   * @throws Error that says what was asked, what came, and the cure.
   */
  nodes(apiKey: string): Promise<readonly NodeInfo[]>;
  close(): Promise<void>;
}

export interface NodesLimits {
  /** For the whole answer. */
  readonly timeoutMs: number;
  /** In bytes. */
  readonly longestAnswer: number;
}

/** Loaded when first needed: that takes a fifth of the time in which clients can be served. */
const undici = () => import('undici');

export function headscaleApi(upstream: URL, nodesLimits: NodesLimits = NODES_LIMITS): HeadscaleApi {
  const dispatcher = new LazyAgent(ANSWERS_WITHIN_MS, LONGEST_ANSWER);
  const forNodes = new LazyAgent(nodesLimits.timeoutMs, nodesLimits.longestAnswer);

  async function get(path: string): Promise<Record<string, unknown> | undefined> {
    const { request } = await undici();
    const agent = await dispatcher.get();
    const before = dispatcher.accepted;
    try {
      const signal = AbortSignal.timeout(ANSWERS_WITHIN_MS);
      const { statusCode, body } = await request(new URL(path, upstream), { dispatcher: agent, signal });
      const text = await body.text();
      return statusCode === 200 ? asObject(text) : undefined;
    } catch (error) {
      if (!(error instanceof Error && (TIMED_OUT.has(error.name) || error.name === 'ConnectTimeoutError'))) throw error;
      const within = `within ${ANSWERS_WITHIN_MS / 1000} s`;
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

/** An agent that is made when it is first needed. */
class LazyAgent {
  readonly #timeoutMs: number;
  readonly #maxResponseSize: number;
  #agent: Promise<Agent> | undefined;
  #accepted = 0;

  constructor(timeoutMs: number, maxResponseSize: number) {
    this.#timeoutMs = timeoutMs;
    this.#maxResponseSize = maxResponseSize;
  }

  /** How many of its connections have been accepted; whether a TLS session came about on them is another matter. */
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
    const connector = buildConnector({ timeout: ANSWERS_WITHIN_MS });
    return new Agent({
      connect: (options, callback) => {
        // It returns its socket, whatever its type says. Without it, no answer would count as no connection.
        const socket = connector(options, callback) as unknown as Socket | undefined;
        socket?.once('connect', () => {
          this.#accepted += 1;
        });
      },
      headersTimeout: this.#timeoutMs,
      bodyTimeout: this.#timeoutMs,
      maxResponseSize: this.#maxResponseSize,
      // Asked seldom: a connection kept between two questions would only be one more to lose.
      pipelining: 0,
    });
  }
}

const POINT_AT_HEADSCALE = "point --upstream at Headscale's listen_addr";
const NEW_KEY =
  'the API key is refused; make a new one with `headscale apikeys create` and put it into the file of --headscale-api-key-file';

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
    // The agent's timeouts begin anew with each chunk; this one does not.
    signal: AbortSignal.timeout(timeoutMs),
  });
  return { status: statusCode, text: await body.text() };
}

/** The signal's, and the agent's for a silence before and within an answer. */
const TIMED_OUT: ReadonlySet<string> = new Set(['TimeoutError', 'HeadersTimeoutError', 'BodyTimeoutError']);

function withoutAnswer(error: unknown, { timeoutMs, longestAnswer }: NodesLimits): string {
  if (codeOf(error) === 'UND_ERR_RES_EXCEEDED_MAX_SIZE') {
    return `the answer is longer than ${longestAnswer} bytes; ${POINT_AT_HEADSCALE}`;
  }
  if (error instanceof Error && TIMED_OUT.has(error.name))
    return `no whole answer in ${timeoutMs} ms; see in Headscale's log what keeps it`;
  return `${reasonOf(error)}; see that Headscale runs, and ${POINT_AT_HEADSCALE}`;
}

function refusal(status: number, text: string): string {
  // 0.23 says 500 of a key it does not know.
  if (status === 401 || status === 403 || (status === 500 && text === 'Unauthorized')) return NEW_KEY;
  // Followed, it would take the key to who knows where.
  if (status >= 300 && status < 400) return `a redirect, which is not followed with the API key; ${POINT_AT_HEADSCALE}`;
  if (status >= 500) return "Headscale, or a proxy before it, has failed at it; see Headscale's log";
  return `which is not Headscale's API; ${POINT_AT_HEADSCALE}`;
}

function asObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** What an answer to `GET /api/v1/node` says, or why it says nothing. */
export type NodeList =
  | { readonly ok: true; readonly nodes: readonly NodeInfo[] }
  | { readonly ok: false; readonly why: string };

/**
 * Reads what Headscale answers to `GET /api/v1/node`: `{"nodes":[{"id":"1","machineKey":"mkey:…",…},…]}`, from 0.23 to
 * 0.29. A node it cannot read is left out. No machine key comes twice: see `theOneThatIsMeant`.
 */
export function readNodeList(text: string): NodeList {
  const answer = parsed(text);
  if (answer === undefined) return { ok: false, why: 'is not JSON' };
  const list = fieldsOf(answer).nodes;
  if (!Array.isArray(list)) return { ok: false, why: "has no list 'nodes'" };
  const byKey = new Map<MachineKey, Entry[]>();
  for (const item of list as unknown[]) {
    const entry = entryOf(item);
    if (entry === undefined) continue;
    const entries = byKey.get(entry.node.machineKey);
    if (entries === undefined) byKey.set(entry.node.machineKey, [entry]);
    else entries.push(entry);
  }
  // One that cannot be read may be broken; when it is all of them, it is we who cannot read.
  if (byKey.size === 0 && list.length > 0) return { ok: false, why: `has no readable node among ${list.length}` };
  return { ok: true, nodes: [...byKey.values()].map(theOneThatIsMeant) };
}

interface Entry {
  readonly node: NodeInfo;
  readonly online: boolean;
  readonly lastSeen: unknown;
}

function entryOf(item: unknown): Entry | undefined {
  const { machineKey, nodeKey, id, givenName, name, user, online, lastSeen } = fieldsOf(item);
  const keys = { machineKey: parseMachineKey(textOf(machineKey)), nodeKey: parseNodeKey(textOf(nodeKey)) };
  if (keys.machineKey === undefined || keys.nodeKey === undefined) return undefined;
  const node = {
    machineKey: keys.machineKey,
    nodeKey: keys.nodeKey,
    id: typeof id === 'number' ? String(id) : textOf(id),
    name: textOf(givenName) || textOf(name),
    user: textOf(fieldsOf(user).name),
  };
  return { node, online: online === true, lastSeen };
}

/**
 * A machine that has logged in as two users is two nodes of one machine key. Meant is the one it is now: that is clear where
 * one alone is online, and Headscale shows the one before as online for some seconds more.
 */
function theOneThatIsMeant(entries: readonly Entry[]): NodeInfo {
  const online = entries.filter((entry) => entry.online);
  const candidates = online.length > 0 ? online : entries;
  const meant = candidates.reduce((one, other) => (dateOf(one.lastSeen) > dateOf(other.lastSeen) ? one : other)).node;
  const others = candidates.flatMap(({ node }) => (node === meant ? [] : [node]));
  return others.length === 0 ? meant : { ...meant, others };
}

function dateOf(lastSeen: unknown): number {
  const date = Date.parse(textOf(lastSeen));
  return Number.isNaN(date) ? Number.NEGATIVE_INFINITY : date;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function fieldsOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
