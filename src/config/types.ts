import type { Rate } from '../lib/token-bucket.ts';

/** The configuration as the program uses it. Durations are in milliseconds, sizes in bytes. */
export interface Config {
  /** The absolute path of the file with settings; undefined if there is none. */
  readonly file: string | undefined;
  readonly upstream: URL;
  /** The path of Headscale's `noise_private.key`. */
  readonly noiseKeyFile: string | undefined;
  /** The path of a file with a Headscale API key. */
  readonly apiKeyFile: string | undefined;
  /** The path of a file with the secret of a Headscale OAuth client. */
  readonly oauthClientFile: string | undefined;
  /** One address or more. */
  readonly listen: readonly Listen[];
  readonly trustedProxies: readonly Cidr[];
  /** The folder where an ACME client puts its answers to HTTP-01 challenges. */
  readonly acmeWebroot: string | undefined;
  readonly admin: HostPort;
  /** The path of a file with the admin server's token. */
  readonly adminTokenFile: string | undefined;
  /** The path of a file with the token that may only read. */
  readonly adminReadTokenFile: string | undefined;
  /** The sites whose pages may read the admin API. */
  readonly adminCorsOrigins: readonly string[];
  /** The policy for every node that no rule matches. */
  readonly policy: NodePolicy;
  /** The first rule that matches a node applies to it. */
  readonly rules: readonly NodeRule[];
  readonly places: Places;
  readonly reconcile: ReconcileMode;
  /** Who is notified of what. */
  readonly notify: readonly NotifyTarget[];
  /** Whether to sever a control stream if Headscale is silent on it for too long. */
  readonly upstreamSilentSever: boolean;
  /** The time over which a stop spreads the ends of the streams; 0: all at once. */
  readonly drainMs: number;
  /** Undefined if this is the only watchdog. */
  readonly redis: RedisSettings | undefined;
  readonly limits: Limits;
  /** How fast new control connections go to Headscale; undefined: without a limit. */
  readonly pace: Rate | undefined;
  /** The path of the file that keeps the history. */
  readonly historyFile: string | undefined;
  readonly metricsMaxNodes: number;
  readonly logLevel: LogLevel;
}

/** What to do where Headscale and the watchdog disagree about a node. */
export const RECONCILE_MODES = ['off', 'report', 'heal'] as const;

export type ReconcileMode = (typeof RECONCILE_MODES)[number];

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];

/** A TCP address. */
export interface HostPort {
  /** A name or an address. An IPv6 address has no brackets. */
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

/** The settings that can differ from node to node. */
export interface NodePolicy {
  /** How long an old stream's client may be silent before the newcomer takes over. */
  readonly silentAfterMs: number;
  /** How long data may stay unacknowledged before the stream counts as gone; 0: for ever. */
  readonly goneAfterMs: number;
  /** The quiet time after which the client is probed; 0: never. */
  readonly probeIdleMs: number;
  readonly hold: Hold;
  /** Whether to judge, log and count only: nothing is held or severed. */
  readonly observeOnly: boolean;
  /** How long a node must be away before it counts as offline; 0: it never does. */
  readonly offlineAfterMs: number;
}

/** Where the operator gave what may differ from node to node, for somebody who asks why a node has these settings. */
export interface Places {
  /** Of the policy for all nodes: `--silent-after`, a variable, `watchdog.yaml:3`, or `default`. */
  readonly policy: Readonly<Record<keyof NodePolicy, string>>;
  /** Of each rule: `watchdog.yaml:12`. */
  readonly rules: readonly string[];
}

/** How long to hold newcomers: as Headscale's version needs it, up to a fixed time, or not at all. */
export type Hold =
  | { readonly kind: 'auto' }
  | { readonly kind: 'at most'; readonly ms: number }
  | { readonly kind: 'off' };

/** A rule of the file's `nodes:`. */
export interface NodeRule {
  readonly match: NodeMatch;
  /** The settings that differ from the policy for all nodes. */
  readonly policy: Partial<NodePolicy>;
}

/** The nodes to which a rule applies. A node must match every condition. */
export interface NodeMatch {
  /** A glob: `*` is any text, `?` any character. */
  readonly name?: string;
  readonly user?: string;
  /** 64 hex digits, in lower case. */
  readonly machineKey?: string;
  /** 64 hex digits, in lower case. */
  readonly nodeKey?: string;
}

/** What notifications are about. */
export const NOTICE_TYPES = [
  ...(['node.offline', 'node.online', 'node.duplicate', 'node.expiring', 'node.disagrees'] as const),
  ...(['upstream.down', 'upstream.up', 'key.mismatch', 'takeover'] as const),
] as const;

export type NoticeType = (typeof NOTICE_TYPES)[number];

export const NOTIFY_FORMATS = ['standard', 'ntfy', 'gotify', 'slack', 'discord', 'text'] as const;

export type NotifyFormat = (typeof NOTIFY_FORMATS)[number];

/** An item of the file's `notify:`. */
export interface NotifyTarget {
  /** Often a secret: show it only with `formatTarget`. */
  readonly url: URL;
  readonly format: NotifyFormat;
  /** The path of a file with the secret that signs notifications, or with the receiver's token. */
  readonly secretFile: string | undefined;
  readonly types: readonly NoticeType[];
  /** A node must match one of them; undefined: every node. */
  readonly nodes: readonly NodeMatch[] | undefined;
}

export interface Limits {
  readonly connections: number;
  readonly connectionsPerAddress: number;
  readonly handshakes: Rate;
  readonly handshakesPerAddress: Rate;
  readonly streamsPerNode: number;
  /** The most newcomers that are held at once. */
  readonly held: number;
  readonly headerBytes: number;
  /** Time for the head of a request. For the first one it counts from the start of the connection, with TLS. */
  readonly headerMs: number;
  /** The largest body of a plain request. */
  readonly bodyBytes: number;
  readonly bodyMs: number;
  /** The most that a client may send before Headscale has answered its upgrade. */
  readonly earlyBytes: number;
  /** How many events about nodes the history keeps. */
  readonly history: number;
  readonly historyFileBytes: number;
}

export interface RedisSettings {
  readonly url: RedisUrl;
  readonly passwordFile: string | undefined;
  readonly caFile: string | undefined;
  readonly prefix: string;
  readonly replicaName: string;
}

/** Where Redis is, and how to connect to it. */
export interface RedisUrl {
  /** One server, sentinels that know the master's address, or a cluster. */
  readonly kind: 'one' | 'sentinel' | 'cluster';
  /** The servers or the sentinels, one or more. */
  readonly nodes: readonly HostPort[];
  readonly isTls: boolean;
  readonly username: string | undefined;
  readonly db: number;
  /** Only for `sentinel`. */
  readonly masterName: string | undefined;
}
