import { run } from './child.ts';
import { removeNamespace } from './run.ts';

const DEVICE = 'eth0';
const BRIDGE = 'br0';
const SUBNET = '10.88.0';
const PREFIX_LENGTH = 24;
/** Of a router's inner side. */
const INNER_BRIDGE = 'br1';
const INNER_SUBNET = '10.89';

/** A network namespace with one address, on the switch of its network. */
export interface Host {
  readonly name: string;
  readonly namespace: string;
  readonly address: string;
  /** The switch's end of its cable. */
  readonly port: string;
  /** The router behind which it is: the only one who sees its address. */
  readonly behind?: Host;
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
  /** Tests that run side by side change it one after another: no host is half made, or half gone, for another's change. */
  #lastChange: Promise<unknown> = Promise.resolve();

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

  /**
   * A new host; every host ever made here has an address of its own.
   *
   * @param behind a router: all hosts behind it have its address to everybody else.
   */
  addHost(name: string, behind?: Host): Promise<Host> {
    return this.#change(() => this.#addHost(name, behind));
  }

  /** A new host that is a router with NAT, for hosts behind it. */
  addRouter(name: string): Promise<Host> {
    return this.#change(async () => {
      const router = await this.#addHost(name);
      await run('ip', '-n', router.namespace, 'link', 'add', INNER_BRIDGE, 'type', 'bridge', 'forward_delay', '0');
      await run('ip', '-n', router.namespace, 'link', 'set', INNER_BRIDGE, 'addrgenmode', 'none', 'up');
      const inner = `${innerSubnet(router)}.254/${PREFIX_LENGTH}`;
      await run('ip', '-n', router.namespace, 'address', 'add', inner, 'dev', INNER_BRIDGE);
      await run('ip', 'netns', 'exec', router.namespace, 'sysctl', '-qw', 'net.ipv4.ip_forward=1');
      const chain = `chain leaving { type nat hook postrouting priority 100; oifname "${DEVICE}" masquerade; }`;
      await run('ip', 'netns', 'exec', router.namespace, 'nft', `table ip nat { ${chain}; }`);
      return router;
    });
  }

  async #addHost(name: string, behind?: Host): Promise<Host> {
    const number = ++this.#made;
    const port = `port${number}`;
    const subnet = behind === undefined ? SUBNET : innerSubnet(behind);
    const [others, bridge] = behind === undefined ? [this.#switch, BRIDGE] : [behind.namespace, INNER_BRIDGE];
    const host: Host = {
      name,
      namespace: `${this.#prefix}-${name}-${number}`,
      address: `${subnet}.${number}`,
      port,
      ...(behind === undefined ? {} : { behind }),
    };
    await run('ip', 'netns', 'add', host.namespace);
    this.#hosts.set(host.namespace, host);
    await run(
      ...(['ip', 'link', 'add', 'name', DEVICE, 'netns', host.namespace, 'type', 'veth'] as const),
      ...(['peer', 'name', port, 'netns', others] as const),
    );
    await run('ip', '-n', others, 'link', 'set', port, 'master', bridge, 'addrgenmode', 'none', 'up');
    await run('ip', '-n', host.namespace, 'link', 'set', 'lo', 'up');
    // No IPv6 address may appear later: a client would take that for a change of network.
    await run('ip', '-n', host.namespace, 'link', 'set', DEVICE, 'addrgenmode', 'none', 'up');
    await run('ip', '-n', host.namespace, 'address', 'add', `${host.address}/${PREFIX_LENGTH}`, 'dev', DEVICE);
    if (behind !== undefined) {
      await run('ip', '-n', host.namespace, 'route', 'add', `${SUBNET}.0/${PREFIX_LENGTH}`, 'via', `${subnet}.254`);
    }
    return host;
  }

  /**
   * From here on nothing from or to this host arrives, and no host learns of it.
   *
   * @returns when that was, as `performance.now()` tells it.
   */
  cutOff(host: Host): Promise<number> {
    return this.#change(async () => {
      await run('ip', '-n', host.namespace, 'link', 'set', DEVICE, 'down');
      const cutAt = performance.now();
      // Others would notice that nobody answers their ARP requests; on the Internet nobody tells them.
      const nobody = `02:de:ad:00:00:${Number(host.address.split('.')[3]).toString(16).padStart(2, '0')}`;
      if (host.behind !== undefined) await introduce(host.behind, host.address, nobody, INNER_BRIDGE);
      else await Promise.all(this.#others(host).map((other) => introduce(other, host.address, nobody)));
      return cutAt;
    });
  }

  /**
   * From here on the switch loses that many of the packets from and to this host, each by chance, and tells nobody: 100
   * cuts it off, 0 ends it. The host's own kernel sees its cable plugged in all the while.
   */
  lose(host: Host, percent: number): Promise<void> {
    return this.#change(() => this.#lose(host, percent));
  }

  async #lose(host: Host, percent: number): Promise<void> {
    const mac = await macOf(host);
    for (const other of this.#others(host)) {
      // Who has to ask for an address first would notice that nobody answers.
      await introduce(other, host.address, mac);
      await introduce(host, other.address, await macOf(other));
    }
    const table = `bridge loss_${host.port}`;
    const drop = percent >= 100 ? 'drop' : `numgen random mod 100 < ${percent} drop`;
    const rules = `iifname "${host.port}" ${drop}; oifname "${host.port}" ${drop};`;
    // Made anew: the table must be there to be deleted.
    const ruleset = `add table ${table}; delete table ${table}`;
    const chain = `table ${table} { chain passing { type filter hook forward priority 0; ${rules} }; }`;
    const [command, args] = onNamespace(this.#switch, 'nft', percent > 0 ? `${ruleset}; ${chain}` : ruleset);
    await run(command, ...args);
  }

  /**
   * From here on this host is behind a NAT that forgets a TCP connection when nothing has passed on it for so long. What
   * comes for one that it has forgotten it drops, from either side, and tells nobody.
   */
  addNat(host: Host, forgetsAfterS: number): Promise<unknown> {
    const out = 'ip saddr . tcp sport . ip daddr . tcp dport';
    const back = 'ip daddr . tcp dport . ip saddr . tcp sport';
    const connections = `set open { type ipv4_addr . inet_service . ipv4_addr . inet_service; flags dynamic,timeout; timeout ${forgetsAfterS}s; }`;
    const rules = [
      `iifname "${host.port}" tcp flags & (syn | ack) == syn update @open { ${out} } accept`,
      `iifname "${host.port}" ${out} @open update @open { ${out} } accept`,
      `oifname "${host.port}" ${back} @open update @open { ${back} } accept`,
      `iifname "${host.port}" meta l4proto tcp drop`,
      `oifname "${host.port}" meta l4proto tcp drop`,
    ];
    const chain = `chain passing { type filter hook forward priority 0; ${rules.join('; ')}; }`;
    return this.#change(() => this.#nft(`table bridge nat_${host.port} { ${connections}; ${chain}; }`));
  }

  /**
   * From here on counts the TCP packets without data that come from this port to this host, and answer nothing that it has
   * sent: probes.
   */
  countProbes(host: Host, fromPort: number): Promise<unknown> {
    const longestHeads = 60;
    const connection = 'set spoke { type inet_service; flags dynamic,timeout; timeout 1s; }';
    const rules = [
      `iifname "${host.port}" tcp dport ${fromPort} update @spoke { tcp sport }`,
      `oifname "${host.port}" tcp sport ${fromPort} ip length <= ${longestHeads} tcp dport != @spoke counter name probes`,
    ];
    const chain = `chain passing { type filter hook forward priority 0; ${rules.join('; ')}; }`;
    return this.#change(() =>
      this.#nft(`table bridge count_${host.port} { counter probes { }; ${connection}; ${chain}; }`),
    );
  }

  /** How many packets `countProbes` has counted. */
  async probes(host: Host): Promise<number> {
    const listed = await this.#nft(`list counter bridge count_${host.port} probes`);
    return Number(/packets (\d+)/.exec(listed)?.[1]);
  }

  async #nft(ruleset: string): Promise<string> {
    const [command, args] = onNamespace(this.#switch, 'nft', ruleset);
    return run(command, ...args);
  }

  #others(host: Host): readonly Host[] {
    return [...this.#hosts.values()].filter((other) => other !== host && other.behind === undefined);
  }

  /** Hosts that are set apart reach all but each other. */
  setApart(...hosts: readonly Host[]): Promise<void> {
    return this.#change(async () => {
      for (const { port } of hosts) {
        await run('ip', '-n', this.#switch, 'link', 'set', port, 'type', 'bridge_slave', 'isolated', 'on');
      }
    });
  }

  removeHost(host: Host): Promise<void> {
    return this.#change(async () => {
      if (this.#hosts.delete(host.namespace)) await removeNamespace(host.namespace);
    });
  }

  async close(): Promise<void> {
    for (const host of this.#hosts.values()) await this.removeHost(host);
    await this.#change(() => removeNamespace(this.#switch));
  }

  #change<T>(change: () => Promise<T>): Promise<T> {
    const changed = this.#lastChange.then(change);
    this.#lastChange = changed.catch(() => {});
    return changed;
  }
}

/** The command line of a program that runs on `host`. */
export function onHost(host: Host, command: string, ...args: readonly string[]): readonly [string, readonly string[]] {
  return onNamespace(host.namespace, command, ...args);
}

function onNamespace(namespace: string, command: string, ...args: readonly string[]) {
  return ['ip', ['netns', 'exec', namespace, command, ...args]] as const;
}

/** The first three numbers of the addresses behind a router. */
function innerSubnet(router: Host): string {
  return `${INNER_SUBNET}.${router.address.split('.')[3]}`;
}

/** Tells `host` once and for all who has an address. */
async function introduce(host: Host, address: string, mac: string, device = DEVICE): Promise<void> {
  const entry = ['neighbour', 'replace', address, 'lladdr', mac, 'dev', device, 'nud', 'permanent'];
  await run('ip', '-n', host.namespace, ...entry);
}

async function macOf(host: Host): Promise<string> {
  const links = JSON.parse(await run('ip', '-j', '-n', host.namespace, 'link', 'show', DEVICE)) as readonly Link[];
  const [link] = links;
  if (link === undefined) throw new Error(`${host.name} has no ${DEVICE}`);
  return link.address;
}

interface Link {
  readonly address: string;
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
