import { StartError } from '../lib/errors.ts';
import { nearest } from '../lib/text.ts';
import { type Given, kebabCase, type Position, type Problem, quoted, withoutUrls } from './problems.ts';
import { readSmallFile } from './secrets.ts';
import { isList, LISTEN_SETTINGS, RULE_MATCHES, RULE_SETTINGS, SETTING_NAMES, TARGET_SETTINGS } from './settings.ts';
import { aliasText, type Entry, readYaml, type Value } from './yaml.ts';

/** The text of a file of settings. */
export interface ConfigFile {
  /** As the operator named it; problems begin with it. */
  readonly path: string;
  readonly text: string;
}

/** A file of settings has hundreds of lines at most. A larger file is something else. */
const LARGEST_KIB = 128;

/**
 * Reads a file of settings, as UTF-8.
 *
 * @throws StartError when it cannot be read, is not a regular file, is larger than 128 KiB or is not UTF-8.
 */
export function readConfigFile(path: string): ConfigFile {
  const bytes = readSmallFile({
    code: 'HSW_CONFIG_UNREADABLE',
    flag: '--config',
    path,
    largestKiB: LARGEST_KIB,
    advice: {
      missing: 'give the path of a file of settings',
      folder: 'name the file in it',
      larger: 'name a file of settings',
    },
  });
  try {
    return { path, text: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
  } catch (error) {
    throw new StartError('HSW_CONFIG_UNREADABLE', `--config ${path}: is not UTF-8; save it in that encoding`, {
      cause: error,
    });
  }
}

/** The settings of a file by name, each with its place. The values are still as YAML reads them. */
export interface FileSettings {
  readonly settings: ReadonlyMap<string, Given>;
  /** An item that is a mapping has a map of its entries as its value. */
  readonly lists: ReadonlyMap<string, readonly Given[]>;
  readonly rules: readonly FileRule[];
  readonly targets: readonly FileTarget[];
  readonly problems: readonly Problem[];
}

export interface FileRule {
  readonly at: Position;
  readonly settings: ReadonlyMap<string, Given>;
  /** False if part of it could not be read. Then a missing setting is not reported: it may be the one that is misspelt. */
  readonly isWhole: boolean;
}

/** An item of `notify:`. */
export interface FileTarget {
  readonly at: Position;
  readonly settings: ReadonlyMap<string, Given>;
  /** Undefined if it has no `events`. */
  readonly events: { readonly at: Position; readonly items: readonly Given[] } | undefined;
  /** Undefined if it has no `nodes`. */
  readonly nodes: readonly FileRule[] | undefined;
  readonly isWhole: boolean;
}

/** An empty file is an error, because it may have been cut off: a reload would silently go back to the defaults. */
const EMPTY = 'the file is empty: write at least one setting, or remove --config';

/** Finds the settings and rules in the text of a file. Everything else in it is a problem. */
export function settingsOfFile(text: string | undefined): FileSettings {
  if (text === undefined) return NOTHING;
  const { root, problems } = readYaml(text);
  if (text.trim() === '') return { ...NOTHING, problems: [{ at: root.at, text: EMPTY }] };
  // If the text is not valid YAML, reading on would report problems that do not exist.
  if (problems.length > 0) return { ...NOTHING, problems };
  return new SettingsOfFile(root);
}

const NOTHING: FileSettings = { settings: new Map(), lists: new Map(), rules: [], targets: [], problems: [] };

/** The one setting that is nested in the file. */
const METRICS_MAX_NODES = 'metricsMaxNodes';

/** A setting as the file spells it. */
export function fileKey(name: string): string {
  return name === METRICS_MAX_NODES ? 'metrics.max-nodes' : kebabCase(name);
}

/** Words that are no keys of the file, although somebody may expect it, and what to do about each. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  config: 'is only a flag, since it names this file: remove it',
  'metrics-max-nodes': 'is the name of the flag: write metrics: { max-nodes: 1000 }',
  '<<': 'merges mappings in other YAML files, but not here: write the settings themselves',
};

/** Maps `silent-after` to `silentAfter`, for each of the names. */
function byKey(names: readonly string[]): ReadonlyMap<string, string> {
  return new Map(names.map((name) => [kebabCase(name), name]));
}

const SETTING_KEYS = byKey(SETTING_NAMES.filter((name) => name !== METRICS_MAX_NODES));
const LISTEN_KEYS = byKey(Object.keys(LISTEN_SETTINGS));
const RULE_KEYS = byKey(Object.keys(RULE_SETTINGS));
const MATCH_KEYS = byKey(Object.keys(RULE_MATCHES));
const TARGET_KEYS = byKey(Object.keys(TARGET_SETTINGS));
const METRICS_KEYS: ReadonlyMap<string, string> = new Map([['max-nodes', METRICS_MAX_NODES]]);

type Mapping = Extract<Value, { readonly kind: 'mapping' }>;

interface KnownEntry {
  readonly key: string;
  readonly value: Value;
}

const RULE_EXAMPLE = "{ name: 'router-*', silent-after: 10s }";

/** For each stream, all rules are searched, and often. */
export const MOST_RULES = 500;
const TOO_MANY_RULES = `a rule too many, ${MOST_RULES} at most: write one rule for many nodes, by user or by a name like 'router-*'`;

const TARGET_EXAMPLE = '{ url: https://ntfy.sh/TOPIC, format: ntfy }';
const MATCH_EXAMPLE = "{ name: 'router-*' }";
export const MOST_TARGETS = 50;

class SettingsOfFile implements FileSettings {
  readonly settings = new Map<string, Given>();
  readonly lists = new Map<string, readonly Given[]>();
  readonly problems: Problem[] = [];
  rules: readonly FileRule[] = [];
  targets: readonly FileTarget[] = [];

  constructor(root: Value) {
    if (root.kind === 'mapping') this.#addRoot(root.entries);
    else if (root.kind !== 'nothing') this.#problem(root.at, NO_SETTINGS);
  }

  #addRoot(entries: readonly Entry[]): void {
    for (const entry of this.#knownEntries(entries, [...SETTING_KEYS.keys(), 'metrics', 'nodes', 'notify'])) {
      const { key, value } = entry;
      const name = SETTING_KEYS.get(key);
      if (name !== undefined && isList(name)) this.lists.set(name, this.#itemsOf(entry));
      else if (name !== undefined) this.#addScalar(this.settings, name, entry);
      else if (key === 'nodes') this.rules = this.#rulesOf(entry);
      else if (key === 'notify') this.targets = this.#targetsOf(entry);
      else if (value.kind === 'mapping') this.#addEntries(this.settings, value.entries, METRICS_KEYS);
      else this.#misfit(key, value, 'metrics: { max-nodes: 1000 }');
    }
  }

  /** The items of a setting that may be one value or a list. For `listen`, an item may also be a mapping. */
  #itemsOf({ key, value }: KnownEntry): readonly Given[] {
    const needed = key === 'listen' ? 'an address, or a list of them' : 'a single value, or a list of them';
    const items = value.kind === 'list' ? value.items : [value];
    // The watchdog would start, but nobody could reach it.
    if (key === 'listen' && items.length === 0) this.#problem(value.at, NO_ADDRESSES);
    return items.flatMap((item): readonly Given[] => {
      if (item.kind === 'scalar') return [{ value: item.value, at: item.at }];
      if (item.kind === 'mapping' && key === 'listen') return this.#listenOf(item);
      this.#misfit(key, item, needed);
      return [];
    });
  }

  /** A `listen` that is a mapping. @returns an empty list if something in it is wrong. */
  #listenOf({ entries, at }: Mapping): readonly Given[] {
    const settings = new Map<string, Given>();
    if (!this.#addEntries(settings, entries, LISTEN_KEYS)) return [];
    if (settings.has('address')) return [{ value: settings, at }];
    this.#problem(at, 'listen: has no address: add address: HOST:PORT');
    return [];
  }

  #rulesOf({ key, value }: KnownEntry): readonly FileRule[] {
    if (value.kind !== 'list') {
      this.#misfit(key, value, `a list of rules, each like - ${RULE_EXAMPLE}`);
      return [];
    }
    const beyond = value.items[MOST_RULES];
    if (beyond !== undefined) this.#problem(beyond.at, TOO_MANY_RULES);
    return value.items.slice(0, MOST_RULES).map((item) => {
      const settings = new Map<string, Given>();
      if (item.kind !== 'mapping') this.#misfit('a rule', item, RULE_EXAMPLE);
      const isWhole = item.kind === 'mapping' && this.#addEntries(settings, item.entries, RULE_KEYS);
      return { at: item.at, settings, isWhole };
    });
  }

  #targetsOf({ key, value }: KnownEntry): readonly FileTarget[] {
    const items = value.kind === 'list' ? value.items : [value];
    const beyond = items[MOST_TARGETS];
    if (beyond !== undefined) this.#problem(beyond.at, `a target too many, ${MOST_TARGETS} at most: remove some`);
    return items.slice(0, MOST_TARGETS).flatMap((item) => {
      if (item.kind === 'mapping') return [this.#targetOf(item)];
      this.#misfit(key, item, `a list of targets, each like - ${TARGET_EXAMPLE}`);
      return [];
    });
  }

  #targetOf({ entries, at }: Mapping): FileTarget {
    const settings = new Map<string, Given>();
    const before = this.problems.length;
    let events: FileTarget['events'];
    let nodes: FileTarget['nodes'];
    for (const entry of this.#knownEntries(entries, [...TARGET_KEYS.keys(), 'events', 'nodes'])) {
      if (entry.key === 'events') events = { at: entry.value.at, items: this.#itemsOf(entry) };
      else if (entry.key === 'nodes') nodes = this.#matchesOf(entry);
      else this.#addScalar(settings, TARGET_KEYS.get(entry.key) ?? entry.key, entry);
    }
    return { at, settings, events, nodes, isWhole: this.problems.length === before };
  }

  /** The conditions that say which nodes a target is notified of: one mapping, or a list of them. */
  #matchesOf({ key, value }: KnownEntry): readonly FileRule[] {
    const items = value.kind === 'list' ? value.items : [value];
    if (items.length === 0) this.#problem(value.at, 'nodes: the list is empty: write a condition, or remove the line');
    return items.slice(0, MOST_RULES).flatMap((item) => {
      const settings = new Map<string, Given>();
      if (item.kind !== 'mapping') this.#misfit(key, item, `conditions like ${MATCH_EXAMPLE}, or a list of them`);
      else if (this.#addEntries(settings, item.entries, MATCH_KEYS) && settings.size === 0)
        this.#problem(item.at, `nodes: has no condition: write one like ${MATCH_EXAMPLE}`);
      return [{ at: item.at, settings, isWhole: true }];
    });
  }

  /** @returns whether all of them could be read. */
  #addEntries(to: Map<string, Given>, entries: readonly Entry[], names: ReadonlyMap<string, string>): boolean {
    const before = this.problems.length;
    for (const entry of this.#knownEntries(entries, [...names.keys()])) {
      this.#addScalar(to, names.get(entry.key) ?? entry.key, entry);
    }
    return this.problems.length === before;
  }

  #addScalar(to: Map<string, Given>, name: string, { key, value }: KnownEntry): void {
    if (value.kind === 'scalar') to.set(name, { value: value.value, at: value.at });
    else this.#misfit(key, value, 'a single value');
  }

  /** The entries with a known key. A key that comes twice is a problem. */
  #knownEntries(entries: readonly Entry[], known: readonly string[]): readonly KnownEntry[] {
    const seen = new Map<string, Position>();
    const found: KnownEntry[] = [];
    for (const { key, value } of entries) {
      if (key.kind !== 'scalar') {
        this.#problem(key.at, key.kind === 'alias' ? aliasText(key.name) : NO_WORD);
        continue;
      }
      const word = String(key.value);
      const first = seen.get(word);
      if (first !== undefined) this.#problem(key.at, twice(word, first));
      else if (known.includes(word)) found.push({ key: word, value });
      else this.#problem(key.at, unknown(word, known));
      if (first === undefined) seen.set(word, key.at);
    }
    return found;
  }

  /** Reports a value of the wrong kind, such as a list in place of a single value. */
  #misfit(key: string, value: Value, needed: string): void {
    this.#problem(value.at, `${key}: ${misfitText(value, needed)}`);
  }

  #problem(at: Position, text: string): void {
    this.problems.push({ at, text });
  }
}

