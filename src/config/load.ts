import { UsageError } from '../lib/errors.ts';
import { DEFAULTS } from './defaults.ts';
import { type FileRule, type FileSettings, fileKey, readYaml, settingsOf, type Value } from './document.ts';
import { addressProblems, probeProblems, proxyProtocolProblems, ruleKeyProblems, tokenProblems } from './checks.ts';
import { readListens } from './listen.ts';
import { type Given, kebabCase, type Mistake, type Problem, readEach } from './problems.ts';
import { ownName } from './redis.ts';
import {
  configSchema,
  LIST_SETTINGS,
  listenSchema,
  type RuleSettings,
  ruleSchema,
  SETTING_NAMES,
  type Settings,
} from './schema.ts';
import { LOOPBACK, readTrustedProxies } from './trusted-proxies.ts';
import type { Config, NodeRule } from './types.ts';

/** A file of settings, already read. */
export interface ConfigFile {
  /** As the operator named it; problems begin with it. */
  readonly path: string;
  readonly text: string;
}

/**
 * Turns flags, by their camel-case names, and the text of a file into a
 * configuration. A flag counts more than the file; `flags` must hold only what
 * the operator gave, no defaults. `config`, the flag that names the file, is passed over.
 *
 * @throws UsageError with every mistake at once, the flags' and the file's.
 */
export function loadConfig(flags: Readonly<Record<string, unknown>>, file?: ConfigFile): Config {
  const mistakes: Mistake[] = [];
  const fromFile = settingsOfFile(file, mistakes);
  const { settings: fromFlags, lists: flagLists } = flagSettings(flags);
  const given = new Map([...fromFile.settings, ...fromFlags]);
  const lists = readLists(flagLists, fromFile.lists);
  const { values } = readEach<Settings>(configSchema.shape, given);
  const problems: Problem[] = [
    ...unknownFlags(flags),
    ...readEach<Settings>(configSchema.shape, fromFlags).problems,
    ...readEach<Settings>(configSchema.shape, fromFile.settings).problems,
    ...lists.problems,
    ...addressProblems(values, given, lists.listens),
    ...proxyProtocolProblems(lists.listens, lists.trustedProxies),
    ...tokenProblems(values, given),
    ...probeProblems(values, given),
  ];
  const rules = fromFile.rules.map((rule) => {
    const read = readEach<RuleSettings>(ruleSchema.shape, rule.settings);
    mistakes.push(...lacks(rule));
    problems.push(...read.problems, ...ruleKeyProblems(rule.settings, given));
    problems.push(...probeProblems(values, given, { settings: read.values, given: rule.settings }));
    return ruleOf(read.values, flags.observeOnly === true);
  });
  const told = [...flagTexts(problems), ...fileTexts(file?.path ?? '', problems, mistakes)];
  if (told.length > 0) throw new UsageError('HSW_CONFIG_INVALID', told);
  const listen = lists.listens.map((each) => each.listen);
  return { ...configOf(values as Settings, rules), listen, trustedProxies: lists.trustedProxies };
}

type Lists = ReadonlyMap<string, readonly Given[]>;
const DEFAULT_LISTEN: Given = { value: DEFAULTS.listen, at: 'flag' };

/** A flag's list replaces the file's; what is wrong in either is told. */
function readLists(fromFlags: Lists, fromFile: Lists) {
  const ofListen = [fromFile, fromFlags].map((lists) => lists.get('listen')).filter((list) => list !== undefined);
  const ofTrusted = [fromFile, fromFlags]
    .map((lists) => lists.get('trustedProxies'))
    .filter((list) => list !== undefined);
  const listens = ofListen.map(readListens);
  const trusted = ofTrusted.map(readTrustedProxies);
  return {
    listens: (listens.at(-1) ?? readListens([DEFAULT_LISTEN])).listens,
    trustedProxies: trusted.at(-1)?.trustedProxies ?? LOOPBACK,
    problems: [...listens, ...trusted].flatMap(({ problems }) => problems),
  };
}

/** A flag that may be given several times has a list for its value, or its only value. */
function flagSettings(flags: Readonly<Record<string, unknown>>): {
  readonly settings: ReadonlyMap<string, Given>;
  readonly lists: Lists;
} {
  const settings = new Map<string, Given>();
  const lists = new Map<string, readonly Given[]>();
  for (const [name, value] of Object.entries(flags)) {
    if (value === undefined) continue;
    if (!isList(name)) settings.set(name, { value, at: 'flag' });
    else
      lists.set(
        name,
        [value].flat().map((each) => ({ value: each, at: 'flag' })),
      );
  }
  return { settings, lists };
}

function isList(name: string): boolean {
  return (LIST_SETTINGS as readonly string[]).includes(name);
}

function unknownFlags(flags: Readonly<Record<string, unknown>>): readonly Problem[] {
  const unknown = Object.keys(flags).filter((name) => name !== 'config' && !SETTING_NAMES.includes(name));
  return unknown.map((name) => ({ at: 'flag', name, text: 'is no flag of this program' }));
}

