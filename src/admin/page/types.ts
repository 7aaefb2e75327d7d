/** What the admin API answers, as far as the page reads it: see docs/api.md. */
export interface NodeOfApi {
  readonly id: string;
  readonly name: string;
  readonly user: string;
  readonly nodeKey: string;
}

export interface StreamOfApi {
  readonly id: number;
  /** Which watchdog has it; null where there is one alone. */
  readonly replica: string | null;
  readonly kind: string;
  readonly machineKey: string | null;
  readonly node: NodeOfApi | null;
  readonly remoteAddress: string;
  readonly openedAt: string;
  readonly lastHeardAt: string;
  readonly bytesReceived: number;
  readonly bytesSent: number;
  readonly state: string;
  readonly wouldSever: string | null;
  readonly kernel: { readonly rttMs: number } | null;
  readonly contests: readonly { readonly role: string; readonly against: number; readonly waitingFor: string | null }[];
}

export interface EventOfApi {
  readonly seq: number;
  readonly date: string;
  readonly kind: string;
  readonly machineKey: string | null;
  readonly node: NodeOfApi | null;
  readonly stream: number | null;
  readonly otherStream: number | null;
  readonly reason: string | null;
  readonly sentence: string;
}

export interface ListedNode {
  readonly machineKey: string;
  readonly id: string | null;
  readonly name: string | null;
  readonly user: string | null;
  readonly nodeKey: string | null;
  readonly streams: readonly number[];
  readonly lastEventAt: string | null;
}

export interface Minute {
  readonly at: number;
  readonly streams: number;
  readonly takeovers: number;
  readonly gone: number;
}

export interface Overview {
  readonly version: string;
  readonly upstream: {
    readonly url: string;
    readonly up: boolean | null;
    readonly silentOn: 'requests' | 'streams' | null;
    readonly isHeadscale: boolean | null;
    readonly reason: string | null;
    readonly version: string | null;
  };
  readonly noiseKeyMatches: boolean | null;
  readonly observeOnly: boolean;
  readonly needsToken: boolean;
  readonly duplicateKeys: number;
  /** Whether Redis can be used; null where there is none. */
  readonly redisUp: boolean | null;
  /** What is wrong with the proxies in front. */
  readonly frontProxies: readonly { readonly sentence: string }[];
  readonly streams: { readonly total: number; readonly contested: number; readonly held: number };
  readonly lastHour: { readonly takeovers: number; readonly gone: number; readonly minutes: readonly Minute[] };
  readonly lastSeq: number;
}
