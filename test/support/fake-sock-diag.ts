import type { Connection } from '../../src/lib/addresses.ts';
import type { DumpFilter, TcpSocket } from '../../src/liveness/inet-diag.ts';
import type { SockDiag } from '../../src/liveness/sock-diag.ts';
import type { KernelEvidence } from '../../src/streams/stream.ts';

export const QUIET: KernelEvidence = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 100, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 1000, rttMs: 20, rttvarMs: 5 },
};

/**
 * The connections of a made-up network namespace. It differs from Linux in that a dump is over at once, and that nothing
 * happens by itself: a test changes the sockets.
 */
export class FakeSockDiag implements SockDiag {
  readonly sockets = new Set<TcpSocket>();
  /** How often each question was asked. */
  readonly asked = { find: 0, list: 0, dump: 0 };
  /** The ports that the last dump asked for. */
  ports: readonly number[] | undefined;
  /** Linux does not answer any more. */
  fails = false;
  /** Called when a question begins, as what it costs. */
  onList = (): void => {};
  #cookie = 1n;

  open(local: string, remote: string, more: Partial<TcpSocket> = {}): TcpSocket {
    const socket: TcpSocket = {
      ...{ local: endpoint(local), remote: endpoint(remote), interfaceIndex: 0, state: 'established', uid: 33 },
      ...{ inode: 1, cookie: this.#cookie++, timer: 'none', timerInMs: 0, evidence: QUIET, ...more },
    };
    this.sockets.add(socket);
    return socket;
  }

  /** The same connection, later. */
  change(socket: TcpSocket, more: Partial<TcpSocket>): TcpSocket {
    this.sockets.delete(socket);
    const changed = { ...socket, ...more };
    this.sockets.add(changed);
    return changed;
  }

  close = (): void => this.sockets.clear();

  find({ local, remote }: Connection): ReturnType<SockDiag['find']> {
    this.asked.find += 1;
    if (this.fails) return FAILURE;
    const socket = [...this.sockets].find((each) => same(each.local, local) && same(each.remote, remote));
    return { ok: true, socket };
  }

  list(filter: DumpFilter): ReturnType<SockDiag['list']> {
    this.asked.list += 1;
    this.onList();
    return this.#matching(filter);
  }

  dump(filter: DumpFilter): ReturnType<SockDiag['dump']> {
    this.asked.dump += 1;
    this.ports = filter.localPorts;
    return Promise.resolve(this.#matching(filter));
  }

  #matching({ remoteAddress, remotePort, localPorts }: DumpFilter): ReturnType<SockDiag['list']> {
    if (this.fails) return FAILURE;
    const sockets = [...this.sockets].filter(
      ({ local, remote }) =>
        (remoteAddress === undefined || remote.address === remoteAddress) &&
        (remotePort === undefined || remote.port === remotePort) &&
        (localPorts?.includes(local.port) ?? true),
    );
    return { ok: true, sockets };
  }
}

const FAILURE = { ok: false, code: 'EPERM', why: 'a test' } as const;

export function endpoint(text: string): { address: string; port: number } {
  const at = text.lastIndexOf(':');
  return { address: text.slice(0, at), port: Number(text.slice(at + 1)) };
}

function same(one: Connection['local'], other: Connection['local']): boolean {
  return one.address === other.address && one.port === other.port;
}
