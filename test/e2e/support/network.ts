import { run } from './child.ts';
import { removeNamespace } from './run.ts';

const DEVICE = 'eth0';
const BRIDGE = 'br0';
const SUBNET = '10.88.0';
const PREFIX_LENGTH = 24;

/** A network namespace with one address, on the switch of its network. */
export interface Host {
  readonly name: string;
  readonly namespace: string;
  readonly address: string;
}

/**
 * Hosts on a switch of their own, which is a namespace as well. Nothing leads out of it: no host has a
 * default route, and the machine itself has no port on it.
 */
export class Network {
  readonly #prefix: string;
  readonly #switch: string;
  readonly #hosts = new Map<string, Host>();
  #made = 0;

  private constructor(prefix: string) {
    this.#prefix = prefix;
    this.#switch = `${prefix}-switch`;
  }

  static async create(prefix: string): Promise<Network> {
    const network = new Network(prefix);
    await run('ip', 'netns', 'add', network.#switch);
    await run('ip', '-n', network.#switch, 'link', 'add', BRIDGE, 'type', 'bridge', 'forward_delay', '0');
    await run('ip', '-n', network.#switch, 'link', 'set', BRIDGE, 'addrgenmode', 'none', 'up');
    return network;
  }

  /** A new host; every host ever made here has an address of its own. */
  async addHost(name: string): Promise<Host> {
    const number = ++this.#made;
    const host = { name, namespace: `${this.#prefix}-${name}-${number}`, address: `${SUBNET}.${number}` };
    const port = `port${number}`;
    await run('ip', 'netns', 'add', host.namespace);
    this.#hosts.set(host.namespace, host);
    await run(
      ...(['ip', 'link', 'add', 'name', DEVICE, 'netns', host.namespace, 'type', 'veth'] as const),
      ...(['peer', 'name', port, 'netns', this.#switch] as const),
    );
    await run('ip', '-n', this.#switch, 'link', 'set', port, 'master', BRIDGE, 'addrgenmode', 'none', 'up');
    await run('ip', '-n', host.namespace, 'link', 'set', 'lo', 'up');
    // No IPv6 address may appear later: a client would take that for a change of network.
    await run('ip', '-n', host.namespace, 'link', 'set', DEVICE, 'addrgenmode', 'none', 'up');
    await run('ip', '-n', host.namespace, 'address', 'add', `${host.address}/${PREFIX_LENGTH}`, 'dev', DEVICE);
    return host;
  }

  /** From here on nothing from or to this host arrives, and no host learns of it. */
  async cutOff(host: Host): Promise<void> {
    await run('ip', '-n', host.namespace, 'link', 'set', DEVICE, 'down');
    // Others would notice that nobody answers their ARP requests; on the Internet nobody tells them.
    const nobody = `02:de:ad:00:00:${Number(host.address.split('.')[3]).toString(16).padStart(2, '0')}`;
    for (const other of this.#hosts.values()) {
      if (other === host) continue;
      const where = ['neighbour', 'replace', host.address, 'lladdr', nobody, 'dev', DEVICE, 'nud', 'permanent'];
      await run('ip', '-n', other.namespace, ...where);
    }
  }

  async removeHost(host: Host): Promise<void> {
    if (this.#hosts.delete(host.namespace)) await removeNamespace(host.namespace);
  }

  async close(): Promise<void> {
    for (const host of this.#hosts.values()) await this.removeHost(host);
    await removeNamespace(this.#switch);
  }
}

/** The command line of a program that runs on `host`. */
export function onHost(host: Host, command: string, ...args: readonly string[]): readonly [string, readonly string[]] {
  return ['ip', ['netns', 'exec', host.namespace, command, ...args]];
}

/** A host's TCP connections, as `ss` tells them. */
export interface TcpConnection {
  readonly state: string;
  readonly local: string;
  readonly peer: string;
}

export async function tcpConnections(host: Host): Promise<readonly TcpConnection[]> {
  const [command, args] = onHost(host, 'ss', '-Htan');
  const connections: TcpConnection[] = [];
  for (const line of (await run(command, ...args)).split('\n')) {
    const [state, , , local, peer] = line.trim().split(/\s+/);
    if (state !== undefined && local !== undefined && peer !== undefined) connections.push({ state, local, peer });
  }
  return connections;
}
