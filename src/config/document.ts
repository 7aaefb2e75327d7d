import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, type Pair, Parser, type YAMLError } from 'yaml';
import { reasonOf } from '../lib/errors.ts';
import { type Given, kebabCase, type Mistake, nearest, type Position, printable, quoted } from './problems.ts';

/** A piece of a YAML file and its place. */
export type Value =
  | { readonly kind: 'nothing'; readonly at: Position }
  | { readonly kind: 'scalar'; readonly value: unknown; readonly at: Position }
  | { readonly kind: 'list'; readonly items: readonly Value[]; readonly at: Position }
  | { readonly kind: 'mapping'; readonly entries: readonly Entry[]; readonly at: Position }
  /** `*name`: not followed, so that a file is never more than what it looks like. */
  | { readonly kind: 'alias'; readonly name: string; readonly at: Position };

export interface Entry {
  readonly key: Value;
  readonly value: Value;
}

export interface YamlDocument {
  readonly root: Value;
  /** Where the text is no YAML; while there are any, `root` says little. */
  readonly mistakes: readonly Mistake[];
}

/** The library composes by recursion; thousands of levels would take the process's stack, and with it every stream. */
const DEEPEST = 100;

/**
 * `uniqueKeys` off: the library compares each key with each; file-settings.ts looks for twins.
 * `core` without tags of more types: `off` and `yes` are words, also after `%YAML 1.1`.
 */
const OPTIONS = {
  prettyErrors: false,
  uniqueKeys: false,
  schema: 'core',
  merge: false,
  resolveKnownTags: false,
} as const;

const START: Position = { line: 1, column: 1 };

/** Reads one YAML document; it throws nothing. */
export function readYaml(file: string): YamlDocument {
  // A byte order mark is no column.
  const text = file.replace(/^\ufeff/, '');
  const lines = linesOf(text);
  const positionAt = (offset: number): Position => {
    const { line, col } = lines.linePos(Math.min(offset, text.length));
    return { line, column: col };
  };
  try {
    return withoutStackTraces(() => documentOf(text, positionAt));
  } catch (error) {
    // The library is not ours: what it cannot take is a mistake of the file, and must not be the end of every stream.
    const mistake = { at: START, text: `not YAML that can be read, ${reasonOf(error)}: write it anew, more plainly` };
    return { root: { kind: 'nothing', at: START }, mistakes: [mistake] };
  }
}

/** The library makes an Error of each slip, thousands of them in what is no YAML, and to trace one takes longer than all else. */
function withoutStackTraces<T>(act: () => T): T {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return act();
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

function documentOf(text: string, positionAt: (offset: number) => Position): YamlDocument {
  const tokens = tokensOf(text);
  if (typeof tokens === 'number') {
    const deep = {
      at: positionAt(tokens),
      text: `nested more than ${DEEPEST} levels deep: settings need four at most`,
    };
    return { root: { kind: 'nothing', at: START }, mistakes: [deep] };
  }
  const [document, second] = new Composer(OPTIONS).compose(tokens, true, text.length);
  const mistakes: Mistake[] = [];
  for (const error of [...(document?.errors ?? []), ...(document?.warnings ?? [])]) {
    const at = positionAt(error.pos[0]);
    // One slip makes several errors in its line, of which the first tells most.
    if (mistakes.at(-1)?.at.line !== at.line) mistakes.push({ at, text: textOf(error) });
  }
  if (second !== undefined) mistakes.push({ at: positionAt(second.range[0]), text: SECOND });
  return { root: toValue(document?.contents, START, positionAt), mistakes };
}

const SECOND = "a second document begins here: keep one, without a line '---' after it";

/** Counted here: the library's parser passes over some ends of lines in what is no YAML. */
function linesOf(text: string): LineCounter {
  const lines = new LineCounter();
  lines.addNewLine(0);
  for (let end = text.indexOf('\n'); end !== -1; end = text.indexOf('\n', end + 1)) lines.addNewLine(end + 1);
  return lines;
}

type Tokens = ReturnType<Parser['parse']> extends Iterable<infer Token> ? Token[] : never;

/** The text's tokens, or the offset where they are nested too deep. */
function tokensOf(text: string): Tokens | number {
  const parser = new Parser();
  const tokens: Tokens = [];
  for (const lexeme of new Lexer().lex(text)) {
    for (const token of parser.next(lexeme)) tokens.push(token);
    if (parser.stack.length > DEEPEST) return parser.offset;
  }
  for (const token of parser.end()) tokens.push(token);
  return tokens;
}

function toValue(node: unknown, nowhere: Position, positionAt: (offset: number) => Position): Value {
  const range = (node as { range?: readonly [number, number, number] } | null | undefined)?.range;
  const at = range == null ? nowhere : positionAt(range[0]);
  if (isAlias(node)) return { kind: 'alias', name: node.source, at };
  if (isSeq(node)) return { kind: 'list', items: node.items.map((item) => toValue(item, at, positionAt)), at };
  if (isMap(node)) return { kind: 'mapping', entries: node.items.map((pair) => toEntry(pair, at, positionAt)), at };
  if (isScalar(node) && node.value !== null) return { kind: 'scalar', value: node.value, at };
  return { kind: 'nothing', at };
}

function toEntry(pair: Pair<unknown, unknown>, nowhere: Position, positionAt: (offset: number) => Position): Entry {
  const key = toValue(pair.key, nowhere, positionAt);
  const value = toValue(pair.value, key.at, positionAt);
  // The empty value of `hold:` has a place of its own, after the colon or lines below; that of its key says more.
  return { key, value: value.kind === 'nothing' ? { kind: 'nothing', at: key.at } : value };
}

/** What the library says, and what to do about it. */
function textOf({ code, message }: YAMLError): string {
  const what = printable(
    message.replace(/^./, (letter) => letter.toLowerCase()),
    200,
  );
  switch (code) {
    case 'TAB_AS_INDENT':
      return 'a tab stands where the line is indented: use spaces';
    case 'BAD_ALIAS':
      return message.startsWith('Alias') ? aliasText('') : `${what}: put the value in quotes`;
    case 'TAG_RESOLVE_FAILED':
      return `${what}: remove it`;
    case 'MISSING_CHAR':
      return `${what}: add it`;
    case 'BAD_DQ_ESCAPE':
      return `${what}: write \\\\ for a backslash, or use single quotes`;
    case 'BLOCK_AS_IMPLICIT_KEY':
      return `${what}: put a value with ': ' in it in quotes, or begin a new line`;
    case 'BAD_SCALAR_START':
      return `${what}: put the value in quotes`;
    default:
      return `not YAML, ${what}: look at the indentation, brackets and quotes here and just above`;
  }
}

/** An alias is most often a glob that lacks its quotes. */
export function aliasText(name: string): string {
  const word = `*${printable(name, 40)}`;
  return `${word} is an alias in YAML, and none is read here: write the value itself, a name pattern in quotes, '${word}'`;
}

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
