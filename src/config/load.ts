import { resolve } from 'node:path';
import { UsageError } from '../lib/errors.ts';
import { addressProblems, probeProblems, proxyProtocolProblems, ruleKeyProblems, tokenProblems } from './checks.ts';
import { type ConfigFile, type FileRule, fileKey, settingsOfFile } from './file.ts';
import { readListens } from './listen.ts';
import { readTarget } from './notify.ts';
import { type Given, kebabCase, nameAt, type Position, type Problem } from './problems.ts';
import { present, readEach, readOrigins, readTrustedProxies } from './readers.ts';
import { ownName } from './redis.ts';
import {
  isList,
  RULE_MATCHES,
  RULE_SETTINGS,
  type RuleSettings,
  SETTING_NAMES,
  SETTINGS,
  type Settings,
  SINGLE_SETTINGS,
  TRUSTED_BY_DEFAULT,
} from './settings.ts';
import type { Config, HostPort, NodeRule, Places } from './types.ts';

/** Values by the camel-case names of their flags, without defaults. */
type Values = Readonly<Record<string, unknown>>;

/**
 * Turns flags, variables and the text of a file into a configuration. A flag wins over a variable, and a variable over the file.
 *
 * @param flags the flags that the operator gave. `config`, which names the file, is ignored.
 * @param variables the environment variables that they set.
 * @throws UsageError with every problem of the flags, of the variables and of the file.
 */
export function loadConfig(flags: Values, file?: ConfigFile, variables: Values = {}): Config {
  const fromFile = settingsOfFile(file?.text);
  const [fromVariables, fromFlags] = [settingsGiven(variables, 'variable'), settingsGiven(flags, 'flag')];
  const given = new Map([...fromFile.settings, ...fromVariables.settings, ...fromFlags.settings]);
  const lists = readLists(fromFile.lists, fromVariables.lists, fromFlags.lists);
  const { values } = readEach(SINGLE_SETTINGS, given);
  const isObserveOnlyForAll = (flags.observeOnly ?? variables.observeOnly) === true;
  const rules = fromFile.rules.map((rule) => readRule(rule, values, given, isObserveOnlyForAll));
  const targets = fromFile.targets.map((target) => readTarget(target, given));
  const problems: readonly Problem[] = [
    ...unknownFlags(flags),
    // Read the settings that a flag overrides too: a mistake there is still a mistake.
    ...readEach(SINGLE_SETTINGS, fromFlags.settings).problems,
    ...readEach(SINGLE_SETTINGS, fromVariables.settings).problems,
    ...fromFile.problems,
    ...readEach(SINGLE_SETTINGS, fromFile.settings).problems,
    ...lists.problems,
    ...addressProblems(values, given, lists.listens),
    ...proxyProtocolProblems(lists.listens, lists.trustedProxies),
    ...tokenProblems(values, given),
    ...probeProblems(values, given),
    ...rules.flatMap((rule) => rule.problems),
    ...targets.flatMap((target) => target.problems),
  ];
  if (problems.length > 0) {
    throw new UsageError('HSW_CONFIG_INVALID', problemTexts(problems, file?.path));
  }
  return {
    ...configOf(values as Settings),
    file: file && resolve(file.path),
    rules: rules.map(({ rule }) => rule),
    places: placesOf(given, fromFile.rules, file?.path ?? ''),
    notify: targets.flatMap(({ target }) => (target === undefined ? [] : [target])),
    listen: lists.listens.map(({ listen }) => listen),
    trustedProxies: lists.trustedProxies,
    adminCorsOrigins: lists.origins,
  };
}

type Lists = ReadonlyMap<string, readonly Given[]>;

/** A flag that may be repeated has one value or a list of values. */
function settingsGiven(
  all: Values,
  at: 'flag' | 'variable',
): {
  readonly settings: ReadonlyMap<string, Given>;
  readonly lists: Lists;
} {
  const given = Object.entries(all).filter(([, value]) => value !== undefined);
  const place = (value: unknown): Given => ({ value, at });
  return {
    settings: new Map(given.filter(([name]) => !isList(name)).map(([name, value]) => [name, place(value)])),
    lists: new Map(given.filter(([name]) => isList(name)).map(([name, value]) => [name, [value].flat().map(place)])),
  };
}

