import { aliasText, type Entry, type Value } from './document.ts';
import { nearest } from './nearest.ts';
import { type Given, kebabCase, type Mistake, type Position, quoted } from './problem.ts';

/** The words a file may use, as the program names them: `silentAfter`. */
export interface Vocabulary {
  readonly settings: readonly string[];
  /** Those of which there may be several. */
  readonly lists: readonly string[];
  /** What each of `listen` may say, where it is a mapping. */
  readonly listen: readonly string[];
  readonly rule: readonly string[];
}

/** A file's settings by name, each with its place; their values are still as YAML has them. */
export interface FileSettings {
  readonly settings: ReadonlyMap<string, Given>;
  /** An item that is a mapping has its entries, each with its place, as a map for its value. */
  readonly lists: ReadonlyMap<string, readonly Given[]>;
  readonly rules: readonly FileRule[];
}

export interface FileRule {
  readonly at: Position;
  readonly settings: ReadonlyMap<string, Given>;
  /** Whether all of it could be read: what a rule lacks may else be what is misspelt. */
  readonly isWhole: boolean;
}

/** The one setting that has a room of its own in the file. */
const METRICS_MAX_NODES = 'metricsMaxNodes';

/** A setting as the file spells it. */
export function fileKey(name: string): string {
  return name === METRICS_MAX_NODES ? 'metrics.max-nodes' : kebabCase(name);
}

/** For words that are right elsewhere. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  config: 'is a flag only, since it names this file: remove it',
  'metrics-max-nodes': "is a flag's name: write metrics: { max-nodes: 1000 }",
  '<<': 'merges mappings in other YAML files, but is not read here: write the settings themselves',
};

const NONE: FileSettings = { settings: new Map(), lists: new Map(), rules: [] };

/** Finds the settings and rules in a file's root; what cannot be one is added to `mistakes`. */
export function settingsOf(root: Value, words: Vocabulary, mistakes: Mistake[]): FileSettings {
  if (root.kind === 'nothing') return NONE;
  if (root.kind !== 'mapping') {
    mistakes.push({
      at: root.at,
      text: 'no settings begin here: write each on a line of its own, like silent-after: 30s',
    });
    return NONE;
  }
  const names = namesOf(words.settings.filter((name) => name !== METRICS_MAX_NODES));
  const settings = new Map<string, Given>();
  const lists = new Map<string, readonly Given[]>();
  let rules: readonly FileRule[] = [];
  for (const entry of knownEntries(root.entries, [...names.keys(), 'metrics', 'nodes'], mistakes)) {
    const name = names.get(entry.key);
    if (name !== undefined && words.lists.includes(name)) lists.set(name, itemsOf(entry, words, mistakes));
    else if (name !== undefined) addScalar(name, entry, settings, mistakes);
    else if (entry.key === 'metrics') addMetrics(entry, settings, mistakes);
    else rules = rulesOf(entry, words.rule, mistakes);
  }
  return { settings, lists, rules };
}

/** A single value, a list of them, and for `listen` also mappings. */
function itemsOf({ key, value }: KnownEntry, words: Vocabulary, mistakes: Mistake[]): readonly Given[] {
  const needed = key === 'listen' ? 'an address, or a list of them' : 'a single value, or a list of them';
  const items = value.kind === 'list' ? value.items : [value];
  if (key === 'listen' && items.length === 0) {
    // It would start, and nobody could reach it.
    mistakes.push({ at: value.at, text: 'listen: the list is empty: write an address, or remove the line' });
  }
  return items.flatMap((item): readonly Given[] => {
    if (item.kind === 'scalar') return [{ value: item.value, at: item.at }];
    if (item.kind !== 'mapping' || key !== 'listen') {
      mistakes.push(misfit(key, item, needed));
      return [];
    }
    return mappingOf(item, words.listen, mistakes);
  });
}

/** A mapping's entries by name; nothing of one in which something else is wrong. */
function mappingOf(
  { entries, at }: Extract<Value, { readonly kind: 'mapping' }>,
  words: readonly string[],
  mistakes: Mistake[],
): readonly Given[] {
  const names = namesOf(words);
  const settings = new Map<string, Given>();
  const before = mistakes.length;
  for (const entry of knownEntries(entries, [...names.keys()], mistakes)) {
    addScalar(names.get(entry.key) ?? entry.key, entry, settings, mistakes);
  }
  if (mistakes.length === before && !settings.has('address')) {
    mistakes.push({ at, text: 'listen: has no address: add address: HOST:PORT' });
  }
  return mistakes.length === before ? [{ value: settings, at }] : [];
}

