import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { formatNoiseKeyFile, generateNoiseKey, startHandshake } from '../../src/demo/noise-handshake.ts';
import type { NoiseKey } from '../../src/identity/noise.ts';

/** A generator of load that is built, and the handshakes it shows. */
export interface Load {
  readonly program: string;
  readonly noiseKeyFile: string;
  args(tls: boolean, port: number, measure: string, ...more: readonly string[]): string[];
  measure(tls: boolean, port: number, measure: string, ...more: readonly string[]): Promise<Record<string, number>>;
  /** Of so many machines that measure at once, each with handshakes of its own. */
  together(ports: readonly number[], measure: string, ...more: readonly string[]): Promise<Record<string, number>[]>;
}

const HANDSHAKES = 16_000;
const PAIRS = 1000;
/** Of so many machines are the handshakes of nodes that come back again and again. */
const RETURNING = 1000;

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
  const machines = Array.from({ length: RETURNING }, generateNoiseKey);
  const manyEach = write(
    'returning',
    Array.from({ length: HANDSHAKES }, (_, i) => handshake(machines[i % RETURNING] as NoiseKey)),
  );
  const args: Load['args'] = (tls, port, measure, ...more) => [
    measure === 'returns' ? 'upgrades' : measure,
    `${tls ? 'tls:' : ''}127.0.0.1:${port}`,
    { contests: twoEach, returns: manyEach }[measure] ?? oneEach,
    ...more,
  ];
  const shares = (of: number): readonly string[] => {
    const all = readFileSync(oneEach, 'utf8').split('\n');
    return Array.from({ length: of }, (_, i) =>
      write(
        `handshakes-${i}`,
        all.filter((_, line) => line % of === i),
      ),
    );
  };
  return {
    ...{ program, noiseKeyFile, args },
    measure: (tls, port, measure, ...more) => found(program, args(tls, port, measure, ...more)),
    together: (ports, measure, ...more) => {
      const files = shares(ports.length);
      return Promise.all(
        ports.map((port, i) => found(program, [measure, `127.0.0.1:${port}`, files[i] ?? '', ...more])),
      );
    },
  };
}

/** The figures that the generator prints. @throws when it fails. */
async function found(program: string, args: readonly string[]): Promise<Record<string, number>> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`load ${args.join(' ')}: ended with ${code}`);
  return JSON.parse(text) as Record<string, number>;
}
