import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { zstdFrameOf } from '../../src/demo/machine-api.ts';

const SIZES = [0, 1, 255, 256, 65_535, 128 * 1024, 128 * 1024 + 1, 300_000];
const hasZstd = spawnSync('zstd', ['--version']).status === 0;

/** Reads a frame as RFC 8878 says, as far as raw blocks go. */
function contentOf(frame: Buffer): Buffer {
  expect(frame.readUInt32LE(0)).toBe(0xfd2fb528);
  // Four bytes of content size, one segment, no checksum, no dictionary.
  expect(frame[4]).toBe(0xa0);
  const parts: Buffer[] = [];
  let at = 9;
  for (let isLast = false; !isLast; ) {
    const header = frame.readUIntLE(at, 3);
    isLast = (header & 1) === 1;
    expect((header >> 1) & 3, 'block type').toBe(0);
    const length = header >> 3;
    expect(length).toBeLessThanOrEqual(128 * 1024);
    parts.push(frame.subarray(at + 3, at + 3 + length));
    at += 3 + length;
  }
  expect(at, 'nothing behind the last block').toBe(frame.length);
  const content = Buffer.concat(parts);
  expect(frame.readUInt32LE(5), 'content size').toBe(content.length);
  return content;
}

describe('zstdFrameOf', () => {
  test.each(SIZES)('contains %d bytes unchanged', (size) => {
    const content = randomBytes(size);
    expect(contentOf(zstdFrameOf(content)).equals(content)).toBe(true);
  });

  test.skipIf(!hasZstd).each(SIZES)('the zstd program reads a frame of %d bytes', (size) => {
    const content = randomBytes(size);
    const { status, stdout, stderr } = spawnSync('zstd', ['-d', '-c'], { input: zstdFrameOf(content) });
    expect(stderr.toString()).toBe('');
    expect(status).toBe(0);
    expect(stdout.equals(content)).toBe(true);
  });
});
