import { BlockList, isIP } from 'node:net';
import type { Cidr } from '../config/types.ts';

/** Whether an address is a trusted proxy, so that its X-Forwarded-For is believed. */
export type Trust = (address: string) => boolean;

/** @param cidrs addresses and ranges. An IPv4 address also matches as `::ffff:a.b.c.d`. */
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

/** The trusted proxies of the current configuration. Cheap to call for every connection: it is rebuilt only after a change. */
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
 * The client's address behind trusted proxies. X-Forwarded-For is read from the right, up to the first address that is not a
 * trusted proxy: anybody may have written what stands before it. Without it X-Real-IP counts, then the nearest proxy.
 *
 * @param nearest the trusted proxy that has connected to us.
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
  const isKnown = client !== nearest;
  return isKnown ? client : (addressIn(realIp ?? '') ?? client);
}

/** Reads an address that may have a port and brackets. */
function addressIn(text: string): string | undefined {
  const trimmed = text.trim();
  const [, bracketed, plain = ''] = /^(?:\[([^\]]*)\](?::\d+)?|(.*))$/.exec(trimmed) ?? [];
  const candidate = bracketed ?? (isIP(plain) === 0 ? plain.replace(/:\d+$/, '') : plain);
  const address = candidate.replace(/^::ffff:(?=\d+\.)/i, '');
  return isIP(address) === 0 ? undefined : address.toLowerCase();
}
