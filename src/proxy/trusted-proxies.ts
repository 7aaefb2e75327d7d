import { BlockList, isIP } from 'node:net';
import type { Cidr } from '../config/types.ts';

/** Whether the word of whoever has this address counts. */
export type Trust = (address: string) => boolean;

/** @param cidrs addresses and ranges; an IPv4 address is known also where it comes as `::ffff:a.b.c.d`. */
export function trustOf(cidrs: readonly Cidr[]): Trust {
  if (cidrs.length === 0) return () => false;
  const list = new BlockList();
  for (const cidr of cidrs) {
    const [address = '', bits] = cidr.split('/');
    const family = familyOf(address);
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  return (address) => isIP(address) !== 0 && list.check(address, familyOf(address));
}

/** Whom we trust, by what is configured now; asked for every connection, and made anew only where it has changed. */
export function currentTrust(configured: () => readonly Cidr[]): () => Trust {
  let from: readonly Cidr[] = [];
  let trust = trustOf(from);
  return () => {
    const now = configured();
    if (now !== from) {
      from = now;
      trust = trustOf(now);
    }
    return trust;
  };
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return isIP(address) === 6 ? 'ipv6' : 'ipv4';
}

/**
 * The client's address, as trusted proxies tell it: X-Forwarded-For from the right, up to the first that is not one of
 * them, since all before that anybody may have written; else X-Real-IP; else the nearest of the proxies.
 *
 * @param nearest who has connected to us, and is trusted.
 */
export function clientAddress(
  nearest: string,
  forwardedFor: string | undefined,
  realIp: string | undefined,
  trust: Trust,
): string {
  let client = nearest;
  for (const hop of (forwardedFor ?? '').split(',').reverse()) {
    const address = addressIn(hop);
    if (address === undefined) break;
    client = address;
    if (!trust(address)) return client;
  }
  const isTold = client !== nearest;
  return isTold ? client : (addressIn(realIp ?? '') ?? client);
}

/** An address, perhaps with a port, perhaps in brackets. */
function addressIn(text: string): string | undefined {
  const trimmed = text.trim();
  const [, bracketed, plain = ''] = /^(?:\[([^\]]*)\](?::\d+)?|(.*))$/.exec(trimmed) ?? [];
  const candidate = bracketed ?? (isIP(plain) === 0 ? plain.replace(/:\d+$/, '') : plain);
  const address = candidate.replace(/^::ffff:(?=\d+\.)/i, '');
  return isIP(address) === 0 ? undefined : address.toLowerCase();
}
