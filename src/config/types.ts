import type { MachineKey, NodeKey } from '../identity/keys.ts';
import type { Rate } from '../lib/token-bucket.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];

/** A TCP address. */
export interface HostPort {
  /** A name or an address; an IPv6 address stands without brackets. */
  readonly host: string;
  readonly port: number;
}

/** What is done for one node. Durations are in milliseconds. */
export interface NodePolicy {
  /** How long an old stream's client may say nothing before rule 2 calls it silent. */
  readonly silentAfterMs: number;
  /** How long data may stay unacknowledged before the stream is gone; 0: for ever. */
  readonly goneAfterMs: number;
  /** After how much quiet the client's kernel is asked for a sign of life; 0: never. */
  readonly probeIdleMs: number;
  readonly hold: Hold;
  /** Judge, log and count, but hold and sever nothing. */
  readonly observeOnly: boolean;
}

/** Whom a rule of the file's `nodes:` is about: everything it names must hold. */
export interface NodeMatch {
  /** A glob: `*` any characters, `?` one. */
  readonly name?: string;
  readonly user?: string;
  readonly machineKey?: MachineKey;
  readonly nodeKey?: NodeKey;
}

export interface NodeRule {
  readonly match: NodeMatch;
  /** What differs from the policy for all. */
  readonly policy: Partial<NodePolicy>;
}

/** What is too much. Sizes in bytes, durations in milliseconds. */
export interface Limits {
  readonly connections: number;
  readonly connectionsPerAddress: number;
  readonly handshakes: Rate;
  readonly handshakesPerAddress: Rate;
  /** Of one machine key. */
  readonly streamsPerNode: number;
  /** Newcomers; more are not held. */
  readonly held: number;
  readonly headerBytes: number;
  /** From the start of a connection to the end of its first request's head, TLS and all; then for each head. */
  readonly headerMs: number;
  /** Of a plain request. */
  readonly bodyBytes: number;
  readonly bodyMs: number;
  /** What a client sends before Headscale has answered its upgrade. */
  readonly earlyBytes: number;
  /** Events. */
  readonly history: number;
}

/** The settings as the program uses them. Durations are in milliseconds. */
export interface Config {
  readonly upstream: URL;
  /** The path of Headscale's `noise_private.key`. */
  readonly noiseKeyFile: string | undefined;
  /** The path of a file with one of Headscale's API keys. */
  readonly apiKeyFile: string | undefined;
  /** One at least. */
  readonly listen: readonly Listen[];
  readonly trustedProxies: readonly Cidr[];
  /** A folder in which an ACME client leaves its answers to HTTP-01 challenges. */
  readonly acmeWebroot: string | undefined;
  readonly admin: HostPort;
  /** The path of a file with the token that the admin server asks for. */
  readonly adminTokenFile: string | undefined;
  /** For every node that no rule is about. */
  readonly policy: NodePolicy;
  /** The first that matches counts. */
  readonly rules: readonly NodeRule[];
  /** Whether a control stream that Headscale says nothing on is severed. */
  readonly upstreamSilentSever: boolean;
  /** Over how long the streams are ended when it stops; 0: all at once. */
  readonly drainMs: number;
  /** Undefined where there is one watchdog alone. */
  readonly redis: RedisSettings | undefined;
  readonly limits: Limits;
  /** How fast new control connections go to Headscale; undefined: as they come. */
  readonly pace: Rate | undefined;
  readonly metricsMaxNodes: number;
  readonly logLevel: LogLevel;
}

/** An address to listen on, and how. */
export interface Listen extends HostPort {
  /** Undefined where it speaks plain HTTP. */
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  /** Whether browsers are sent on to HTTPS. */
  readonly redirect: boolean;
  /** Whether each connection begins with a PROXY protocol header. */
  readonly proxyProtocol: boolean;
}

/** How long newcomers are held: as Headscale's version needs it, a fixed time at most, or never. */
export type Hold =
  | { readonly kind: 'auto' }
  | { readonly kind: 'at most'; readonly ms: number }
  | { readonly kind: 'off' };

/** Proxies that may say where a client is: addresses or ranges of them, as in `10.0.0.0/8`. */
export type Cidr = string & { readonly __brand: 'Cidr' };

/** Where Redis is, as a URL tells it. */
export interface RedisUrl {
  /** `one`: a single server; `sentinel`: who is master, its sentinels tell; `cluster`. */
  readonly kind: 'one' | 'sentinel' | 'cluster';
  /** Servers, or sentinels; one at least. */
  readonly nodes: readonly HostPort[];
  readonly isTls: boolean;
  readonly username: string | undefined;
  readonly db: number;
  /** Of `sentinel` alone. */
  readonly masterName: string | undefined;
}

/** What is set about Redis. */
export interface RedisSettings {
  readonly url: RedisUrl;
  readonly passwordFile: string | undefined;
  readonly caFile: string | undefined;
  readonly prefix: string;
  readonly replicaName: string;
}
