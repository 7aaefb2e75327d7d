import { createCipheriv, randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import {
  createOpener,
  createSealer,
  MAX_PLAINTEXT_LENGTH,
  MAX_RECORD_LENGTH,
} from '../../src/demo/noise-connection.ts';

const key = randomBytes(32);
const plaintext = randomBytes(50_000);

/** Splits at places that differ, but are the same in every run. */
function chaotic(bytes: Buffer): Buffer[] {
  const chunks: Buffer[] = [];
  let seed = 1;
  for (let at = 0; at < bytes.length; ) {
    seed = (seed * 48_271) % 2_147_483_647;
    const length = seed % 3 === 0 ? 1 + (seed % 4) : 1 + (seed % 6000);
    chunks.push(bytes.subarray(at, at + length));
    at += length;
  }
  return chunks;
}

function bytewise(bytes: Buffer): Buffer[] {
  return Array.from(bytes, (byte) => Buffer.of(byte));
}

/** A record as `control/controlbase/conn.go` makes it, without the code under test. */
function record(count: number, content: string): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt8(count, 11);
  const cipher = createCipheriv('chacha20-poly1305', key, nonce, { authTagLength: 16 });
  const ciphertext = Buffer.concat([cipher.update(content), cipher.final(), cipher.getAuthTag()]);
  return Buffer.concat([Buffer.of(4, 0, ciphertext.length), ciphertext]);
}

describe('createSealer', () => {
  test('creates records of type 4 with 4096 bytes at most', () => {
    const sealed = createSealer(key)(plaintext);
    const lengths: number[] = [];
    for (let at = 0; at < sealed.length; ) {
      expect(sealed[at]).toBe(4);
      const length = 3 + sealed.readUInt16BE(at + 1);
      lengths.push(length);
      at += length;
    }
    expect(Math.max(...lengths)).toBe(MAX_RECORD_LENGTH);
    expect(lengths).toHaveLength(Math.ceil(plaintext.length / MAX_PLAINTEXT_LENGTH));
  });

  test('never encrypts two records in the same way', () => {
    const seal = createSealer(key);
    expect(seal(Buffer.from('same'))).not.toEqual(seal(Buffer.from('same')));
  });
});

describe('createOpener', () => {
  test.each([
    ['in one piece', (bytes: Buffer) => [bytes]],
    ['byte by byte', bytewise],
    ['in chaotic chunks', chaotic],
  ])('decrypts what was encrypted, received %s', (_how, split) => {
    const opener = createOpener(key);
    const opened = split(createSealer(key)(plaintext)).map((chunk) => opener.push(chunk));
    expect(opened.every(({ broken }) => broken === undefined)).toBe(true);
    expect(Buffer.concat(opened.map((part) => part.plaintext)).equals(plaintext)).toBe(true);
    expect(opener.midRecord).toBe(false);
  });

  test('decrypts hand-made records: an empty one, and the next one with nonce 1 in big-endian', () => {
    const records = Buffer.concat([record(0, ''), record(1, 'x')]);
    expect(createOpener(key).push(records)).toEqual({ plaintext: Buffer.from('x'), broken: undefined });
    expect(createSealer(key)(Buffer.from('y'))).toEqual(record(0, 'y'));
  });

  test('midRecord is true from the first byte of a record to its last', () => {
    const opener = createOpener(key);
    const sealed = record(0, 'x');
    expect(opener.midRecord).toBe(false);
    opener.push(sealed.subarray(0, 1));
    expect(opener.midRecord).toBe(true);
    opener.push(sealed.subarray(1));
    expect(opener.midRecord).toBe(false);
  });

  test('breaks at a changed byte, and delivers everything before it', () => {
    const seal = createSealer(key);
    const good = seal(Buffer.from('good'));
    for (let at = 3; at < good.length; at++) {
      const bad = createSealer(key)(Buffer.from('good'));
      bad[at] = (bad[at] ?? 0) ^ 0x80;
      expect(createOpener(key).push(bad).broken, `byte ${at}`).toBe('record whose tag does not fit');
    }
    const second = seal(Buffer.from('second'));
    second[5] = (second[5] ?? 0) ^ 1;
    const opened = createOpener(key).push(Buffer.concat([good, second]));
    expect(opened).toEqual({ plaintext: Buffer.from('good'), broken: 'record whose tag does not fit' });
  });

  test('breaks at a record that is repeated, missing, or encrypted with another key', () => {
    const seal = createSealer(key);
    const [first, second] = [seal(Buffer.from('1')), seal(Buffer.from('2'))];
    expect(createOpener(key).push(Buffer.concat([first, first])).broken).toBeDefined();
    expect(createOpener(key).push(second).broken).toBeDefined();
    expect(createOpener(randomBytes(32)).push(first).broken).toBeDefined();
  });

  test.each([
    ['of another type', Buffer.from([5, 0, 17]), 'record of type 5, expected 4'],
    ['that is too long', Buffer.from([4, 0x0f, 0xfe]), 'record of 4097 bytes, at most 4096 are allowed'],
    ['that is too short for a tag', Buffer.from([4, 0, 15]), 'record of 18 bytes, too short for a tag'],
  ])('breaks at the header of a record %s', (_which, header, why) => {
    expect(createOpener(key).push(header).broken).toBe(why);
  });
});
