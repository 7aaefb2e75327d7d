/** The parts of the admin API's answers that the page reads: see docs/api.md. */
export interface ApiNode {
  readonly id: string;
  readonly name: string;
  readonly user: string;
  readonly nodeKey: string;
}

export interface ApiStream {
  readonly id: number;
  /** The replica that has the stream; null if there is only one watchdog. */
  readonly replica: string | null;
  readonly kind: string;
  readonly machineKey: string | null;
  readonly node: ApiNode | null;
  readonly remoteAddress: string;
  readonly openedAt: string;
  readonly lastHeardAt: string;
  readonly bytesReceived: number;
  readonly bytesSent: number;
  readonly state: string;
  readonly wouldSever: string | null;
  readonly kernel: { readonly rttMs: number } | null;
  readonly contests: readonly {
    readonly role: string;
    readonly otherStream: number;
    readonly waitingFor: string | null;
  }[];
}

export interface ApiEvent {
  readonly seq: number;
  readonly time: string;
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  /** Of a warning or an error: see docs/errors.md. */
  readonly code: string | null;
  readonly kind: string;
  readonly machineKey: string | null;
  readonly node: ApiNode | null;
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
    readonly detail: string | null;
    readonly version: string | null;
  };
  readonly noiseKeyMatches: boolean | null;
  readonly observeOnly: boolean;
  readonly needsToken: boolean;
  readonly duplicateKeys: number;
  /** Whether Redis is up; null if no Redis is configured. */
  readonly redisUp: boolean | null;
  /** Problems with the proxies in front of the watchdog. */
  readonly frontProxies: readonly { readonly sentence: string }[];
  readonly streams: { readonly total: number; readonly contested: number; readonly held: number };
  readonly lastHour: { readonly takeovers: number; readonly gone: number; readonly minutes: readonly Minute[] };
  readonly lastSeq: number;
}
