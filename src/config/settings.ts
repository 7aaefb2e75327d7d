import { parseMachineKey, parseNodeKey } from '../identity/keys.ts';
import {
  duration,
  hold,
  hostPort,
  notifyUrl,
  oneOf,
  plainName,
  publicKey,
  type Readable,
  secretFile,
  size,
  upstreamUrl,
  type ValuesOf,
  wholeNumber,
  word,
  yesOrNo,
} from './readers.ts';
import { redisUrl } from './redis.ts';
import { type Cidr, LOG_LEVELS, NOTIFY_FORMATS, RECONCILE_MODES } from './types.ts';

/** What `--help` shows for a setting. */
export interface SettingHelp {
  readonly group: 'Basic' | 'Rules' | 'Limits' | 'Replicas' | 'Notifications' | 'Other';
  /** The argument of the flag, as in `<duration>`; undefined for a switch. */
  readonly takes?: string;
  /** The default as an operator would write it; undefined if there is no default. */
  readonly byDefault?: string | boolean;
  /** The words that it may be. */
  readonly choices?: readonly string[];
  readonly help: string;
}

/** A setting with several values: a repeated flag, or a list in the file. */
interface ListSetting extends SettingHelp {
  readonly isList: true;
  readonly byDefault: string;
}

type Setting<Value> = SettingHelp & Readable<Value>;

export const SHORTEST_PROBE_IDLE = '5s';

/**
 * Every setting, in the order of `--help`. Its name in kebab case is both its flag and its key in the file.
 */
