import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readConfigFile } from '../../src/config/file.ts';
import { StartError } from '../../src/lib/errors.ts';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'watchdog-config-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function written(content: string | Uint8Array): string {
  const path = join(folder, 'watchdog.yaml');
  writeFileSync(path, content);
  return path;
}

function problemOf(path: string): string {
  try {
    readConfigFile(path);
  } catch (error) {
    if (error instanceof StartError) return error.message;
    throw error;
  }
  return '';
}

describe('readConfigFile', () => {
  test('returns path and text, without a byte order mark', () => {
    const path = written('\ufeff# für alle\n');
    expect(readConfigFile(path)).toEqual({ path, text: '# für alle\n' });
  });

  test('reads an empty file, and one of 128 KiB', () => {
    expect(readConfigFile(written('')).text).toBe('');
    expect(readConfigFile(written('#'.repeat(128 * 1024))).text).toHaveLength(128 * 1024);
  });

  test('refuses a larger file', () => {
    const path = written('#'.repeat(128 * 1024 + 1));
    expect(problemOf(path)).toBe(`--config ${path}: is larger than 128 KiB; name a file of settings`);
  });

  test('refuses a file that is not UTF-8', () => {
    const path = written(Buffer.from('# f\xfcr', 'latin1'));
    expect(problemOf(path)).toBe(`--config ${path}: is not UTF-8; save it in that encoding`);
  });

  test('says why a file cannot be read, and what to do', () => {
    const missing = join(folder, 'missing.yaml');
    expect(problemOf(missing)).toBe(`--config ${missing}: there is no such file; give the path of a file of settings`);
    expect(problemOf(folder)).toBe(`--config ${folder}: is a folder; name the file in it`);
  });
});