function addMetrics({ key, value }: KnownEntry, settings: Map<string, Given>, mistakes: Mistake[]): void {
  if (value.kind !== 'mapping') {
    mistakes.push(misfit(key, value, 'metrics: { max-nodes: 1000 }'));
    return;
  }
  for (const entry of knownEntries(value.entries, ['max-nodes'], mistakes)) {
    addScalar(METRICS_MAX_NODES, entry, settings, mistakes);
  }
}

/** Each stream is asked after in each of them, again and again. */
const MOST_RULES = 500;
const TOO_MANY_RULES = `a rule too many, ${MOST_RULES} at most: write one for many nodes, by user or by a name like 'router-*'`;

function rulesOf({ key, value }: KnownEntry, words: readonly string[], mistakes: Mistake[]): readonly FileRule[] {
  if (value.kind !== 'list') {
    mistakes.push(misfit(key, value, "a list of rules, each like - { name: 'router-*', silent-after: 10s }"));
    return [];
  }
  const names = namesOf(words);
  const beyond = value.items[MOST_RULES];
  if (beyond !== undefined) mistakes.push({ at: beyond.at, text: TOO_MANY_RULES });
  return value.items.slice(0, MOST_RULES).map((item) => {
    const settings = new Map<string, Given>();
    const before = mistakes.length;
    if (item.kind !== 'mapping') mistakes.push(misfit('a rule', item, "{ name: 'router-*', silent-after: 10s }"));
    for (const entry of item.kind === 'mapping' ? knownEntries(item.entries, [...names.keys()], mistakes) : []) {
      addScalar(names.get(entry.key) ?? entry.key, entry, settings, mistakes);
    }
    return { at: item.at, settings, isWhole: mistakes.length === before };
  });
}

function namesOf(names: readonly string[]): ReadonlyMap<string, string> {
  return new Map(names.map((name) => [kebabCase(name), name]));
}

interface KnownEntry {
  readonly key: string;
  readonly at: Position;
  readonly value: Value;
}

/** The entries whose key is one of `known`, each key once. */
function knownEntries(entries: readonly Entry[], known: readonly string[], mistakes: Mistake[]): readonly KnownEntry[] {
  const seen = new Map<string, Position>();
  const found: KnownEntry[] = [];
  for (const { key, value } of entries) {
    const { at } = key;
    const word = key.kind === 'scalar' ? String(key.value) : undefined;
    const first = word === undefined ? undefined : seen.get(word);
    if (word === undefined) mistakes.push({ at, text: key.kind === 'alias' ? aliasText(key.name) : NO_WORD });
    else if (first !== undefined) mistakes.push({ at, text: twin(word, first) });
    else if (!known.includes(word)) mistakes.push({ at, text: unknown(word, known) });
    else found.push({ key: word, at, value });
    if (word !== undefined && first === undefined) seen.set(word, at);
  }
  return found;
}

const NO_WORD = 'no setting has such a name: write a word before the colon';

function twin(word: string, first: Position): string {
  return `${quoted(word)} is set twice, first in line ${first.line}: remove one`;
}

function unknown(word: string, known: readonly string[]): string {
  const elsewhere = Object.hasOwn(ELSEWHERE, word) ? ELSEWHERE[word] : undefined;
  if (elsewhere !== undefined) return `${quoted(word)} ${elsewhere}`;
  const near = nearest(word, known);
  const cure = near === undefined ? `known are ${known.join(', ')}` : `did you mean ${near}?`;
  return `${quoted(word)} is no setting here: ${cure}`;
}

function addScalar(name: string, { key, value }: KnownEntry, settings: Map<string, Given>, mistakes: Mistake[]): void {
  if (value.kind === 'scalar') settings.set(name, { value: value.value, at: value.at });
  else mistakes.push(misfit(key, value, 'a single value'));
}

/** A value of another shape than its key needs. */
function misfit(key: string, value: Value, needed: string): Mistake {
  const { at } = value;
  switch (value.kind) {
    case 'nothing':
      return { at, text: `${key}: has no value: write ${needed}, or remove the line` };
    case 'alias':
      return { at, text: `${key}: ${aliasText(value.name)}` };
    case 'scalar':
      return { at, text: `${key}: ${quoted(value.value)} cannot stand here: write ${needed}` };
    case 'list':
      return { at, text: `${key}: a list cannot stand here: write ${needed}` };
    case 'mapping':
      return { at, text: `${key}: settings of its own cannot stand here: write ${needed}` };
    default:
      return value satisfies never;
  }
}
