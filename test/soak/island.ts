import { execFileSync } from 'node:child_process';

/** A host of its own, with addresses enough that a node which comes back comes from another one. */
export interface Island {
  /** Where the watchdog listens for its nodes. */
  readonly serverAddress: string;
  readonly nodeAddresses: readonly string[];
  /** What a command has to begin with to run there. */
  readonly prefix: readonly string[];
  /** Whether a connection can be made to vanish: only on a network of its own. */
  readonly canVanish: boolean;
  remove(): void;
}

const NAMESPACE = `soak-${process.pid}`;
const INTERFACE = `soak${process.pid}`.slice(0, 15);
const ADDRESSES = 32;
/** For a second private network of this kind beside: three soaks at once are more than a machine has use for. */
const NETWORK = `10.99.${process.pid % 256}`;

/** A network namespace where we may make one (root, on Linux); else loopback, where nobody can vanish. */
export function makeIsland(): Island {
  const addresses = (network: string): string[] => Array.from({ length: ADDRESSES }, (_, i) => `${network}.${i + 2}`);
  try {
    ip(`netns add ${NAMESPACE}`);
  } catch {
    const nothing = (): void => {};
    const nodeAddresses = addresses('127.0.0');
    return { serverAddress: '127.0.0.1', nodeAddresses, prefix: [], canVanish: false, remove: nothing };
  }
  const remove = (): void => {
    // The pair goes with it, once the last process in it has ended.
    ip(`netns delete ${NAMESPACE}`);
  };
  try {
    ip(`link add ${INTERFACE} type veth peer name eth0 netns ${NAMESPACE}`);
    ip(`addr add ${NETWORK}.1/24 dev ${INTERFACE}`);
    ip(`link set ${INTERFACE} up`);
    for (const address of addresses(NETWORK)) ip(`-n ${NAMESPACE} addr add ${address}/24 dev eth0`);
    for (const each of ['lo', 'eth0']) ip(`-n ${NAMESPACE} link set ${each} up`);
    dropTheVanished();
  } catch (error) {
    remove();
    throw error;
  }
  const prefix = ['ip', 'netns', 'exec', NAMESPACE];
  return { serverAddress: `${NETWORK}.1`, nodeAddresses: addresses(NETWORK), prefix, canVanish: true, remove };
}

/** Whatever comes from or goes to a connection in the set is lost, as on the Internet: nobody answers, nobody resets. */
function dropTheVanished(): void {
  execFileSync('ip', [
    ...['netns', 'exec', NAMESPACE, 'nft'],
    `add table inet soak;
     add set inet soak vanished { type ipv4_addr . inet_service; flags timeout; timeout 120s; };
     add chain inet soak out { type filter hook output priority 0; };
     add rule inet soak out ip saddr . tcp sport @vanished drop;
     add chain inet soak in { type filter hook input priority 0; };
     add rule inet soak in ip daddr . tcp dport @vanished drop`,
  ]);
}

/** To be called on the island: this connection is cut off from here on, both ways. */
export function cutOff(address: string, port: number): void {
  execFileSync('nft', [`add element inet soak vanished { ${address} . ${port} }`]);
}

function ip(command: string): void {
  execFileSync('ip', command.split(' '), { stdio: ['ignore', 'ignore', 'pipe'] });
}
