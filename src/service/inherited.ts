import type { HostPort } from '../config/types.ts';
import { StartError } from '../lib/errors.ts';
import type { ListeningSocket } from './handover.ts';

/** The first descriptor that systemd passes on (sd_listen_fds(3)). */
const FIRST_DESCRIPTOR = 3;

/** Sockets that listen already: systemd has opened them for us (socket activation), or the process before us had them. */
export interface InheritedSockets {
  /** The descriptor for the i-th --listen, counted from 0; undefined if we must open a socket ourselves. */
  forListener(i: number): number | undefined;
  readonly forAdmin: number | undefined;
  /** How many of those from systemd are for --listen. */
  readonly listeners: number;
  /** Why we do not use the sockets that were passed in, and what to do; undefined if we use them, or if there are no sockets. */
  readonly unusedReason: string | undefined;
}

/** No sockets were passed in. */
export const NO_SOCKETS = inheritedSockets([], undefined, undefined);

const ADMIN = 'admin';

/**
 * Reads LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES (sd_listen_fds(3)) and removes them from `env`, so that no child process
 * uses them. A descriptor with the name `admin` (FileDescriptorName=admin) is for the admin server. All others are for
 * --listen, in order.
 *
 * @param pid the id of this process. LISTEN_PID must be the same, otherwise the sockets are meant for another process.
 */
export function takeInheritedSockets(env: NodeJS.ProcessEnv, pid: number): InheritedSockets {
  const { LISTEN_FDS: count, LISTEN_PID: forPid, LISTEN_FDNAMES: names } = env;
  delete env.LISTEN_FDS;
  delete env.LISTEN_PID;
  delete env.LISTEN_FDNAMES;
  if (count === undefined || count === '0') return NO_SOCKETS;
  if (forPid !== String(pid)) return inheritedSockets([], undefined, wrongProcess(forPid, pid));
  if (!/^\d{1,4}$/.test(count)) {
    return inheritedSockets([], undefined, `LISTEN_FDS is '${count.slice(0, 20)}': it must be a number of descriptors`);
  }
  const named = names?.split(':') ?? [];
  const descriptors = Array.from({ length: Number(count) }, (_, i) => FIRST_DESCRIPTOR + i);
  const admin = named.indexOf(ADMIN);
  const forAdmin = admin >= 0 ? descriptors[admin] : undefined;
  return inheritedSockets(
    descriptors.filter((descriptor) => descriptor !== forAdmin),
    forAdmin,
    undefined,
  );
}

function wrongProcess(forPid: string | undefined, pid: number): string {
  return `sockets were passed to process ${forPid ?? '(no number)'}, but this is process ${pid}: let ExecStart= start node itself, without a shell or npm in between`;
}

function inheritedSockets(
  descriptors: readonly number[],
  forAdmin: number | undefined,
  unusedReason: string | undefined,
): InheritedSockets {
  return { forListener: (i) => descriptors[i], forAdmin, listeners: descriptors.length, unusedReason };
}

/** @throws StartError when there are more inherited sockets than `--listen`: nobody would answer clients on the others. */
export function refuseSurplusSockets({ listeners }: InheritedSockets, wanted: number): void {
  if (listeners <= wanted) return;
  throw new StartError(
    'HSW_INHERITED_SOCKET_INVALID',
    `${listeners} sockets were passed in for ${wanted} --listen: add a --listen for each ListenStream= of the .socket unit, or remove the line; the admin server's needs a .socket unit of its own with FileDescriptorName=admin`,
  );
}

/**
 * The sockets of the process before us, each for the address that it was configured with. Addresses that are new have none.
 *
 * @param fromManager how many of them systemd has opened.
 */
export function handedSockets(
  sockets: readonly ListeningSocket[],
  fromManager: number,
  wanted: { readonly listen: readonly HostPort[]; readonly admin: HostPort },
): InheritedSockets & {
  /** The descriptors that no address has any more. */
  readonly unused: readonly number[];
} {
  const left = [...sockets];
  const take = (use: ListeningSocket['use'], { host, port }: HostPort): number | undefined => {
    const i = left.findIndex((each) => each.use === use && each.host === host && each.port === port);
    return i < 0 ? undefined : left.splice(i, 1)[0]?.fd;
  };
  const forAdmin = take('admin', wanted.admin);
  const descriptors = wanted.listen.map((each) => take('clients', each));
  const unused = left.map(({ fd }) => fd);
  const listeners = Math.min(fromManager, wanted.listen.length);
  return { forListener: (i) => descriptors[i], forAdmin, listeners, unusedReason: undefined, unused };
}
