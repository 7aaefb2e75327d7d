import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readApiKey } from '../../src/config/secrets.ts';
import { StartError } from '../../src/lib/errors.ts';

const folder = mkdtempSync(join(tmpdir(), 'api-key-'));
afterAll(() => rmSync(folder, { recursive: true }));
const path = join(folder, 'api-key');

function messageFor(text: string | Uint8Array): string {
  writeFileSync(path, text);
  return messageOf(path);
}

function messageOf(file: string): string {
  try {
    readApiKey(file);
  } catch (error) {
    expect(error).toBeInstanceOf(StartError);
    return (error as StartError).message;
  }
  return 'no error';
}

const CURE = 'it should hold one line, the key that `headscale apikeys create` prints';

describe('readApiKey', () => {
  test.each([['hskey-api-abc_DEF-123'], ['abcdefghij.klmnop\n'], ['\n  abc.def \r\n\r\n'], ['\ufeffabc.def\n']])(
    'reads %j without the white space',
    (text) => {
      writeFileSync(path, text);
      expect(readApiKey(path)).toBe(text.replace('\ufeff', '').trim());
    },
  );

  test.each([
    ['', 'is empty'],
    [' \n', 'is empty'],
    ['abc\ndef\n', 'holds more than one line'],
    ['abc\rdef', 'holds more than one line'],
    ['abc def', 'holds characters that are not in any API key'],
    ['abc\0', 'holds characters that are not in any API key'],
    ['äbc', 'holds characters that are not in any API key'],
    [new Uint8Array([0xff, 0xfe, 0x61, 0]), 'holds characters that are not in any API key'],
  ])('refuses %j: %s', (text, problem) => {
    expect(messageFor(text)).toBe(`--headscale-api-key-file ${path}: ${problem}; ${CURE}`);
  });

  test('refuses a missing file', () => {
    const missing = join(folder, 'missing');
    expect(messageOf(missing)).toBe(
      `--headscale-api-key-file ${missing}: there is no such file; make a key with \`headscale apikeys create\` and put it there`,
    );
  });

  test('refuses a folder', () => {
    expect(messageOf(folder)).toMatch(/: is a folder; name the file in it .*`headscale apikeys create`$/);
  });
});
