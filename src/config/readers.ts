import { z } from 'zod';
import { parseDuration, parseSize } from '../lib/units.ts';
import { parseHostPort } from './host-port.ts';
import { looksLikeKey, quoted } from './problems.ts';
import { parseRedisUrl } from './redis.ts';
import type { Hold } from './types.ts';

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
export function duration(shortest: string, longest: string, off?: 'off') {
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

export const hostPort = scalar.transform((text, context) => {
  const parsed = parseHostPort(text);
  if (parsed !== undefined) return parsed;
  const example = /^\d+$/.test(text) ? `:${text}` : '0.0.0.0:8081, [::1]:8081 or :8081';
  context.addIssue(`${quoted(text)} is not HOST:PORT: write ${example}`);
  return z.NEVER;
});

export const upstream = scalar.transform((text, context) => {
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

export const hold = scalar.transform((text, context): Hold => {
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
export function word(what: string) {
  const error = ({ input }: { input?: unknown }): string =>
    `${quoted(input)} is a ${typeof input} to YAML: put it in quotes, '${String(input)}'`;
  return z.string({ error }).min(1, `needs ${what}`);
}

const IS_KEY =
  'this is a key, not the path of a file that holds it: name the file, with ./ before it if it only looks like one';

/** @param what is in the file: none, or what is to be named when it is missing. */
export function keyFile(what?: string) {
  const needed = what === undefined ? 'the path of a file' : `the path of a file with ${what}`;
  return word(needed).refine((path) => !looksLikeKey(path), { error: IS_KEY });
}

export function key<Key>(what: string, prefix: string, parse: (text: string) => Key | undefined) {
  return scalar.transform((text, context): Key => {
    const parsed = parse(text);
    if (parsed !== undefined) return parsed;
    context.addIssue(`${quoted(text)} is no ${what}: write ${prefix}: and 64 hex digits, 0-9 and a-f`);
    return z.NEVER;
  });
}

export const yesOrNo = z.boolean({
  error: ({ input }) =>
    /^(true|false)$/.test(String(input))
      ? `${quoted(input)} is text: write ${input} without quotes`
      : `${quoted(input)} is neither true nor false: write one of them`,
});

export const count = scalar.transform((text, context) => {
  const number = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (number <= MOST_NODES) return number;
  context.addIssue(`${quoted(text)} is no number of nodes: write a whole number from 0, for none, to ${MOST_NODES}`);
  return z.NEVER;
});

export const redisUrl = scalar.transform((text, context) => {
  const parsed = parseRedisUrl(text);
  if (typeof parsed !== 'string') return parsed;
  context.addIssue(`${quoted(text.replace(/\/\/[^/]*@/, '//…@'))} ${parsed}`);
  return z.NEVER;
});

/** Part of names in Redis and of texts: what stands there must not be taken for something else. */
export const plainName = word('a name').refine((text) => /^[\w.-]{1,60}$/.test(text), {
  error: ({ input }) => `${quoted(input)} is no name: write up to 60 of letters, digits, . _ and -`,
});

/** A whole number between two. */
export function number(least: number, most: number, off?: 'off') {
  return scalar.transform((text, context): number => {
    if (text === off) return 0;
    const found = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (found >= least && found <= most) return found;
    const others = off === undefined ? '' : ', or off';
    context.addIssue(`${quoted(text)} cannot stand here: write a whole number from ${least} to ${most}${others}`);
    return z.NEVER;
  });
}

/** A number of bytes between two. */
export function size(least: string, most: string) {
  return scalar.transform((text, context): number => {
    const bytes = parseSize(text);
    if (bytes === undefined) context.addIssue(`${quoted(text)} is no size: write 512B, 16KiB or 16MiB`);
    else if (bytes < (parseSize(least) ?? 0)) context.addIssue(`${quoted(text)} is too small: write ${least} or more`);
    else if (bytes > (parseSize(most) ?? 0)) context.addIssue(`${quoted(text)} is too large: write ${most} or less`);
    else return bytes;
    return z.NEVER;
  });
}
