import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { programs } from './build.ts';
import { type Child, run } from './child.ts';
import type { Lab } from './lab.ts';
import { onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';

const PORT = 8080;
const DEBUG_PORT = 9090;
const STUN_PORT = 3478;
const USER = 'someone';

/** A real Headscale on the lab's server. */
export class Headscale {
  readonly #lab: Lab;
  readonly #folder: string;
  /** For clients that are to come without a watchdog. */
  readonly url: string;
  readonly noiseKeyFile: string;
  #child: Child | undefined;

  private constructor(lab: Lab) {
    this.#lab = lab;
    this.#folder = lab.folder('headscale');
    this.url = `http://${lab.server.address}:${PORT}`;
    this.noiseKeyFile = join(this.#folder, 'noise_private.key');
  }

  /**
   * @param gatherWritesMs how long Headscale gathers changes of nodes before it applies them; its own default, 500 ms,
   *   comes twice in each start of a client, and hides all that is shorter.
   */
  static async start(lab: Lab, gatherWritesMs?: number): Promise<Headscale> {
    const headscale = new Headscale(lab);
    writeFileSync(headscale.#config, headscale.#configuration(gatherWritesMs));
    writeFileSync(join(headscale.#folder, 'derp.yaml'), derpMap(lab.server.address));
    lab.start('stun-server', onHost(lab.server, programs.stunServer, `${lab.server.address}:${STUN_PORT}`));
    const child = lab.start('headscale', onHost(lab.server, programs.headscale, 'serve', '-c', headscale.#config));
    headscale.#child = child;
    await until('headscale', { timeoutMs: 30_000, giveUp: () => ended(child) }, async () => {
      const answer = await lab.reach.get(`${lab.server.address}:${PORT}`, '/health');
      return answer.status === 200 ? true : undefined;
    });
    await headscale.#command('users', 'create', USER);
    return headscale;
  }

  async authKey(): Promise<string> {
    const users = await this.#command<readonly { readonly id: number | string }[]>('users', 'list', '--name', USER);
    const made = ['preauthkeys', 'create', '--user', String(users[0]?.id), '--reusable', '--expiration', '1h'];
    const { key } = await this.#command<{ readonly key: string }>(...made);
    return key;
  }

  /** How many map streams Headscale itself counts for each node, by the name the node gave. */
  async connections(): Promise<ReadonlyMap<string, number>> {
    const target = `127.0.0.1:${DEBUG_PORT}`;
    const [batcher, store] = await Promise.all([
      this.#lab.reach.get(target, '/debug/batcher', { accept: 'application/json' }),
      this.#lab.reach.get(target, '/debug/nodestore', { accept: 'application/json' }),
    ]);
    const { connected_nodes: nodes } = JSON.parse(batcher.body) as Batcher;
    const known = JSON.parse(store.body) as Readonly<Record<string, { readonly Hostname: string }>>;
    return new Map(Object.entries(nodes).map(([id, node]) => [known[id]?.Hostname ?? id, node.active_connections]));
  }

  async stop(): Promise<void> {
    await this.#child?.end();
  }

  /** Headscale reads its configuration as YAML, and JSON is YAML. */
  #configuration(gatherWritesMs: number | undefined): string {
    const settings = configuration(this.#folder, this.url);
    if (gatherWritesMs !== undefined) settings.tuning = { node_store_batch_timeout: `${gatherWritesMs}ms` };
    return JSON.stringify(settings, undefined, 2);
  }

  get #config(): string {
    return join(this.#folder, 'config.json');
  }

  async #command<T>(...args: readonly string[]): Promise<T> {
    return JSON.parse(await run(programs.headscale, '-c', this.#config, '-o', 'json', ...args)) as T;
  }
}

interface Batcher {
  readonly connected_nodes: Readonly<Record<string, { readonly active_connections: number }>>;
}

/**
 * A client is Running only after it has chosen a relay. So there is one region, with a STUN server that makes
 * the choice quick; nothing listens for the relay itself.
 */
function derpMap(address: string): string {
  return `
regions:
  900:
    regionid: 900
    regioncode: none
    regionname: None
    nodes:
      - { name: 900a, regionid: 900, hostname: ${address}, ipv4: ${address}, ipv6: none, stunport: ${STUN_PORT} }
`;
}

function configuration(folder: string, serverUrl: string): Record<string, unknown> {
  return {
    server_url: serverUrl,
    listen_addr: `0.0.0.0:${PORT}`,
    metrics_listen_addr: `127.0.0.1:${DEBUG_PORT}`,
    grpc_listen_addr: '127.0.0.1:50443',
    noise: { private_key_path: join(folder, 'noise_private.key') },
    prefixes: { v4: '100.64.0.0/10', allocation: 'sequential' },
    derp: { server: { enabled: false }, urls: [], paths: [join(folder, 'derp.yaml')], auto_update_enabled: false },
    disable_check_updates: true,
    database: { type: 'sqlite', sqlite: { path: join(folder, 'db.sqlite'), write_ahead_log: true } },
    log: { level: 'info', format: 'text' },
    policy: { mode: 'file', path: '' },
    dns: { magic_dns: false, base_domain: 'tailnet.test', override_local_dns: false, nameservers: { global: [] } },
    unix_socket: join(folder, 'headscale.sock'),
    unix_socket_permission: '0700',
    logtail: { enabled: false },
  };
}
