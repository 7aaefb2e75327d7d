import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { Duplex, type Readable } from 'node:stream';
import type { TransportKeys } from './noise-handshake.ts';

/**
 * A record of the transport, at most 4096 bytes:
 *
 *     0   1  type, 4
 *     1   2  length of what follows, big-endian
 *     3   n  ciphertext
 *   3+n  16  tag
 *
 * ChaCha20-Poly1305, no associated data; the nonce is four zero bytes and the number of the record in its
 * direction, 64 bits, big-endian (Noise would have it little-endian). Source: tailscale `control/controlbase/conn.go`.
 */
const RECORD_TYPE = 4;
const HEADER_LENGTH = 3;
const TAG_LENGTH = 16;
export const MAX_RECORD_LENGTH = 4096;
export const MAX_PLAINTEXT_LENGTH = MAX_RECORD_LENGTH - HEADER_LENGTH - TAG_LENGTH;
const EMPTY = Buffer.alloc(0);
const AEAD = 'chacha20-poly1305';

/** Seals a direction's bytes, in order, into as many records as they need. */
export function createSealer(key: Buffer): (plaintext: Uint8Array) => Buffer {
  const nonce = countingNonce();
  const sealOne = (plaintext: Uint8Array): Buffer[] => {
    const cipher = createCipheriv(AEAD, key, nonce.current, { authTagLength: TAG_LENGTH });
    const ciphertext = cipher.update(plaintext);
    cipher.final();
    nonce.next();
    const header = Buffer.of(RECORD_TYPE, 0, 0);
    header.writeUInt16BE(ciphertext.length + TAG_LENGTH, 1);
    return [header, ciphertext, cipher.getAuthTag()];
  };
  return (plaintext) => {
    const parts: Buffer[] = [];
    for (let from = 0; from < plaintext.length; from += MAX_PLAINTEXT_LENGTH) {
      parts.push(...sealOne(plaintext.subarray(from, from + MAX_PLAINTEXT_LENGTH)));
    }
    return Buffer.concat(parts);
  };
}

export type Opened = { readonly plaintext: Buffer; readonly broken: undefined | string };

export interface Opener {
  /**
   * Takes the next bytes as they come, in chunks of any size. `broken` says why the session is
   * over (the plaintext before it is good); an opener that broke once must not be fed again.
   */
  push(chunk: Buffer): Opened;
  /** Whether a record has begun that has not ended. */
  readonly midRecord: boolean;
}

/** Opens a direction's records, in order. */
export function createOpener(key: Buffer): Opener {
  const nonce = countingNonce();
  let pending: Buffer = EMPTY;

  return {
    push(chunk) {
      pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
      const plaintexts: Buffer[] = [];
      const done = (broken?: string): Opened => ({ plaintext: Buffer.concat(plaintexts), broken });
      while (pending.length >= HEADER_LENGTH) {
        const type = pending.readUInt8(0);
        if (type !== RECORD_TYPE) return done(`record of type ${type}, expected ${RECORD_TYPE}`);
        const end = HEADER_LENGTH + pending.readUInt16BE(1);
        if (end > MAX_RECORD_LENGTH) return done(`record of ${end} bytes, at most ${MAX_RECORD_LENGTH} are allowed`);
        if (end < HEADER_LENGTH + TAG_LENGTH) return done(`record of ${end} bytes, too short for a tag`);
        if (pending.length < end) break;
        const plaintext = open(key, nonce.current, pending.subarray(HEADER_LENGTH, end));
        if (plaintext === undefined) return done('record whose tag does not fit');
        nonce.next();
        plaintexts.push(plaintext);
        pending = pending.subarray(end);
      }
      return done();
    },
    get midRecord() {
      return pending.length > 0;
    },
  };
}

/** The plaintext, or undefined when the tag does not fit. */
function open(key: Buffer, nonce: Buffer, sealed: Buffer): Buffer | undefined {
  const split = sealed.length - TAG_LENGTH;
  const decipher = createDecipheriv(AEAD, key, nonce, { authTagLength: TAG_LENGTH });
  decipher.setAuthTag(sealed.subarray(split));
  const plaintext = decipher.update(sealed.subarray(0, split));
  try {
    decipher.final();
  } catch {
    return undefined;
  }
  return plaintext;
}

