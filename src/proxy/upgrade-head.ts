import { isProtocol } from '../streams/request.ts';
import type { FirstBytes } from './proxy-protocol.ts';

const LONGEST_HEAD = 16 * 1024;
const UPGRADE_LINES = /\r\nupgrade:[^\r]*(?=\r)/gi;
const HAS_BODY = /\r\n(?:transfer-encoding:|content-length:(?![ \t]*0?[ \t]*\r))/i;
const NAMES_UPGRADE = /\r\nconnection:(?:[^\r]*[, \t])?upgrade[ \t]*[,\r]/i;

/**
 * Lets Node's parser take for an upgrade what is one to Headscale, and nothing else: adds the `Connection: upgrade` that
 * nginx leaves out with the configuration of Headscale's documentation, and takes away an Upgrade that Headscale does not
 * speak, or that has a body.
 *
 * @param bytes what has come of a connection so far; the head is its first, and changed alone.
 */
export function withUpgrade(bytes: Buffer): FirstBytes {
  const end = bytes.indexOf('\r\n\r\n');
  // Too long a head is Node's to refuse.
  if (end < 0) return bytes.length < LONGEST_HEAD ? { kind: 'more' } : { kind: 'done', rest: bytes };
  const head = bytes.toString('latin1', 0, end + 2);
  const asked = /\r\nupgrade:([^\r]*)\r/i.exec(head)?.[1];
  if (asked === undefined) return { kind: 'done', rest: bytes };
  if (!isProtocol(asked.trim().toLowerCase()) || HAS_BODY.test(head)) {
    return withHead(head.replace(UPGRADE_LINES, ''), bytes, end);
  }
  if (NAMES_UPGRADE.test(head)) return { kind: 'done', rest: bytes };
  return withHead(head.replace('\r\n', '\r\nConnection: upgrade\r\n'), bytes, end);
}

function withHead(head: string, bytes: Buffer, end: number): FirstBytes {
  return { kind: 'done', rest: Buffer.concat([Buffer.from(head, 'latin1'), bytes.subarray(end + 2)]) };
}
