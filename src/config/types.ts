/** The configuration as the program uses it. Durations are in milliseconds, sizes in bytes. */
export interface Config {
  readonly upstream: URL;
  /** The path of Headscale's `noise_private.key`. */
  readonly noiseKeyFile: string | undefined;
  /** The path of a file with a Headscale API key. */
  readonly apiKeyFile: string | undefined;
  /** At least one. */
  readonly listen: readonly Listen[];
  readonly trustedProxies: readonly Cidr[];
  /** The folder where an ACME client puts its answers to HTTP-01 challenges. */
  readonly acmeWebroot: string | undefined;
  readonly admin: HostPort;
  /** The path of a file with the token that the admin server asks for. */
  readonly adminTokenFile: string | undefined;
  /** For every node that no rule matches. */
  readonly policy: NodePolicy;
  /** The first rule that matches a node counts. */
  readonly rules: readonly NodeRule[];
  /** Whether to sever a control stream on which Headscale has been silent for too long. */
  readonly upstreamSilentSever: boolean;
  /** Over how long a stop ends the streams; 0: all at once. */
  readonly drainMs: number;
  /** Undefined where this is the only watchdog. */
  readonly redis: RedisSettings | undefined;
  readonly limits: Limits;
  /** How fast new control connections go to Headscale; undefined: at once. */
  readonly pace: Rate | undefined;
  readonly metricsMaxNodes: number;
  readonly logLevel: LogLevel;
}

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];

/** A TCP address. */
export interface HostPort {
  /** A name or an address; an IPv6 address has no brackets here. */
  readonly host: string;
  readonly port: number;
}

/** An address to listen on, and how. */
export interface Listen extends HostPort {
  /** Undefined for plain HTTP. */
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  /** Whether browsers are redirected to HTTPS. */
  readonly redirect: boolean;
  /** Whether each connection begins with a PROXY protocol header. */
  readonly proxyProtocol: boolean;
}

/** An address or a range of addresses, as in `10.0.0.0/8`. */
export type Cidr = string & { readonly __brand: 'Cidr' };

/** What to do about the streams of a node. */
export interface NodePolicy {
  /** How long the client of an old stream may be silent before the newcomer takes over. */
  readonly silentAfterMs: number;
  /** How long data may stay unacknowledged before the stream is gone; 0: without limit. */
  readonly goneAfterMs: number;
  /** After how much quiet to probe the client; 0: never. */
  readonly probeIdleMs: number;
  readonly hold: Hold;
  /** Judge, log and count, but hold and sever nothing. */
  readonly observeOnly: boolean;
}

/** How long to hold newcomers: as long as Headscale's version needs it, up to a fixed time, or never. */
export type Hold =
  | { readonly kind: 'auto' }
  | { readonly kind: 'at most'; readonly ms: number }
  | { readonly kind: 'off' };

/** A rule of the file's `nodes:`. */
export interface NodeRule {
  readonly match: NodeMatch;
  /** What differs from the policy for all nodes. */
  readonly policy: Partial<NodePolicy>;
}

/** The nodes that a rule is about. A node has to match everything that is here. */
interface NodeMatch {
  /** A glob: `*` is any text, `?` any character. */
  readonly name?: string;
  readonly user?: string;
  /** 64 hex digits, in lower case. */
  readonly machineKey?: string;
  /** 64 hex digits, in lower case. */
  readonly nodeKey?: string;
}

export interface Limits {
  readonly connections: number;
  readonly connectionsPerAddress: number;
  readonly handshakes: Rate;
  readonly handshakesPerAddress: Rate;
  readonly streamsPerNode: number;
  /** How many newcomers may be held at once. */
  readonly held: number;
  readonly headerBytes: number;
  /** From the start of a connection, TLS included, to the end of its first request's head; later, for each head. */
  readonly headerMs: number;
  /** Of a plain request. */
  readonly bodyBytes: number;
  readonly bodyMs: number;
  /** What a client sends before Headscale has answered its upgrade. */
  readonly earlyBytes: number;
  /** How many events the history keeps. */
  readonly history: number;
}

/** Tokens a second, and how many of them may be taken at once. */
interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

export interface RedisSettings {
  readonly url: RedisUrl;
  readonly passwordFile: string | undefined;
  readonly caFile: string | undefined;
  readonly prefix: string;
  readonly replicaName: string;
}

/** Where Redis is. */
export interface RedisUrl {
  /** One server, sentinels that know the master, or a cluster. */
  readonly kind: 'one' | 'sentinel' | 'cluster';
  /** The servers, or the sentinels; at least one. */
  readonly nodes: readonly HostPort[];
  readonly isTls: boolean;
  readonly username: string | undefined;
  readonly db: number;
  /** Only for `sentinel`. */
  readonly masterName: string | undefined;
}
