import { nearest } from '../lib/text.ts';
import { ruleKeyProblems } from './checks.ts';
import type { FileTarget } from './file.ts';
import { globMatches } from './policy.ts';
import { type Given, type Problem, quoted, withoutUrls } from './problems.ts';
import { present, readEach } from './readers.ts';
import { RULE_MATCHES, TARGET_SETTINGS, type TargetSettings } from './settings.ts';
import { NOTICE_TYPES, type NoticeType, type NotifyFormat, type NotifyTarget } from './types.ts';

/** Takeovers are the watchdog's daily work. Nobody has to act on one. */
const TYPES_BY_DEFAULT = NOTICE_TYPES.filter((type) => type !== 'takeover');

/** What each format does with `secret-file`. */
const SECRET_IS: Readonly<Record<NotifyFormat, 'signing key' | 'token' | 'needed token' | 'in the URL'>> = {
  standard: 'signing key',
  ntfy: 'token',
  gotify: 'needed token',
  slack: 'in the URL',
  discord: 'in the URL',
  text: 'token',
};

/** Whether the file holds a key for signatures (`whsec_…`), not a token that is sent. */
export function isSigned({ format }: Pick<NotifyTarget, 'format'>): boolean {
  return SECRET_IS[format] === 'signing key';
}

/**
 * The target for a log or an answer: `ntfy, https://ntfy.sh/…`. The path, the query and the user may be secrets, so they are never
 * shown.
 */
export function formatTarget({ format, url }: Pick<NotifyTarget, 'format' | 'url'>): string {
  return `${format}, ${url.origin}${url.pathname === '/' && url.search === '' ? '' : '/…'}`;
}

/** Reads an item of `notify:`. @returns no target if it has a problem. */
export function readTarget(
  file: FileTarget,
  given: ReadonlyMap<string, Given>,
): { readonly target: NotifyTarget | undefined; readonly problems: readonly Problem[] } {
  const { values, problems: ofSettings } = readEach(TARGET_SETTINGS, file.settings);
  const events = readTypes(file);
  const nodes = file.nodes?.map(({ settings }) => ({ settings, ...readEach(RULE_MATCHES, settings) }));
  const problems = [
    ...missing(file),
    ...ofSettings,
    ...secretProblems(file, values),
    ...events.problems,
    ...(nodes ?? []).flatMap((node) => [...node.problems, ...ruleKeyProblems(node.settings, given)]),
  ];
  const { url, format = 'standard', secretFile } = values;
  if (url === undefined || problems.length > 0) return { target: undefined, problems };
  const target = { url, format, secretFile, types: events.types, nodes: nodes?.map((node) => present(node.values)) };
  return { target, problems };
}

function missing({ at, settings, isWhole }: FileTarget): readonly Problem[] {
  if (settings.has('url') || !isWhole) return [];
  return [{ at, text: 'a target must say where notifications go: add url: https://HOST/PATH' }];
}

function secretProblems(
  { at, settings }: FileTarget,
  { url, format = 'standard', secretFile }: Partial<TargetSettings>,
): readonly Problem[] {
  if (url === undefined) return [];
  const problems: Problem[] = [];
  const secretAt = settings.get('secretFile')?.at ?? at;
  const urlAt = settings.get('url')?.at ?? at;
  if (SECRET_IS[format] === 'needed token' && secretFile === undefined && !url.searchParams.has('token'))
    problems.push({
      at,
      text: `${format} needs a token: add secret-file: FILE, a file with the token of the application`,
    });
  if (SECRET_IS[format] === 'in the URL' && secretFile !== undefined)
    problems.push({
      at: secretAt,
      name: 'secretFile',
      text: `${format} has its secret in the URL: remove secret-file`,
    });
  if (SECRET_IS[format] === 'token' && secretFile !== undefined && url.username !== '')
    problems.push({
      at: urlAt,
      name: 'url',
      text: 'has a user, and secret-file holds a token, but only one of them can be sent: remove the other',
    });
  if (format === 'ntfy' && url.pathname === '/')
    problems.push({ at: urlAt, name: 'url', text: 'names no topic: write https://ntfy.sh/TOPIC' });
  return problems;
}

function readTypes({ events, isWhole }: FileTarget): {
  readonly types: readonly NoticeType[];
  readonly problems: readonly Problem[];
} {
  if (events === undefined) return { types: TYPES_BY_DEFAULT, problems: [] };
  const problems: Problem[] = [];
  const found = new Set<NoticeType>();
  // What has the wrong form has been reported already.
  if (events.items.length === 0 && isWhole)
    problems.push({ at: events.at, name: 'events', text: `names no event: write one of ${NOTICE_TYPES.join(', ')}` });
  for (const { value, at } of events.items) {
    const types = NOTICE_TYPES.filter((type) => globMatches(String(value), type));
    for (const type of types) found.add(type);
    if (types.length === 0) problems.push({ at, name: 'events', text: unknownType(String(value)) });
  }
  return { types: NOTICE_TYPES.filter((type) => found.has(type)), problems };
}

function unknownType(word: string): string {
  const near = nearest(word, NOTICE_TYPES);
  const advice =
    near === undefined ? `write one of ${NOTICE_TYPES.join(', ')}, or a pattern like node.*` : `did you mean ${near}?`;
  return `${quoted(withoutUrls(word))} is no event: ${advice}`;
}
