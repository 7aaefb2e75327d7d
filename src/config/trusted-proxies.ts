import { isIP } from 'node:net';
import { DEFAULTS } from './defaults.ts';
import { type Given, type Problem, quoted } from './problems.ts';
import type { Cidr } from './types.ts';

/** Whoever connects from the loopback is a program on this machine: most often the proxy in front of the watchdog. */
export const LOOPBACK = DEFAULTS.trustedProxies.split(',') as readonly string[] as readonly Cidr[];

const NOBODY = 'none';

/**
 * Reads addresses and ranges, or `none`.
 *
 * @param given each one or several with commas between them.
 */
export function readTrustedProxies(given: readonly Given[]): {
  readonly trustedProxies: readonly Cidr[];
  readonly problems: readonly Problem[];
} {
  const trustedProxies: Cidr[] = [];
  const problems: Problem[] = [];
  const texts = given.flatMap(({ value, at }) =>
    String(value)
      .split(',')
      .map((part) => ({ text: part.trim(), at })),
  );
  for (const { text, at } of texts) {
    if (text === NOBODY && texts.length === 1) continue;
    const why = text === NOBODY ? `'none' stands alone: remove it, or the addresses beside it` : mistakeIn(text);
    if (why === undefined) trustedProxies.push(text as Cidr);
    else problems.push({ at, name: 'trustedProxies', text: why });
  }
  return { trustedProxies, problems };
}

function mistakeIn(text: string): string | undefined {
  const [address = '', bits, ...more] = text.split('/');
  const longest = isIP(address) === 6 ? 128 : 32;
  const isRange = bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= longest);
  if (isIP(address) === 0 || !isRange || more.length > 0 || text.includes('%')) {
    return `${quoted(text)} is no address or range: write 127.0.0.1, 10.0.0.0/8 or fd00::/8, or none`;
  }
  if (bits !== undefined && Number(bits) === 0) {
    return `${quoted(text)} is every address there is, and anybody could claim to be any node: name your proxies' own`;
  }
  return undefined;
}
