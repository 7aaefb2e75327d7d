import { type Clock, systemClock } from '../lib/clock.ts';
import { codeOf, NoAnswerError, speaksNoTls } from '../lib/errors.ts';
import { fieldsOf, type JsonFields, parseJson } from '../lib/json.ts';
import { LazyAgent, TIMED_OUT, undici } from './agent.ts';
import type { NodesAccess } from './capabilities.ts';
import type { ListedNodes } from './node-list.ts';
import { NodeRequests, type NodesLimits, POINT_AT_HEADSCALE } from './node-requests.ts';
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
  const dispatcher = new LazyAgent(CHECK_TIMEOUT_MS, MAX_ANSWER_BYTES);
  const nodeRequests = new NodeRequests(upstream, options.clock ?? systemClock, options.nodesLimits);

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
    nodes: (access) => nodeRequests.nodes(access),
    async close() {
      await Promise.all([dispatcher.destroy(), nodeRequests.close()]);
    },
  };
}

/** What to do about the error of a call. */
export function adviceOn(error: unknown, { host }: URL): string {
  const code = codeOf(error) ?? '';
  if (error instanceof NoAnswerError) return `look at its log and load, and restart it, or ${POINT_AT_HEADSCALE}`;
  if (speaksNoTls(error)) return `write http://${host}, or ${POINT_AT_HEADSCALE}`;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return 'write a name that is in its certificate';
  if (/SELF_SIGNED|ISSUER_CERT|VERIFY_LEAF/.test(code))
    return 'set NODE_EXTRA_CA_CERTS to the file with the certificate of the authority that signed it';
  return `start it, or ${POINT_AT_HEADSCALE}`;
}
