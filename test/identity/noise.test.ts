import { describe, expect, test } from 'vitest';
import { generateNoiseKey, startHandshake } from '../../src/demo/noise-handshake.ts';
import { formatMachineKey, machineKeyOf } from '../../src/identity/keys.ts';
import { formatNoiseKey, identify, type NoiseKey, parseNoiseKey } from '../../src/identity/noise.ts';
import { initiations, noiseKeyOf } from '../support/initiations.ts';

function readBy(key: NoiseKey, header: string | undefined): string {
  const identity = identify(key, header);
  return identity.kind === 'identified' ? formatMachineKey(identity.machineKey) : identity.kind;
}

describe.each(initiations)('identify, a recorded handshake of Tailscale, protocol version $version', (recorded) => {
  const key = noiseKeyOf(recorded);

  test('reads the machine key', () => {
    expect(readBy(key, recorded.header)).toBe(recorded.machineKey);
  });

  test('the public half of the key file is the key that Headscale reports', () => {
    expect(formatNoiseKey(key)).toBe(recorded.serverPublicKey);
  });

  // CORRUPTIONS=all: every value of every byte of the first handshake. Each costs an X25519.
  const isThorough = process.env.CORRUPTIONS === 'all' && recorded === initiations[0];
  const flips = isThorough ? Array.from({ length: 255 }, (_, i) => i + 1) : [0x01, 0x80, 0xff];
  test(`every corruption of one byte (${flips.length} each) is unreadable`, () => {
    const bytes = Buffer.from(recorded.header, 'base64');
    for (let at = 0; at < bytes.length; at++) {
      for (const flip of flips) {
        const corrupt = Buffer.from(bytes);
        corrupt[at] = (corrupt[at] as number) ^ flip;
        expect(readBy(key, corrupt.toString('base64')), `byte ${at} ^ ${flip}`).toBe('unreadable');
      }
    }
  });
});

describe('identify', () => {
  const [recorded] = initiations;
  const key = noiseKeyOf(recorded);

  test('without a handshake the result is missing', () => {
    expect(readBy(key, undefined)).toBe('missing');
  });

  test.each([
    ['nothing', ''],
    ['no base64', '!'.repeat(136)],
    ['base64 of the URL alphabet', recorded.header.replaceAll('+', '-').replaceAll('/', '_')],
    ['one byte less', Buffer.from(recorded.header, 'base64').subarray(1).toString('base64')],
    ['one byte more', `${recorded.header.slice(0, -1)}AAA==`],
    ['a list of two', `${recorded.header}, ${recorded.header}`],
    ['a megabyte', 'A'.repeat(1 << 20)],
  ])('%s is unreadable', (_what, header) => {
    expect(readBy(key, header)).toBe('unreadable');
  });

  test('with another key it is unreadable', () => {
    expect(readBy(noiseKeyOf(initiations[1] ?? recorded), recorded.header)).toBe('unreadable');
  });

  test.each([0, 1])('an ephemeral key of low order (%d) is unreadable, and throws nothing', (point) => {
    const bytes = Buffer.from(recorded.header, 'base64');
    bytes.fill(0, 5, 37);
    bytes[5] = point;
    expect(identify(key, bytes.toString('base64'))).toEqual({ kind: 'unreadable', why: 'key exchange' });
  });
});

describe('the secret that the server shares with a machine', () => {
  const server = generateNoiseKey();
  const headerOf = (machine: NoiseKey): string =>
    startHandshake(machine, server.publicRaw, 142).initiation.toString('base64');

  test('is kept, and used for the next handshake of the same machine', () => {
    const machine = generateNoiseKey();
    expect(server.secrets.get(machineKeyOf(machine.publicRaw))).toBeUndefined();
    expect(readBy(server, headerOf(machine))).toBe(formatMachineKey(machineKeyOf(machine.publicRaw)));
    expect(server.secrets.get(machineKeyOf(machine.publicRaw))).toHaveLength(32);
    expect(readBy(server, headerOf(machine))).toBe(formatMachineKey(machineKeyOf(machine.publicRaw)));
    // The next one really uses it: with a wrong one, it could not be read.
    server.secrets.set(machineKeyOf(machine.publicRaw), Buffer.alloc(32));
    expect(readBy(server, headerOf(machine))).toBe('unreadable');
  });

  test('is not kept for a machine that has not proved that it holds the key', () => {
    const machine = generateNoiseKey();
    const bytes = Buffer.from(headerOf(machine), 'base64');
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
    expect(identify(server, bytes.toString('base64'))).toEqual({ kind: 'unreadable', why: 'tag' });
    expect(server.secrets.get(machineKeyOf(machine.publicRaw))).toBeUndefined();
  });
});

describe('parseNoiseKey', () => {
  const [{ serverPrivateKey: text }] = initiations;

  test.each([['\n'], [''], ['\r\n'], ['  ']])('accepts %j after the key', (end) => {
    expect(parseNoiseKey(Buffer.from(text + end))).toBeDefined();
  });

  test.each([
    ['nothing', ''],
    ['no prefix', text.slice(8)],
    ['a public key', text.replace('privkey', 'mkey')],
    ['a digit less', text.slice(0, -1)],
    ['a digit more', `${text}0`],
    ['no hex', `${text.slice(0, -1)}g`],
  ])('refuses %s', (_what, file) => {
    expect(parseNoiseKey(Buffer.from(file))).toBeUndefined();
  });
});
