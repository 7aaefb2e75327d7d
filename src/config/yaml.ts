import { Composer, isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, type Pair, Parser, type YAMLError } from 'yaml';
import { reasonOf } from '../lib/errors.ts';
import { type Position, type Problem, shown } from './problems.ts';

/** A piece of a YAML file and its place. */
export type Value =
  | { readonly kind: 'nothing'; readonly at: Position }
  | { readonly kind: 'scalar'; readonly value: unknown; readonly at: Position }
  | { readonly kind: 'list'; readonly items: readonly Value[]; readonly at: Position }
  | { readonly kind: 'mapping'; readonly entries: readonly Entry[]; readonly at: Position }
  /** `*name`. Aliases are not resolved, because with aliases of aliases a small file can become huge. */
  | { readonly kind: 'alias'; readonly name: string; readonly at: Position };

export interface Entry {
  readonly key: Value;
  readonly value: Value;
}

export interface YamlDocument {
  /** Do not use it if there are problems. */
  readonly root: Value;
  readonly problems: readonly Problem[];
}

/** The library's composer is recursive. Thousands of levels would overflow the stack and end the process with every stream. */
const MOST_LEVELS = 100;

/**
 * `uniqueKeys` is off, because the library would compare each key with every other. file.ts finds duplicates itself.
 * With `core` and no tags of other schemas, `off` and `yes` are words, even after `%YAML 1.1`.
 */
const OPTIONS = {
  prettyErrors: false,
  uniqueKeys: false,
  schema: 'core',
  merge: false,
  resolveKnownTags: false,
} as const;

const START: Position = { line: 1, column: 1 };

/** Reads one YAML document. It never throws, because whatever is in the file, a reload must not end the process. */
export function readYaml(file: string): YamlDocument {
  // Editors do not count a byte order mark as a column.
  const text = file.replace(/^\ufeff/, '');
  const lines = linesOf(text);
  const positionAt = (offset: number): Position => {
    const { line, col } = lines.linePos(Math.min(offset, text.length));
    return { line, column: col };
  };
  try {
    return withoutStackTraces(() => documentOf(text, positionAt));
  } catch (error) {
    const why = `the YAML reader fails at this file, ${reasonOf(error)}: write it in a simpler way`;
    return { root: { kind: 'nothing', at: START }, problems: [{ at: START, text: why }] };
  }
}

/** The library creates an Error for each mistake. In a file that is not YAML, thousands of stack traces take most of the time. */
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
    const deep = `nested more than ${MOST_LEVELS} levels deep: settings need four at most`;
    return { root: { kind: 'nothing', at: START }, problems: [{ at: positionAt(tokens), text: deep }] };
  }
  const [document, second] = new Composer(OPTIONS).compose(tokens, true, text.length);
  const problems: Problem[] = [];
  let lastLine = 0;
  for (const error of [...(document?.errors ?? []), ...(document?.warnings ?? [])]) {
    const at = positionAt(error.pos[0]);
    // One mistake can cause several errors in a line. The first one is the most helpful.
    if (at.line !== lastLine) problems.push({ at, text: textOf(error) });
    lastLine = at.line;
  }
  if (second !== undefined) problems.push({ at: positionAt(second.range[0]), text: SECOND });
  return { root: toValue(document?.contents, START, positionAt), problems };
}

const SECOND = "a second document begins here: keep one, without a line '---' after it";

/** We count lines ourselves, because the library's counter misses some line ends in text that is not YAML. */
function linesOf(text: string): LineCounter {
  const lines = new LineCounter();
  lines.addNewLine(0);
  for (let end = text.indexOf('\n'); end !== -1; end = text.indexOf('\n', end + 1)) lines.addNewLine(end + 1);
  return lines;
}

type Tokens = ReturnType<Parser['parse']> extends Iterable<infer Token> ? Token[] : never;

/** @returns the tokens of the text, or the offset at which they are nested too deep. */
function tokensOf(text: string): Tokens | number {
  const parser = new Parser();
  const tokens: Tokens = [];
  for (const lexeme of new Lexer().lex(text)) {
    for (const token of parser.next(lexeme)) tokens.push(token);
    if (parser.stack.length > MOST_LEVELS) return parser.offset;
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
  // An empty value, as in `hold:`, is somewhere after the colon, perhaps lines below. The place of its key is more helpful.
  return { key, value: value.kind === 'nothing' ? { kind: 'nothing', at: key.at } : value };
}

/** What is wrong, in the library's words or in better ones, and what to do. */
function textOf({ code, message }: YAMLError): string {
  const what = shown(
    message.replace(/^./, (letter) => letter.toLowerCase()),
    200,
  );
  switch (code) {
    case 'TAB_AS_INDENT':
      return 'a tab indents this line: use spaces';
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

/** The message for an alias. Most often it is a glob without quotes. */
export function aliasText(name: string): string {
  const word = `*${shown(name, 40)}`;
  return `${word} is a YAML alias, and aliases are not read here: write the value itself; put a name pattern in quotes, '${word}'`;
}