function countingNonce(): { readonly current: Buffer; next(): void } {
  const current = Buffer.alloc(12);
  let count = 0n;
  return {
    current,
    next() {
      current.writeBigUInt64BE(++count, 4);
    },
  };
}

/** What goes in and out of `duplex` is plain; what goes over the socket below is sealed. */
export interface NoiseConnection {
  readonly duplex: Duplex;
  /** From now on neither reads from the socket nor writes to it, and leaves it open: a device that got stuck. */
  freeze(): void;
}

/**
 * The transport after the handshake, over `socket`, which it owns from here on: it ends and is destroyed together
 * with `duplex`. A record that cannot be opened destroys both, with an error that says why.
 */
export function connectNoise(socket: Duplex, keys: TransportKeys): NoiseConnection {
  const seal = createSealer(keys.send);
  let frozen = false;

  const duplex = new Duplex({
    read() {
      if (!frozen) socket.resume();
    },
    // All that waits goes into one run of records: HTTP/2 writes a frame's header and body apart.
    writev(chunks, done) {
      // A frozen side never says that it has written: its caller waits, as it would for a full socket.
      if (!frozen) socket.write(seal(Buffer.concat(chunks.map(({ chunk }) => chunk as Buffer))), done);
    },
    final(done) {
      if (!frozen) socket.end(done);
    },
    destroy(error, done) {
      socket.destroy();
      done(error);
    },
  });

  deliver(socket, duplex, keys.receive);
  return {
    duplex,
    freeze() {
      frozen = true;
      socket.pause();
    },
  };
}

/** Hands what the socket receives to `duplex`, opened, and lets it share the socket's end. */
function deliver(socket: Duplex, duplex: Duplex, key: Buffer): void {
  const opener = createOpener(key);
  socket.on('data', (chunk: Buffer) => {
    const { plaintext, broken } = opener.push(chunk);
    // An empty record is legal and says nothing; pushing it would look like the end.
    if (plaintext.length > 0 && !duplex.push(plaintext)) socket.pause();
    if (broken !== undefined) duplex.destroy(new Error(`Noise session ended: ${broken}`));
  });
  socket.on('end', () => {
    if (opener.midRecord) duplex.destroy(new Error('Noise session ended: connection closed within a record'));
    else duplex.push(null);
  });
  socket.on('error', (error) => duplex.destroy(error));
  // A socket that is gone without 'end' or 'error', because somebody else destroyed it.
  socket.on('close', () => duplex.destroy());
}

/**
 * The next `length` bytes of a stream nobody else reads; the rest stays in it.
 *
 * @throws when it ends or fails before.
 */
export async function readExactly(stream: Readable, length: number): Promise<Buffer> {
  return await new Promise<Buffer>((resolve, reject) => {
    const settle = (settled: () => void): void => {
      stream.off('readable', attempt).off('end', ended).off('close', ended).off('error', failed);
      settled();
    };
    const attempt = (): void => {
      const chunk: Buffer | null = stream.read(length);
      if (chunk !== null && chunk.length === length) settle(() => resolve(chunk));
    };
    const ended = (): void =>
      settle(() => reject(new Error(`connection ended where ${length} more bytes were expected`)));
    const failed = (error: Error): void => settle(() => reject(error));
    if (stream.readableEnded || stream.destroyed) return ended();
    stream.on('readable', attempt).on('end', ended).on('close', ended).on('error', failed);
    attempt();
  });
}

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
const EARLY_HEADER_LENGTH = 9;
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
  const header = await readExactly(stream, EARLY_HEADER_LENGTH);
  if (!MAGIC.equals(header.subarray(0, MAGIC.length))) {
    stream.unshift(header);
    return;
  }
  const length = header.readUInt32BE(MAGIC.length);
  if (length > LONGEST) throw new Error(`early payload of ${length} bytes, at most ${LONGEST} are reasonable`);
  if (length > 0) await readExactly(stream, length);
}
