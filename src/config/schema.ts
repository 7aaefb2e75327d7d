import { z } from 'zod';
import { type MachineKey, type NodeKey, parseMachineKey, parseNodeKey } from '../identity/keys.ts';
import { DEFAULTS } from './defaults.ts';
import { parseDuration } from './duration.ts';
import { type HostPort, parseHostPort } from './host-port.ts';
import type { Listen } from './listen.ts';
import { looksLikeKey, quoted } from './problem.ts';
import { parseRedisUrl, type RedisSettings } from './redis.ts';
import type { Cidr } from './trusted-proxies.ts';

/** How long newcomers are held: as Headscale's version needs it, a fixed time at most, or never. */
export type Hold =
  | { readonly kind: 'auto' }
  | { readonly kind: 'at most'; readonly ms: number }
  | { readonly kind: 'off' };

/** A client gives up on its control connection after ten seconds. */
const LONGEST_HOLD_MS = 5000;
const MOST_NODES = 100_000;

/**
 * A flag's text, or what YAML made of it: `30` is a number there, and the unit it lacks is what to tell.
 * `.nan` and `.inf` are numbers to YAML and none to zod; what to write instead, each setting says itself.
 */
const scalar = z.custom((value) => /^(string|number|boolean)$/.test(typeof value)).transform(String);

function isBare(text: string): boolean {
  return /^\d+(\.\d+)?$/.test(text);
}

function notDuration(text: string, others: string): string {
  if (isBare(text)) return `${quoted(text)} has no unit: write ${text}s, ${text}ms, ${text}m or ${text}h`;
  return `${quoted(text)} is not a duration: write 1500ms, 30s, 2m or 1h${others}`;
}

/** A duration in milliseconds between two; where it can be `off`, that is 0. */
function duration(shortest: string, longest: string, off?: 'off') {
  const others = off === undefined ? '' : ', or off';
  return scalar.transform((text, context): number => {
    if (text === off) return 0;
    const ms = parseDuration(text);
    if (ms === undefined) context.addIssue(notDuration(text, others));
    else if (ms < (parseDuration(shortest) ?? 0)) {
      context.addIssue(`${quoted(text)} is too short: write ${shortest} or more${others}`);
    } else if (ms > (parseDuration(longest) ?? 0)) {
      context.addIssue(`${quoted(text)} is too long: write ${longest} or less${others}`);
    } else return ms;
    return z.NEVER;
  });
}

const hostPort = scalar.transform((text, context) => {
  const parsed = parseHostPort(text);
  if (parsed !== undefined) return parsed;
  const example = /^\d+$/.test(text) ? `:${text}` : '0.0.0.0:8081, [::1]:8081 or :8081';
  context.addIssue(`${quoted(text)} is not HOST:PORT: write ${example}`);
  return z.NEVER;
});

const upstream = scalar.transform((text, context) => {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.hostname === '') {
    context.addIssue(`${quoted(text)} is not a URL of Headscale: write http://HOST:PORT or https://HOST:PORT`);
    return z.NEVER;
  }
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '' || url.username !== '' || url.password !== '') {
    const shown = quoted(text.replace(/\/\/[^/]*@/, '//…@'));
    context.addIssue(`${shown} says more than a host and a port: write ${url.origin}`);
    return z.NEVER;
  }
  return url;
});

const hold = scalar.transform((text, context): Hold => {
  if (text === 'auto' || text === 'off') return { kind: text };
  const ms = parseDuration(text);
  if (ms === undefined && isBare(text)) context.addIssue(notDuration(text, ''));
  else if (ms === undefined) {
    context.addIssue(`${quoted(text)} is neither a duration nor 'auto' nor 'off': write 1500ms, auto or off`);
  } else if (ms <= LONGEST_HOLD_MS) return ms === 0 ? { kind: 'off' } : { kind: 'at most', ms };
  else context.addIssue(`${quoted(text)} is too long: 5s at most, since a client gives up after ten`);
  return z.NEVER;
});

/** A word of the operator's own; one that YAML takes for something else is not guessed at. */
function word(what: string) {
  const error = ({ input }: { input?: unknown }): string =>
    `${quoted(input)} is a ${typeof input} to YAML: put it in quotes, '${String(input)}'`;
  return z.string({ error }).min(1, `needs ${what}`);
}

const IS_KEY =
  'this is a key, not the path of a file that holds it: name the file, with ./ before it if it only looks like one';

/** @param what is in the file: none, or what is to be named when it is missing. */
function keyFile(what?: string) {
  const needed = what === undefined ? 'the path of a file' : `the path of a file with ${what}`;
  return word(needed).refine((path) => !looksLikeKey(path), { error: IS_KEY });
}

function key<Key>(what: string, prefix: string, parse: (text: string) => Key | undefined) {
  return scalar.transform((text, context): Key => {
    const parsed = parse(text);
    if (parsed !== undefined) return parsed;
    context.addIssue(`${quoted(text)} is no ${what}: write ${prefix}: and 64 hex digits, 0-9 and a-f`);
    return z.NEVER;
  });
}

const yesOrNo = z.boolean({
  error: ({ input }) =>
    /^(true|false)$/.test(String(input))
      ? `${quoted(input)} is text: write ${input} without quotes`
      : `${quoted(input)} is neither true nor false: write one of them`,
});

const count = scalar.transform((text, context) => {
  const number = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (number <= MOST_NODES) return number;
  context.addIssue(`${quoted(text)} is no number of nodes: write a whole number from 0, for none, to ${MOST_NODES}`);
  return z.NEVER;
});

const redisUrl = scalar.transform((text, context) => {
  const parsed = parseRedisUrl(text);
  if (typeof parsed !== 'string') return parsed;
  context.addIssue(`${quoted(text.replace(/\/\/[^/]*@/, '//…@'))} ${parsed}`);
  return z.NEVER;
});

/** Part of names in Redis and of texts: what stands there must not be taken for something else. */
const plainName = word('a name').refine((text) => /^[\w.-]{1,60}$/.test(text), {
  error: ({ input }) => `${quoted(input)} is no name: write up to 60 of letters, digits, . _ and -`,
});

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
  readonly metricsMaxNodes: number;
  readonly logLevel: LogLevel;
}