/** A file that was cut off must not pass for one that says nothing: a reload would fall back to the defaults. */
const EMPTY = 'the file is empty: write at least one setting, or leave --config away';

function settingsOfFile(file: ConfigFile | undefined, mistakes: Mistake[]): FileSettings {
  const document = readYaml(file?.text ?? '');
  if (file !== undefined && file.text.trim() === '') mistakes.push({ at: document.root.at, text: EMPTY });
  // One by one: there may be more than a call takes arguments.
  for (const mistake of document.mistakes) mistakes.push(mistake);
  // What is made of text that is no YAML would only add mistakes that are none.
  const root: Value = document.mistakes.length === 0 ? document.root : { kind: 'nothing', at: document.root.at };
  const [listen, rule] = [listenSchema, ruleSchema].map(({ shape }) => Object.keys(shape)) as [string[], string[]];
  return settingsOf(root, { settings: SETTING_NAMES, lists: LIST_SETTINGS, listen, rule }, mistakes);
}

const MATCHES = ['name', 'user', 'machineKey', 'nodeKey'];

/** What a rule must say and does not; nothing of one in which something else is wrong. */
function lacks({ at, settings, isWhole }: FileRule): readonly Mistake[] {
  const names = [...settings.keys()];
  const whom = names.some((name) => MATCHES.includes(name));
  const what = names.some((name) => !MATCHES.includes(name));
  if (!isWhole || (whom && what)) return [];
  const needed = Object.keys(ruleSchema.shape).filter((name) => MATCHES.includes(name) !== whom);
  const text = `a rule must say ${whom ? 'what is different for these nodes' : 'whom it is about'}: add one of`;
  return [{ at, text: `${text} ${needed.map(kebabCase).join(', ')}` }];
}

function ruleOf(read: Partial<RuleSettings>, isObserveOnlyForAll: boolean): NodeRule {
  const { name, user, machineKey, nodeKey, silentAfter, goneAfter, probeIdle, hold, observeOnly } = read;
  return {
    match: present({ name, user, machineKey, nodeKey }),
    policy: present({
      silentAfterMs: silentAfter,
      goneAfterMs: goneAfter,
      probeIdleMs: probeIdle,
      hold,
      // Who asks on the command line for no severing gets none, whatever the file says of single nodes.
      observeOnly: observeOnly === undefined ? undefined : observeOnly || isObserveOnlyForAll,
    }),
  };
}

/** Without what is undefined. */
function present<T extends object>(values: T): { [Name in keyof T]?: Exclude<T[Name], undefined> } {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [Name in keyof T]?: Exclude<T[Name], undefined> };
}

function configOf(settings: Settings, rules: readonly NodeRule[]): Omit<Config, 'listen' | 'trustedProxies'> {
  const { silentAfter, goneAfter, probeIdle, hold, observeOnly } = settings;
  const { upstream, noiseKey, headscaleApiKeyFile, admin, adminTokenFile, ...others } = settings;
  return {
    upstream,
    noiseKeyFile: noiseKey,
    apiKeyFile: headscaleApiKeyFile,
    acmeWebroot: others.acmeWebroot,
    admin,
    adminTokenFile,
    policy: { silentAfterMs: silentAfter, goneAfterMs: goneAfter, probeIdleMs: probeIdle, hold, observeOnly },
    rules,
    upstreamSilentSever: others.upstreamSilentSever,
    drainMs: others.drain,
    limits: limitsOf(settings),
    pace: settings.upstreamRate === 0 ? undefined : { perSecond: settings.upstreamRate, burst: settings.upstreamBurst },
    redis: redisOf(settings),
    metricsMaxNodes: others.metricsMaxNodes,
    logLevel: others.logLevel,
  };
}

/** All nodes behind one NAT may come back within a moment: so much more than a second's worth may come at once. */
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
  };
}

function redisOf(settings: Settings): Config['redis'] {
  const { redis: url, redisPasswordFile: passwordFile, redisCaFile: caFile, redisPrefix: prefix } = settings;
  return url && { url, passwordFile, caFile, prefix, replicaName: settings.replicaName ?? ownName() };
}

/** A file that is something else altogether would else fill a screen many times over. */
const MOST_MISTAKES = 100;

function fileTexts(path: string, problems: readonly Problem[], mistakes: readonly Mistake[]): readonly string[] {
  const all = [...mistakes];
  for (const { at, name, text } of problems) {
    if (at !== 'flag') all.push({ at, text: `${fileKey(name)}: ${text}` });
  }
  all.sort((a, b) => a.at.line - b.at.line || a.at.column - b.at.column);
  const more = all[MOST_MISTAKES];
  const told = all.slice(0, MOST_MISTAKES);
  if (more !== undefined) told.push({ at: more.at, text: `and ${all.length - MOST_MISTAKES} more from here on` });
  return told.map(({ at, text }) => `${path}:${at.line}:${at.column}: ${text}`);
}

function flagTexts(problems: readonly Problem[]): readonly string[] {
  return problems.filter(({ at }) => at === 'flag').map(({ name, text }) => `--${kebabCase(name)}: ${text}`);
}