export const SETTINGS = {
  upstream: {
    group: 'Basic',
    takes: '<url>',
    byDefault: 'http://127.0.0.1:8080',
    read: upstreamUrl,
    help: 'where Headscale listens',
  },
  noiseKey: {
    group: 'Basic',
    takes: '<file>',
    read: secretFile(),
    help: "Headscale's noise_private.key; without it the watchdog cannot tell nodes apart and contests no stream",
  },
  headscaleApiKeyFile: {
    group: 'Basic',
    takes: '<file>',
    read: secretFile(),
    help: 'a file with a Headscale API key (headscale apikeys create); with it the watchdog knows the names of nodes',
  },
  headscaleOauthClientFile: {
    group: 'Basic',
    takes: '<file>',
    read: secretFile(),
    help: 'from Headscale 0.30, better than an API key: a file with the secret of an OAuth client that may only read nodes (headscale oauth-clients create --scope devices:core:read)',
  },
  listen: {
    group: 'Basic',
    takes: '<address>',
    byDefault: '0.0.0.0:8081',
    isList: true,
    help: 'where clients connect: HOST:PORT, http://HOST:PORT?redirect=true or https://HOST:PORT?cert=FILE&key=FILE; add proxy-protocol=true behind a proxy that speaks it; repeat the flag for more addresses',
  },
  trustedProxies: {
    group: 'Basic',
    takes: '<addresses>',
    byDefault: '127.0.0.0/8,::1',
    isList: true,
    help: 'addresses or ranges of the proxies in front of the watchdog, or none; the watchdog believes the client address that they send, and asks Linux about the connections of those on this machine',
  },
  admin: {
    group: 'Basic',
    takes: '<host:port>',
    byDefault: '127.0.0.1:9191',
    read: hostPort('127.0.0.1:9191'),
    help: 'where the status page, the metrics and the health checks are; any address but the loopback needs --admin-token-file',
  },
  adminTokenFile: {
    group: 'Basic',
    takes: '<file>',
    read: secretFile(),
    help: 'a file with the token that the admin server then asks for',
  },
  silentAfter: {
    group: 'Rules',
    takes: '<duration>',
    byDefault: '30s',
    read: duration('1s', '24h'),
    help: 'how long an old stream may be silent before its node, back on a new stream, takes over; a shorter time may end the stream of a phone that is only slow',
  },
  goneAfter: {
    group: 'Rules',
    takes: '<duration|off>',
    byDefault: '120s',
    read: duration('10s', '24h', 'off'),
    help: 'how long a client may leave data unacknowledged before its stream ends. Clients give up after 120s, so a shorter time may end a stream that would have recovered. Behind a proxy it works if the proxy is on this machine',
  },
  probeIdle: {
    group: 'Rules',
    takes: '<duration|off>',
    byDefault: 'off',
    read: duration(SHORTEST_PROBE_IDLE, '2h', 'off'),
    help: 'how long a connection may be quiet before the watchdog probes its client, to notice without traffic that the client is gone. It is off by default, because probes wake phones. Behind a proxy it does nothing, so let the proxy probe',
  },
  hold: {
    group: 'Rules',
    takes: '<duration|auto|off>',
    byDefault: 'auto',
    read: hold,
    help: 'how long a new stream may wait for the verdict on an old one, usually 3s at most. The stream does not wait if the verdict would take longer, or if nothing shows the client behind a proxy. auto: it waits only if Headscale is older than 0.27, which may refuse a second stream',
  },
  observeOnly: {
    group: 'Rules',
    byDefault: false,
    read: yesOrNo,
    help: 'judge, log and count, but hold and sever nothing; limits still refuse new connections and requests',
  },
  reconcile: {
    group: 'Rules',
    takes: '<off|report|heal>',
    byDefault: 'report',
    read: oneOf(RECONCILE_MODES),
    choices: RECONCILE_MODES,
    help: 'what to do if Headscale shows a connected node as offline, or keeps the stream of a deleted one. report: say so. heal: also end the stream, if this version of Headscale is known for the fault. It needs an API key or an OAuth client, and never ends streams of observe-only nodes',
  },
  upstreamSilentSever: {
    group: 'Rules',
    byDefault: false,
    read: yesOrNo,
    help: 'end control streams on which Headscale has been silent for 125s; off by default, because a stream that waits for a login is silent too',
  },
  maxConnections: {
    group: 'Limits',
    takes: '<number>',
    byDefault: '50000',
    read: wholeNumber(10, 1_000_000),
    help: 'how many connections may be open; fewer if the limit of open files (two for each connection) is lower; further ones are closed immediately',
  },
  maxConnectionsPerAddress: {
    group: 'Limits',
    takes: '<number>',
    byDefault: '25000',
    read: wholeNumber(1, 1_000_000),
    help: 'how many connections one IPv4 address or IPv6 /64 may have open; thousands of nodes may share an address',
  },
  maxHandshakes: {
    group: 'Limits',
    takes: '<number>',
    byDefault: '2000',
    read: wholeNumber(1, 100_000),
    help: "how many control connections may begin per second; up to ten seconds' worth may begin together; more get 503",
  },
  maxHandshakesPerAddress: {
    group: 'Limits',
    takes: '<number>',
    byDefault: '1000',
    read: wholeNumber(1, 100_000),
    help: 'how many control connections one IPv4 address or IPv6 /64 may begin per second; more get 503',
  },
  maxStreamsPerNode: {
    group: 'Limits',
    takes: '<number>',
    byDefault: '64',
    read: wholeNumber(2, 10_000),
    help: 'how many streams a machine key may have; a machine needs two. If it opens more, the watchdog ends an older one: first one without a session, then the one that has been silent for longest. With --observe-only it only reports that one',
  },
  maxHeld: {
    group: 'Limits',
    takes: '<number>',
    byDefault: '1000',
    read: wholeNumber(0, 100_000),
    help: 'how many new streams may be held at the same time; further ones go to Headscale without a hold',
  },
  maxHeaderSize: {
    group: 'Limits',
    takes: '<size>',
    byDefault: '16KiB',
    read: size('4KiB', '256KiB'),
    help: 'how large the head of a request may be; a larger one gets 431',
  },
  headerTimeout: {
    group: 'Limits',
    takes: '<duration>',
    byDefault: '20s',
    read: duration('2s', '2m'),
    help: 'how long a connection may take for TLS and the head of its request; a slower one gets 408 or is closed',
  },
  maxBodySize: {
    group: 'Limits',
    takes: '<size>',
    byDefault: '16MiB',
    read: size('64KiB', '1GiB'),
    help: 'how large the body of a plain request may be; a larger one gets 413',
  },
  bodyTimeout: {
    group: 'Limits',
    takes: '<duration>',
    byDefault: '60s',
    read: duration('2s', '1h'),
    help: 'how long a plain request may take to arrive; a slower one gets 408',
  },
  maxEarlySize: {
    group: 'Limits',
    takes: '<size>',
    byDefault: '64KiB',
    read: size('1KiB', '16MiB'),
    help: 'how much the watchdog takes from a client before Headscale has answered its upgrade; then it waits',
  },
  upstreamRate: {
    group: 'Limits',
    takes: '<number|off>',
    byDefault: '50',
    read: wholeNumber(1, 10_000, 'off'),
    help: 'how many new control connections per second go to Headscale, for when all nodes come back together; the others wait for up to 4s',
  },
  upstreamBurst: {
    group: 'Limits',
    takes: '<number>',
    byDefault: '100',
    read: wholeNumber(1, 100_000),
    help: 'how many new control connections may go to Headscale together before --upstream-rate applies',
  },
  maxHistory: {
    group: 'Limits',
    takes: '<number>',
    byDefault: '10000',
    read: wholeNumber(100, 1_000_000),
    help: 'how many events the watchdog keeps for the status page',
  },
  maxHistoryFileSize: {
    group: 'Limits',
    takes: '<size>',
    byDefault: '128MiB',
    read: size('1MiB', '16GiB'),
    help: 'how large the history file may get; above that, the oldest events go',
  },
  redis: {
    group: 'Replicas',
    takes: '<url>',
    read: redisUrl,
    help: 'the Redis that several watchdogs in front of one Headscale share: redis://, rediss://, redis+sentinel:// or redis+cluster://',
  },
  redisPasswordFile: {
    group: 'Replicas',
    takes: '<file>',
    read: secretFile('a password'),
    help: "a file with Redis's password: of the ACL user that the URL names, or the one from requirepass",
  },
  redisCaFile: {
    group: 'Replicas',
    takes: '<file>',
    read: word('the path of a file'),
    help: 'the certificate authority of the Redis certificate, if the system does not know it',
  },
  redisPrefix: {
    group: 'Replicas',
    takes: '<name>',
    byDefault: 'headscale-watchdog',
    read: plainName,
    help: 'the prefix of all key and channel names in Redis; each Headscale needs its own',
  },
  replicaName: {
    group: 'Replicas',
    takes: '<name>',
    read: plainName,
    help: "this watchdog's name among the replicas; by default the name of the machine",
  },
  offlineAfter: {
    group: 'Notifications',
    takes: '<duration|off>',
    byDefault: '2m',
    read: duration('10s', '24h', 'off'),
    help: "how long a node must be away before it counts as offline for notifications (the file's notify:); off: it never does",
  },
  adminReadTokenFile: {
    group: 'Other',
    takes: '<file>',
    read: secretFile(),
    help: 'a file with a second token, which may see everything and change nothing, for dashboards',
  },
  adminCorsOrigin: {
    group: 'Other',
    takes: '<origin>',
    byDefault: 'none',
    isList: true,
    help: "a site that may read the admin API from its pages in a browser, as in https://dash.example.com; repeat the flag for more; none: only the watchdog's own page may",
  },
  acmeWebroot: {
    group: 'Other',
    takes: '<folder>',
    read: word('the path of a folder'),
    help: 'the folder where certbot or lego puts its answers to HTTP-01 challenges; plain listeners serve them',
  },
  drain: {
    group: 'Other',
    takes: '<duration|off>',
    byDefault: '20s',
    read: duration('1s', '10m', 'off'),
    help: 'the time over which a stop ends the streams one by one, so that the nodes do not all come back together; off ends all of them immediately',
  },
  historyFile: {
    group: 'Other',
    takes: '<file>',
    read: word('the path of a file'),
    help: 'a file that keeps events and the presence of nodes for 30 days, so that they outlive a restart; each watchdog needs its own',
  },
  metricsMaxNodes: {
    group: 'Other',
    takes: '<number>',
    byDefault: '1000',
    read: wholeNumber(0, 100_000),
    help: 'if there are more nodes than this, the metrics of single nodes are off',
  },
  logLevel: {
    group: 'Other',
    takes: '<level>',
    byDefault: 'info',
    read: oneOf(LOG_LEVELS),
    choices: LOG_LEVELS,
    help: 'how much to log',
  },
} as const satisfies Readonly<Record<string, Setting<unknown> | ListSetting>>;