const NO_SETTINGS = 'these are not settings: write each on a line of its own, like silent-after: 30s';
const NO_ADDRESSES = 'listen: the list is empty: write an address, or remove the line';
const NO_WORD = 'a setting cannot have such a name: write a word before the colon';

function misfitText(value: Value, needed: string): string {
  switch (value.kind) {
    case 'nothing':
      return `has no value: write ${needed}, or remove the line`;
    case 'alias':
      return aliasText(value.name);
    case 'scalar':
      return `${quoted(withoutUrls(value.value))} cannot be used here: write ${needed}`;
    case 'list':
      return `a list cannot be used here: write ${needed}`;
    case 'mapping':
      return `a mapping cannot be used here: write ${needed}`;
    default:
      return value satisfies never;
  }
}

function twice(word: string, first: Position): string {
  return `${quoted(withoutUrls(word))} is set twice, first in line ${first.line}: remove one`;
}

function unknown(word: string, known: readonly string[]): string {
  const elsewhere = Object.hasOwn(ELSEWHERE, word) ? ELSEWHERE[word] : undefined;
  if (elsewhere !== undefined) return `${quoted(word)} ${elsewhere}`;
  const near = nearest(word, known);
  const advice = near === undefined ? `write one of ${known.join(', ')}` : `did you mean ${near}?`;
  return `${quoted(withoutUrls(word))} is not a setting here: ${advice}`;
}
