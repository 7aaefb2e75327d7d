import { type Clock, systemClock } from '../lib/clock.ts';
import { sendRequest } from '../lib/http-request.ts';
import { fieldsOf, type JsonFields, parseJson } from '../lib/json.ts';
import type { NodesAccess } from './capabilities.ts';
import type { ListedNodes } from './node-list.ts';
import { NodeRequests, type NodesLimits } from './node-requests.ts';
import { CHECK_TIMEOUT_MS } from './silence.ts';

const MAX_ANSWER_BYTES = 64 * 1024;
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
   * @throws Error that says what was asked, what came back, and what to do. It never contains a key, a secret or a token.
   */
  nodes(access: NodesAccess): Promise<ListedNodes>;
  close(): Promise<void>;
}

interface HeadscaleApiOptions {
  readonly clock?: Clock;
  readonly nodesLimits?: NodesLimits;
}

export function headscaleApi(upstream: URL, options: HeadscaleApiOptions = {}): HeadscaleApi {
  const ended = new AbortController();
  const nodeRequests = new NodeRequests(upstream, options.clock ?? systemClock, options.nodesLimits);

  async function get(path: string): Promise<JsonFields | undefined> {
    const limits = { withinMs: CHECK_TIMEOUT_MS, mostBytes: MAX_ANSWER_BYTES };
    const { status, text } = await sendRequest(new URL(path, upstream), { ...limits, signal: ended.signal });
    return status === 200 ? fieldsOf(parseJson(text)) : undefined;
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
    nodes: (access) => nodeRequests.nodes(access),
    async close() {
      ended.abort();
      nodeRequests.close();
    },
  };
}
