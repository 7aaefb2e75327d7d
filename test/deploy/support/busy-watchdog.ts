import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { startControlServer } from '../../../src/demo/control-server.ts';
import { SimulatedNode } from '../../../src/demo/simulated-node.ts';
import { type Harness, until } from '../../support/harness.ts';
import { API_KEY, withApi } from './headscale.ts';
import { type Program, start } from './program.ts';

const NODES = 30;
const FREEZE_EVERY_MS = 150;

/** The built watchdog as a process of its own, before a stand-in for Headscale, with nodes. */
export interface BusyWatchdog {
  /** `HOST:PORT` of its admin server. */
  readonly admin: string;
  readonly program: Program;
  readonly nodes: readonly SimulatedNode[];
  /** How often a node has come back and was accepted. */
  readonly comebacks: number;
  startNodes(): Promise<void>;
  /** For so long, and until so many have come back, one node after the other freezes and comes back. */
  freezeForMs(ms: number, least: number): Promise<void>;
}

export async function startBusyWatchdog(harness: Harness): Promise<BusyWatchdog> {
  const controlServer = await startControlServer({ secondStream: 'refuse', keepaliveMs: 1000 });
  harness.defer(() => controlServer.close());
  const nodes: SimulatedNode[] = [];
  const { url } = await withApi(harness, controlServer.url, () => nodes);
  const { program, listen, admin } = await serve(harness, url, controlServer.noiseKeyFile());
  const serverUrl = new URL(`http://${listen}`);
  for (let i = 1; i <= NODES; i++) nodes.push(new SimulatedNode({ name: `node-${i}`, serverUrl }));
  harness.defer(() => Promise.all(nodes.map((node) => node.stop())));
  let comebacks = 0;
  const comeBack = async (node: SimulatedNode): Promise<void> => {
    node.freeze();
    node.comeBack();
    await node.accepted();
    comebacks += 1;
    await node.dropFrozen();
  };
  return {
    ...{ admin, program, nodes },
    get comebacks() {
      return comebacks;
    },
    async startNodes() {
      for (const node of nodes) node.start();
      await Promise.all(nodes.map((node) => node.accepted()));
    },
    async freezeForMs(ms, least) {
      const end = performance.now() + ms;
      const back: Promise<void>[] = [];
      for (let i = 0; performance.now() < end || comebacks < least; i = (i + 7) % nodes.length) {
        const node = nodes[i] as SimulatedNode;
        if (node.state === 'accepted') back.push(comeBack(node));
        await pause(FREEZE_EVERY_MS);
      }
      await Promise.all(back);
    },
  };
}

async function serve(harness: Harness, upstream: string, noiseKey: Buffer) {
  const folder = harness.folder();
  const files = { noiseKey: join(folder, 'noise_private.key'), apiKey: join(folder, 'api.key') };
  writeFileSync(files.noiseKey, noiseKey, { mode: 0o600 });
  writeFileSync(files.apiKey, `${API_KEY}\n`, { mode: 0o600 });
  const pem = (name: string): string => new URL(`../../support/tls/${name}.pem`, import.meta.url).pathname;
  const program = start(
    process.execPath,
    ...[new URL('../../../dist/cli.js', import.meta.url).pathname, 'serve', '--upstream', upstream],
    ...['--noise-key', files.noiseKey, '--headscale-api-key-file', files.apiKey, '--admin', '127.0.0.1:0'],
    ...['--listen', '127.0.0.1:0', '--listen', `https://127.0.0.1:0?cert=${pem('cert')}&key=${pem('key')}`],
    ...['--silent-after', '1s', '--drain', 'off', '--trusted-proxies', 'none'],
    ...['--history-file', join(folder, 'history.jsonl')],
  );
  harness.defer(() => program.end());
  await until(
    () => {
      program.expectAlive();
      return program.output.includes('"msg":"listening"');
    },
    'the watchdog listens',
    15_000,
  );
  const line = program.output.split('\n').find((each) => each.includes('"msg":"listening"')) as string;
  const told: { readonly listen: string; readonly admin: string } = JSON.parse(line);
  return { program, admin: told.admin, listen: told.listen.split(', ')[0] as string };
}
