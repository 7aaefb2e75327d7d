import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { Duplex, type Readable } from 'node:stream';
import type { TransportKeys } from './noise-handshake.ts';

/**
 * A transport record, at most 4096 bytes long:
 *
 *     0   1  type, 4
 *     1   2  length of what follows, big-endian
 *     3   n  ciphertext
 *   3+n  16  tag
 *
 * The cipher is ChaCha20-Poly1305 without associated data. The nonce is four zero bytes and the record's number in its
 * direction, 64 bits, big-endian. (Noise itself uses little-endian.) Source: tailscale `control/controlbase/conn.go`.
 */
const RECORD_TYPE = 4;
const HEADER_LENGTH = 3;
const TAG_LENGTH = 16;
export const MAX_RECORD_LENGTH = 4096;
export const MAX_PLAINTEXT_LENGTH = MAX_RECORD_LENGTH - HEADER_LENGTH - TAG_LENGTH;
const EMPTY = Buffer.alloc(0);
const AEAD = 'chacha20-poly1305';

/** Encrypts the bytes of one direction, in order, into as many records as needed. */
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

type Opened = { readonly plaintext: Buffer; readonly broken: undefined | string };

export interface Opener {
  /**
   * Takes the next bytes, in chunks of any size. If `broken` is set, it says why the session is over; the plaintext before
   * that is valid. Do not call `push` again after that.
   */
  push(chunk: Buffer): Opened;
  /** Whether a record is incomplete. */
  readonly midRecord: boolean;
}

/** Decrypts the records of one direction, in order. */
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

/** Decrypts one record. @returns undefined if the tag is wrong. */
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

/** A duplex stream of plaintext over an encrypted socket. */
interface NoiseConnection {
  readonly duplex: Duplex;
  /** Stops reading and writing but leaves the socket open, like a device that hangs. */
  freeze(): void;
}

/**
 * Creates the transport after the handshake. It takes over `socket`, which ends and is destroyed together with `duplex`.
 * A record that cannot be decrypted destroys both, with an error that says why.
 */
export function connectNoise(socket: Duplex, keys: TransportKeys): NoiseConnection {
  const seal = createSealer(keys.send);
  let frozen = false;

  const duplex = new Duplex({
    read() {
      if (!frozen) socket.resume();
    },
    // Encrypts all waiting chunks together, because HTTP/2 writes a frame's header and body separately.
    writev(chunks, done) {
      // A frozen side never calls `done`, so its caller waits as for a full socket.
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

/** Decrypts what the socket receives into `duplex`, and passes on the socket's end. */
function deliver(socket: Duplex, duplex: Duplex, key: Buffer): void {
  const opener = createOpener(key);
  socket.on('data', (chunk: Buffer) => {
    const { plaintext, broken } = opener.push(chunk);
    // An empty record is valid, but pushing an empty chunk could be taken for the end.
    if (plaintext.length > 0 && !duplex.push(plaintext)) socket.pause();
    if (broken !== undefined) duplex.destroy(new Error(`Noise session ended: ${broken}`));
  });
  socket.on('end', () => {
    if (opener.midRecord) duplex.destroy(new Error('Noise session ended: connection closed within a record'));
    else duplex.push(null);
  });
  socket.on('error', (error) => duplex.destroy(error));
  // Somebody else may destroy the socket, which gives neither 'end' nor 'error'.
  socket.on('close', () => duplex.destroy());
}

/**
 * Reads exactly `length` bytes and leaves the rest in the stream. Nobody else may read it meanwhile.
 *
 * @throws Error if the stream ends or fails first.
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
 * The early payload. A server may send it inside a new Noise session before HTTP/2 begins:
 *
 *     0   5  ff ff ff 'T' 'S', which cannot begin an HTTP/2 frame
 *     5   4  length of what follows, big-endian
 *     9   n  JSON: {"nodeKeyChallenge":"chalpub:<64 hex>"}
 *
 * Clients accept it from capability version 49. Source: tailscale `control/ts2021/conn.go`.
 */
const MAGIC = Buffer.from([0xff, 0xff, 0xff, 0x54, 0x53]);
const EARLY_HEADER_LENGTH = 9;
export const EARLY_PAYLOAD_SINCE_VERSION = 49;
const MAX_EARLY_PAYLOAD_BYTES = 10 * 1024 * 1024;

/** An early payload with a random challenge. Nobody checks the response to it. */
export function earlyPayload(): Buffer {
  const json = Buffer.from(JSON.stringify({ nodeKeyChallenge: `chalpub:${randomBytes(32).toString('hex')}` }));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(json.length);
  return Buffer.concat([MAGIC, length, json]);
}

/**
 * Removes the early payload, if there is one, from a client's stream, so that HTTP/2 comes next.
 *
 * @throws Error if the stream ends first, or if the payload is longer than 10 MiB.
 */
export async function skipEarlyPayload(stream: Duplex): Promise<void> {
  const header = await readExactly(stream, EARLY_HEADER_LENGTH);
  if (!MAGIC.equals(header.subarray(0, MAGIC.length))) {
    stream.unshift(header);
    return;
  }
  const length = header.readUInt32BE(MAGIC.length);
  if (length > MAX_EARLY_PAYLOAD_BYTES)
    throw new Error(`early payload of ${length} bytes, at most ${MAX_EARLY_PAYLOAD_BYTES} are reasonable`);
  if (length > 0) await readExactly(stream, length);
}
