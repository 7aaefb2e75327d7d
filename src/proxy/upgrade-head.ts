import type { FirstBytes } from './first-bytes.ts';

/** What Headscale is asked to switch to; anything else may stay a plain request. */
const PROTOCOLS = /^(tailscale-control-protocol|websocket|derp)$/i;
const LONGEST_HEAD = 16 * 1024;

/**
 * Makes an upgrade of a request that has an Upgrade and no `Connection: upgrade`, as nginx sends it with the
 * configuration of Headscale's documentation: Headscale takes it, Node's parser would not.
 *
 * @param bytes what has come of a connection so far; the head is its first, and changed alone.
 */
export function withUpgrade(bytes: Buffer): FirstBytes {
  const end = bytes.indexOf('\r\n\r\n');
  // Too long a head is Node's to refuse.
  if (end < 0) return bytes.length < LONGEST_HEAD ? { kind: 'more' } : { kind: 'done', rest: bytes };
  const lines = bytes.toString('latin1', 0, end).split('\r\n');
  const headerOf = (name: string): string | undefined => {
    const found = lines.slice(1).filter((line) => line.toLowerCase().startsWith(`${name}:`));
    return found.length === 0 ? undefined : found.map((line) => line.slice(name.length + 1).trim()).join(', ');
  };
  // A line folded into the next one is Node's to refuse.
  const isFolded = lines.some((line) => /^[ \t]/.test(line));
  const isAsked = PROTOCOLS.test(headerOf('upgrade') ?? '');
  const isNamed = /(^|,)\s*upgrade\s*(,|$)/i.test(headerOf('connection') ?? '');
  if (!isAsked || isNamed || isFolded) return { kind: 'done', rest: bytes };
  const others = lines.filter((line, i) => i === 0 || !/^connection:/i.test(line));
  const head = Buffer.from([...others, 'Connection: upgrade'].join('\r\n'), 'latin1');
  return { kind: 'done', rest: Buffer.concat([head, bytes.subarray(end)]) };
}