/** The last place's list replaces the others. Mistakes in any of them are reported. */
function readLists(...places: readonly Lists[]) {
  const given = (name: string) => places.flatMap((lists) => (lists.has(name) ? [lists.get(name) ?? []] : []));
  const listens = given('listen').map(readListens);
  const trusted = given('trustedProxies').map(readTrustedProxies);
  const origins = given('adminCorsOrigin').map(readOrigins);
  const byDefault = readListens([{ value: SETTINGS.listen.byDefault, at: 'flag' }]);
  return {
    listens: (listens.at(-1) ?? byDefault).listens,
    trustedProxies: trusted.at(-1)?.trustedProxies ?? TRUSTED_BY_DEFAULT,
    origins: origins.at(-1)?.origins ?? [],
    problems: [...listens, ...trusted, ...origins].flatMap(({ problems }) => problems),
  };
}

function unknownFlags(flags: Values): readonly Problem[] {
  const known: readonly string[] = [...SETTING_NAMES, 'config'];
  const unknown = Object.keys(flags).filter((name) => !known.includes(name));
  return unknown.map((name) => ({ at: 'flag', name, text: 'is not a flag of this program' }));
}

function readRule(
  file: FileRule,
  forAll: Partial<Settings>,
  given: ReadonlyMap<string, Given>,
  isObserveOnlyForAll: boolean,
): { readonly rule: NodeRule; readonly problems: readonly Problem[] } {
  const { values, problems } = readEach(RULE_SETTINGS, file.settings);
  return {
    rule: ruleOf(values, isObserveOnlyForAll),
    problems: [
      ...missingInRule(file),
      ...problems,
      ...ruleKeyProblems(file.settings, given),
      ...probeProblems(forAll, given, { settings: values, given: file.settings }),
    ],
  };
}

/** A rule needs a match and a policy. If another mistake in it has been reported already, this reports nothing. */
function missingInRule({ at, settings, isWhole }: FileRule): readonly Problem[] {
  const isMatch = (name: string): boolean => Object.hasOwn(RULE_MATCHES, name);
  const names = [...settings.keys()];
  const hasMatch = names.some(isMatch);
  if (!isWhole || (hasMatch && !names.every(isMatch))) return [];
  const missing = hasMatch ? 'what is different for these nodes' : 'which nodes it is about';
  const candidates = Object.keys(RULE_SETTINGS).filter((name) => isMatch(name) !== hasMatch);
  return [{ at, text: `a rule must say ${missing}: add one of ${candidates.map(kebabCase).join(', ')}` }];
}

function ruleOf(read: Partial<RuleSettings>, isObserveOnlyForAll: boolean): NodeRule {
  const { name, user, machineKey, nodeKey, silentAfter, goneAfter, probeIdle, hold, observeOnly, offlineAfter } = read;
  return {
    match: present({ name, user, machineKey, nodeKey }),
    policy: present({
      silentAfterMs: silentAfter,
      goneAfterMs: goneAfter,
      probeIdleMs: probeIdle,
      hold,
      // --observe-only holds for every node, whatever a rule of the file says.
      observeOnly: observeOnly === undefined ? undefined : observeOnly || isObserveOnlyForAll,
      offlineAfterMs: offlineAfter,
    }),
  };
}

function placesOf(given: ReadonlyMap<string, Given>, rules: readonly FileRule[], path: string): Places {
  const placeOf = (name: string): string => {
    const at = given.get(name)?.at;
    if (at === undefined) return 'default';
    return typeof at === 'string' ? nameAt(name, at) : `${path}:${at.line}`;
  };
  return {
    policy: {
      ...{
        silentAfterMs: placeOf('silentAfter'),
        goneAfterMs: placeOf('goneAfter'),
        probeIdleMs: placeOf('probeIdle'),
      },
      ...{ hold: placeOf('hold'), observeOnly: placeOf('observeOnly'), offlineAfterMs: placeOf('offlineAfter') },
    },
    rules: rules.map(({ at }) => `${path}:${at.line}`),
  };
}

function configOf(
  settings: Settings,
): Omit<Config, 'file' | 'listen' | 'trustedProxies' | 'adminCorsOrigins' | 'rules' | 'places' | 'notify'> {
  const { silentAfter, goneAfter, probeIdle, hold, observeOnly, offlineAfter } = settings;
  const { upstreamRate, upstreamBurst } = settings;
  return {
    upstream: settings.upstream,
    noiseKeyFile: settings.noiseKey,
    apiKeyFile: settings.headscaleApiKeyFile,
    oauthClientFile: settings.headscaleOauthClientFile,
    acmeWebroot: settings.acmeWebroot,
    admin: settings.admin,
    adminTokenFile: settings.adminTokenFile,
    adminReadTokenFile: settings.adminReadTokenFile,
    policy: {
      ...{ silentAfterMs: silentAfter, goneAfterMs: goneAfter, probeIdleMs: probeIdle, hold, observeOnly },
      offlineAfterMs: offlineAfter,
    },
    reconcile: settings.reconcile,
    upstreamSilentSever: settings.upstreamSilentSever,
    drainMs: settings.drain,
    limits: limitsOf(settings),
    pace: upstreamRate === 0 ? undefined : { perSecond: upstreamRate, burst: upstreamBurst },
    redis: redisOf(settings),
    historyFile: settings.historyFile,
    metricsMaxNodes: settings.metricsMaxNodes,
    logLevel: settings.logLevel,
  };
}

