import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { formatMachineKey } from '../identity/keys.ts';
import { type NoiseKey, parseNoiseKey } from '../identity/noise.ts';
import { codeOf, StartError } from '../lib/errors.ts';
import { startControlServer } from './control-server.ts';
import type { ControlEvent } from './control-state.ts';
import { formatNoiseKeyFile, generateNoiseKey } from './noise-handshake.ts';

/**
 * Runs the stand-in for Headscale as a process. It writes one line of JSON to stdout for each event, and ends cleanly on
 * SIGTERM and SIGINT.
 *
 *     control-server-main --listen HOST:PORT --noise-key FILE --second-stream refuse|accept
 *
 * It answers STUN on every address, so that nodes on other machines also reach Running quickly.
 * If the key file does not exist, it is created with mode 0600.
 */

const USAGE = 'usage: control-server-main --listen HOST:PORT --noise-key FILE --second-stream refuse|accept';

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { listen: { type: 'string' }, 'noise-key': { type: 'string' }, 'second-stream': { type: 'string' } },
  });
  const { listen, 'noise-key': keyFile, 'second-stream': secondStream } = values;
  const [, host, port] = /^\[?([^\]]+)\]?:(\d+)$/.exec(listen ?? '') ?? [];
  if (host === undefined || keyFile === undefined || (secondStream !== 'refuse' && secondStream !== 'accept')) {
    throw new StartError('HSW_USAGE_INVALID', USAGE);
  }
  const noiseKey = loadOrCreateKey(keyFile);
  const server = await startControlServer({
    host,
    port: Number(port),
    stunHost: '0.0.0.0',
    secondStream,
    noiseKey,
    onEvent: print,
  });
  process.stdout.write(`${JSON.stringify({ kind: 'listening', url: server.url.origin, secondStream })}\n`);
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
  await server.close();
}

function loadOrCreateKey(path: string): NoiseKey {
  const file = readIfPresent(path);
  if (file === undefined) {
    const created = generateNoiseKey();
    writeFileSync(path, formatNoiseKeyFile(created), { mode: 0o600, flag: 'wx' });
    return created;
  }
  const key = parseNoiseKey(file);
  if (key === undefined)
    throw new StartError(
      'HSW_NOISE_KEY_UNREADABLE',
      `${path} is not a Noise key: expected 'privkey:' and 64 hex digits`,
    );
  return key;
}

function readIfPresent(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function print(event: ControlEvent): void {
  const line = JSON.stringify(event, (name, value) => (name === 'machineKey' ? formatMachineKey(value) : value));
  process.stdout.write(`${line}\n`);
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
});
