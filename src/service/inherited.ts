/** sd_listen_fds(3): the first descriptor that is passed on. */
const FIRST_DESCRIPTOR = 3;

/** Listening sockets that whoever started us has opened: systemd's socket activation. */
export interface InheritedSockets {
  /** The descriptor for the i-th --listen, counted from 0; undefined: it is ours to open. */
  forListener(i: number): number | undefined;
  readonly forAdmin: number | undefined;
  /** How many there are for --listen. */
  readonly listeners: number;
  /** Why what was passed on is not used, with the cure. */
  readonly unused: string | undefined;
}

/** Nothing was passed on. */
export const NO_SOCKETS = inheritedSockets([], undefined, undefined);

const ADMIN = 'admin';

/**
 * Reads LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES and removes them from `env`, so that no child takes them for its own.
 * A descriptor named `admin` (FileDescriptorName=admin) is the admin server's, all others are --listen's, in order.
 *
 * @param pid of this process; the variables are for one process only.
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
  return `sockets were passed to process ${forPid ?? 'of no number'}, and this is ${pid}: let ExecStart= start node itself, without a shell or npm between`;
}

function inheritedSockets(
  descriptors: readonly number[],
  forAdmin: number | undefined,
  unused: string | undefined,
): InheritedSockets {
  return { forListener: (i) => descriptors[i], forAdmin, listeners: descriptors.length, unused };
}
