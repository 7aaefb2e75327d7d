import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { readExactly } from './noise-connection.ts';

/**
 * What a server may say inside a fresh Noise session before HTTP/2 begins:
 *
 *     0   5  ff ff ff 'T' 'S': no HTTP/2 frame begins like that
 *     5   4  length of what follows, big-endian
 *     9   n  JSON: {"nodeKeyChallenge":"chalpub:<64 hex>"}
 *
 * Clients from protocol version 49 expect that it may come. Source: tailscale `control/ts2021/conn.go`.
 */
const MAGIC = Buffer.from([0xff, 0xff, 0xff, 0x54, 0x53]);
const HEADER_LENGTH = 9;
export const EARLY_PAYLOAD_SINCE_VERSION = 49;
const LONGEST = 10 * 1024 * 1024;

/** An early payload with a challenge that nobody will be held to. */
export function earlyPayload(): Buffer {
  const json = Buffer.from(JSON.stringify({ nodeKeyChallenge: `chalpub:${randomBytes(32).toString('hex')}` }));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(json.length);
  return Buffer.concat([MAGIC, length, json]);
}

/**
 * Takes the early payload, if there is one, off the stream of a client, so that HTTP/2 is next.
 *
 * @throws when the stream ends before, or the payload is unreasonably long.
 */
export async function skipEarlyPayload(stream: Duplex): Promise<void> {
  const header = await readExactly(stream, HEADER_LENGTH);
  if (!MAGIC.equals(header.subarray(0, MAGIC.length))) {
    stream.unshift(header);
    return;
  }
  const length = header.readUInt32BE(MAGIC.length);
  if (length > LONGEST) throw new Error(`early payload of ${length} bytes, at most ${LONGEST} are reasonable`);
  if (length > 0) await readExactly(stream, length);
}