type Table = typeof SETTINGS;
export type SettingName = keyof Table;
export type ListName = { [Name in SettingName]: Table[Name] extends ListSetting ? Name : never }[SettingName];
export type Settings = ValuesOf<Omit<Table, ListName>>;

export const SETTING_NAMES = Object.keys(SETTINGS) as readonly SettingName[];

export function isList(name: string): name is ListName {
  return Object.hasOwn(SETTINGS, name) && 'isList' in SETTINGS[name as SettingName];
}

/** The settings with a single value. */
export const SINGLE_SETTINGS = Object.fromEntries(
  Object.entries(SETTINGS).filter(([name]) => !isList(name)),
) as unknown as Omit<Table, ListName>;

/** The loopback, because most proxies in front of a watchdog run on the same machine. */
export const TRUSTED_BY_DEFAULT = SETTINGS.trustedProxies.byDefault.split(',') as readonly string[] as readonly Cidr[];

/** The settings of one address to listen on, as a mapping in the file or as the query of a URL. */
export const LISTEN_SETTINGS = {
  address: { read: hostPort('0.0.0.0:8081') },
  cert: { read: secretFile('a certificate') },
  key: { read: secretFile('a private key') },
  redirect: { read: yesOrNo, byDefault: false },
  proxyProtocol: { read: yesOrNo, byDefault: false },
} as const;

export type ListenSettings = ValuesOf<typeof LISTEN_SETTINGS>;

/** The single settings of a target in the file's `notify:`. */
export const TARGET_SETTINGS = {
  url: { read: notifyUrl },
  format: { read: oneOf(NOTIFY_FORMATS), byDefault: 'standard' },
  secretFile: { read: secretFile() },
} as const;

export type TargetSettings = ValuesOf<typeof TARGET_SETTINGS>;

/** The conditions of a rule in the file's `nodes:`. They say to which nodes it applies. */
export const RULE_MATCHES = {
  name: { read: word('a name') },
  user: { read: word('a name') },
  machineKey: { read: publicKey('machine key', 'mkey', parseMachineKey) },
  nodeKey: { read: publicKey('node key', 'nodekey', parseNodeKey) },
} as const;

/** A rule in the file's `nodes:`: its conditions, and the settings that it changes. */
export const RULE_SETTINGS = {
  ...RULE_MATCHES,
  silentAfter: { read: SETTINGS.silentAfter.read },
  goneAfter: { read: SETTINGS.goneAfter.read },
  probeIdle: { read: SETTINGS.probeIdle.read },
  hold: { read: SETTINGS.hold.read },
  observeOnly: { read: SETTINGS.observeOnly.read },
  offlineAfter: { read: SETTINGS.offlineAfter.read },
} as const;

export type RuleSettings = ValuesOf<typeof RULE_SETTINGS>;
