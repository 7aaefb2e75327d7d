import { Agent, request } from 'undici';

const TIMEOUT_MS = 5000;
const LONGEST_ANSWER = 64 * 1024;
/** The capability version that makes Headscale answer `/key` with its ts2021 key: any recent one does. */
const CAPABILITY_VERSION = 142;

/** Headscale's HTTP API, as far as the watchdog asks it. Every call rejects when Headscale cannot be reached. */
export interface HeadscaleApi {
  /** `mkey:<64 hex>`, the public half of its Noise key; undefined when the answer is not understood. */
  noisePublicKey(): Promise<string | undefined>;
  /** As in `v0.29.2`; undefined before 0.27, which has no `/version`. */
  version(): Promise<string | undefined>;
  close(): Promise<void>;
}

export function headscaleApi(upstream: URL): HeadscaleApi {
  const dispatcher = new Agent({
    connect: { timeout: TIMEOUT_MS },
    headersTimeout: TIMEOUT_MS,
    bodyTimeout: TIMEOUT_MS,
    maxResponseSize: LONGEST_ANSWER,
    // Asked once a minute: a connection kept between two questions would only be one more to lose.
    pipelining: 0,
  });

  async function get(path: string): Promise<Record<string, unknown> | undefined> {
    const { statusCode, body } = await request(new URL(path, upstream), { dispatcher });
    const text = await body.text();
    return statusCode === 200 ? asObject(text) : undefined;
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
    close: () => dispatcher.destroy(),
  };
}

function asObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
