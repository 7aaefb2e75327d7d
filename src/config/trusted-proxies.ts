import { isIP } from 'node:net';
import { type Given, type Problem, quoted } from './problem.ts';

/** Proxies whose word about where a client is counts: addresses or ranges of them, as in `10.0.0.0/8`. */
export type Cidr = string & { readonly __brand: 'Cidr' };

/**
 * Reads addresses and ranges.
 *
 * @param given each one or several with commas between them.
 */
export function readTrustedProxies(given: readonly Given[]): {
  readonly trustedProxies: readonly Cidr[];
  readonly problems: readonly Problem[];
} {
  const trustedProxies: Cidr[] = [];
  const problems: Problem[] = [];
  for (const { value, at } of given) {
    for (const text of String(value)
      .split(',')
      .map((part) => part.trim())) {
      const why = mistakeIn(text);
      if (why === undefined) trustedProxies.push(text as Cidr);
      else problems.push({ at, name: 'trustedProxies', text: why });
    }
  }
  return { trustedProxies, problems };
}

function mistakeIn(text: string): string | undefined {
  const [address = '', bits, ...more] = text.split('/');
  const longest = isIP(address) === 6 ? 128 : 32;
  const isRange = bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= longest);
  if (isIP(address) === 0 || !isRange || more.length > 0 || text.includes('%')) {
    return `${quoted(text)} is no address or range: write 127.0.0.1, 10.0.0.0/8 or fd00::/8`;
  }
  if (bits !== undefined && Number(bits) === 0) {
    return `${quoted(text)} is every address there is, and anybody could claim to be any node: name your proxies' own`;
  }
  return undefined;
}
