import { z } from 'zod';
import { parseMachineKey, parseNodeKey } from '../identity/keys.ts';
import { DEFAULTS } from './defaults.ts';
import { quoted } from './problems.ts';
import { LOG_LEVELS } from './types.ts';
import {
  count,
  duration,
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
} from './readers.ts';

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