/** All nodes behind one NAT may come back at the same moment, so a burst may be ten times the rate of one second. */
const HANDSHAKE_BURST_S = 10;

function limitsOf(settings: Settings): Config['limits'] {
  const rate = (perSecond: number) => ({ perSecond, burst: perSecond * HANDSHAKE_BURST_S });
  return {
    connections: settings.maxConnections,
    connectionsPerAddress: settings.maxConnectionsPerAddress,
    handshakes: rate(settings.maxHandshakes),
    handshakesPerAddress: rate(settings.maxHandshakesPerAddress),
    streamsPerNode: settings.maxStreamsPerNode,
    held: settings.maxHeld,
    headerBytes: settings.maxHeaderSize,
    headerMs: settings.headerTimeout,
    bodyBytes: settings.maxBodySize,
    bodyMs: settings.bodyTimeout,
    earlyBytes: settings.maxEarlySize,
    history: settings.maxHistory,
    historyFileBytes: settings.maxHistoryFileSize,
  };
}

function redisOf(settings: Settings): Config['redis'] {
  const { redis: url, redisPasswordFile: passwordFile, redisCaFile: caFile, redisPrefix: prefix } = settings;
  return url && { url, passwordFile, caFile, prefix, replicaName: settings.replicaName ?? ownName() };
}

function problemTexts(problems: readonly Problem[], path = ''): readonly string[] {
  const given = (at: 'flag' | 'variable') =>
    problems.filter((problem) => problem.at === at).map(({ name = '', text }) => `${nameAt(name, at)}: ${text}`);
  return [...given('flag'), ...given('variable'), ...fileTexts(path, problems)];
}

/** Where the running watchdog's admin server is, and how a command may use it. */
export interface AdminPlace {
  readonly admin: HostPort;
  /** Where the address comes from: `--admin`, a variable, the file's path; undefined for the default. */
  readonly from: string | undefined;
  readonly adminTokenFile: string | undefined;
}

/**
 * Reads only what a command needs to find the running watchdog. A mistake elsewhere in the file must not keep an operator
 * from looking at it.
 *
 * @throws UsageError
 */
export function loadAdminPlace(flags: Values, file?: ConfigFile, variables: Values = {}): AdminPlace {
  const fromFile = settingsOfFile(file?.text);
  const { admin, adminTokenFile } = SETTINGS;
  const table = { admin, adminTokenFile };
  const [fromVariables, fromFlags] = [settingsGiven(variables, 'variable'), settingsGiven(flags, 'flag')];
  const given = new Map([...fromFile.settings, ...fromVariables.settings, ...fromFlags.settings]);
  const { values, problems } = readEach(table, given);
  const at = given.get('admin')?.at;
  const unread = at === undefined ? fromFile.problems : [];
  if (problems.length + unread.length > 0)
    throw new UsageError('HSW_CONFIG_INVALID', problemTexts([...problems, ...unread], file?.path));
  const from = typeof at === 'string' ? nameAt('admin', at) : at && file?.path;
  return { admin: values.admin as HostPort, from, adminTokenFile: values.adminTokenFile };
}

/** A file that is no configuration at all would otherwise fill many screens with problems. */
const MOST_SHOWN = 100;

function fileTexts(path: string, problems: readonly Problem[]): readonly string[] {
  const placed = problems.flatMap(({ at, name, text }) =>
    typeof at === 'string' ? [] : [{ at, text: name === undefined ? text : `${fileKey(name)}: ${text}` }],
  );
  placed.sort((a, b) => a.at.line - b.at.line || a.at.column - b.at.column);
  const textOf = (at: Position, text: string): string => `${path}:${at.line}:${at.column}: ${text}`;
  const texts = placed.slice(0, MOST_SHOWN).map(({ at, text }) => textOf(at, text));
  const next = placed[MOST_SHOWN];
  return next === undefined
    ? texts
    : [...texts, textOf(next.at, `and ${placed.length - MOST_SHOWN} more from here on`)];
}
