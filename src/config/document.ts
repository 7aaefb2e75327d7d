import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, type Pair, Parser, type YAMLError } from 'yaml';
import { reasonOf } from '../lib/errors.ts';
import { type Mistake, type Position, printable } from './problem.ts';

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
