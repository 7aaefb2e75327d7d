/** The first descriptor that systemd passes on (sd_listen_fds(3)). */
const FIRST_DESCRIPTOR = 3;

/** Sockets that systemd has opened and listens on for us (socket activation). */
export interface InheritedSockets {
  /** The descriptor for the i-th --listen, counted from 0; undefined if we must open a socket ourselves. */
  forListener(i: number): number | undefined;
  readonly forAdmin: number | undefined;
  /** How many of the sockets are for --listen. */
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
