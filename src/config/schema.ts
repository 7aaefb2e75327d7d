import { z } from 'zod';
import { type MachineKey, type NodeKey, parseMachineKey, parseNodeKey } from '../identity/keys.ts';
import type { Rate } from '../lib/token-bucket.ts';
import { DEFAULTS } from './defaults.ts';
import type { HostPort } from './host-port.ts';
import type { Listen } from './listen.ts';
import { quoted } from './problem.ts';
import type { RedisSettings } from './redis.ts';
import type { Cidr } from './trusted-proxies.ts';
import {
  count,
  duration,
  type Hold,
  hold,
  hostPort,
  key,
  keyFile,
  number,
  plainName,
  redisUrl,
  size,
  upstream,
  word,
  yesOrNo,
} from './values.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export const SHORTEST_PROBE_IDLE = '5s';

const policy = {
  silentAfter: duration('1s', '24h'),
  goneAfter: duration('10s', '24h', 'off'),
  probeIdle: duration(SHORTEST_PROBE_IDLE, '2h', 'off'),
  hold,
  observeOnly: yesOrNo,
};

/** Settings of which there may be several: a flag given more than once, a list in the file. */
export const LIST_SETTINGS = ['listen', 'trustedProxies'] as const;

/** The settings of which there is one, each a flag and a key of the file. */
export const configSchema = z.strictObject({
  upstream: upstream.prefault(DEFAULTS.upstream),
  noiseKey: keyFile().optional(),
  headscaleApiKeyFile: keyFile().optional(),
  admin: hostPort.prefault(DEFAULTS.admin),
  adminTokenFile: keyFile().optional(),
  acmeWebroot: word('the path of a folder').optional(),
  silentAfter: policy.silentAfter.prefault(DEFAULTS.silentAfter),
  goneAfter: policy.goneAfter.prefault(DEFAULTS.goneAfter),
  probeIdle: policy.probeIdle.prefault(DEFAULTS.probeIdle),
  hold: hold.prefault(DEFAULTS.hold),
  observeOnly: yesOrNo.prefault(DEFAULTS.observeOnly),
  upstreamSilentSever: yesOrNo.prefault(DEFAULTS.upstreamSilentSever),
  drain: duration('1s', '10m', 'off').prefault(DEFAULTS.drain),
  redis: redisUrl.optional(),
  redisPasswordFile: keyFile('a password').optional(),
  redisCaFile: word('the path of a file').optional(),
  redisPrefix: plainName.prefault(DEFAULTS.redisPrefix),
  replicaName: plainName.optional(),
  maxConnections: number(10, 1_000_000).prefault(DEFAULTS.maxConnections),
  maxConnectionsPerAddress: number(1, 1_000_000).prefault(DEFAULTS.maxConnectionsPerAddress),
  maxHandshakes: number(1, 100_000).prefault(DEFAULTS.maxHandshakes),
  maxHandshakesPerAddress: number(1, 100_000).prefault(DEFAULTS.maxHandshakesPerAddress),
  maxStreamsPerNode: number(2, 10_000).prefault(DEFAULTS.maxStreamsPerNode),
  maxHeld: number(0, 100_000).prefault(DEFAULTS.maxHeld),
  maxHeaderSize: size('4KiB', '256KiB').prefault(DEFAULTS.maxHeaderSize),
  headerTimeout: duration('2s', '2m').prefault(DEFAULTS.headerTimeout),
  maxBodySize: size('64KiB', '1GiB').prefault(DEFAULTS.maxBodySize),
  bodyTimeout: duration('2s', '1h').prefault(DEFAULTS.bodyTimeout),
  maxEarlySize: size('1KiB', '16MiB').prefault(DEFAULTS.maxEarlySize),
  maxHistory: number(100, 1_000_000).prefault(DEFAULTS.maxHistory),
  upstreamRate: number(1, 10_000, 'off').prefault(DEFAULTS.upstreamRate),
  upstreamBurst: number(1, 100_000).prefault(DEFAULTS.upstreamBurst),
  metricsMaxNodes: count.prefault(DEFAULTS.metricsMaxNodes),
  logLevel: z
    .enum(LOG_LEVELS, { error: ({ input }) => `${quoted(input)} is none of ${LOG_LEVELS.join(', ')}` })
    .prefault(DEFAULTS.logLevel),
});

/** Every setting, as the program names it. */
export const SETTING_NAMES: readonly string[] = [...Object.keys(configSchema.shape), ...LIST_SETTINGS];

/** One of `listen`, where it is a mapping in the file, or a URL with a query. */
export const listenSchema = z.strictObject({
  address: hostPort,
  cert: keyFile('a certificate').optional(),
  key: keyFile('a private key').optional(),
  redirect: yesOrNo.prefault(false),
  proxyProtocol: yesOrNo.prefault(false),
});

/** One of the file's `nodes:`: whom it is about, and what differs for them. */
export const ruleSchema = z.strictObject({
  name: word('a name').optional(),
  user: word('a name').optional(),
  machineKey: key('machine key', 'mkey', parseMachineKey).optional(),
  nodeKey: key('node key', 'nodekey', parseNodeKey).optional(),
  silentAfter: policy.silentAfter.optional(),
  goneAfter: policy.goneAfter.optional(),
  probeIdle: policy.probeIdle.optional(),
  hold: hold.optional(),
  observeOnly: yesOrNo.optional(),
});

export type Settings = z.output<typeof configSchema>;
export type ListenSettings = z.output<typeof listenSchema>;
export type RuleSettings = z.output<typeof ruleSchema>;

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
