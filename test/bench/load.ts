import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startHandshake } from '../../src/demo/noise-handshake.ts';
import { formatNoiseKeyFile, generateNoiseKey } from '../../src/demo/noise-key.ts';

/** A generator of load that is built, and the handshakes it shows. */
export interface Load {
  readonly program: string;
  readonly noiseKeyFile: string;
  args(tls: boolean, port: number, measure: string, ...more: readonly string[]): string[];
  measure(tls: boolean, port: number, measure: string, ...more: readonly string[]): Promise<Record<string, number>>;
}

const HANDSHAKES = 16_000;
const PAIRS = 1000;

export function buildLoad(folder: string): Load {
  const program = join(folder, 'load');
  execFileSync('go', ['build', '-o', program, '.'], { cwd: join(import.meta.dirname, 'load'), stdio: 'inherit' });
  const server = generateNoiseKey();
  const noiseKeyFile = join(folder, 'noise_private.key');
  writeFileSync(noiseKeyFile, formatNoiseKeyFile(server), { mode: 0o600 });
  const handshake = (machine: ReturnType<typeof generateNoiseKey>): string =>
    startHandshake(machine, server.publicRaw, 142).initiation.toString('base64');
  const write = (name: string, handshakes: readonly string[]): string => {
    const path = join(folder, name);
    writeFileSync(path, handshakes.join('\n'));
    return path;
  };
  const oneEach = write(
    'handshakes',
    Array.from({ length: HANDSHAKES }, () => handshake(generateNoiseKey())),
  );
  const twoEach = write(
    'pairs',
    Array.from({ length: PAIRS }, generateNoiseKey).flatMap((machine) => [handshake(machine), handshake(machine)]),
  );
  const args: Load['args'] = (tls, port, measure, ...more) => [
    ...[measure, `${tls ? 'tls:' : ''}127.0.0.1:${port}`, measure === 'contests' ? twoEach : oneEach],
    ...more,
  ];
  return {
    ...{ program, noiseKeyFile, args },
    async measure(tls, port, measure, ...more) {
      const child = spawn(program, args(tls, port, measure, ...more), { stdio: ['ignore', 'pipe', 'inherit'] });
      let text = '';
      child.stdout.on('data', (chunk: Buffer) => (text += chunk));
      const [code] = (await once(child, 'close')) as [number | null];
      if (code !== 0) throw new Error(`load ${[measure, ...more].join(' ')}: ended with ${code}`);
      return JSON.parse(text) as Record<string, number>;
    },
  };
}
