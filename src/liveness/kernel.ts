import type { Socket } from 'node:net';
import { reasonOf } from '../lib/errors.ts';
import { descriptorOf } from '../lib/handles.ts';
import type { KernelEvidence } from '../streams/stream.ts';

/** The TCP timeouts of one socket, which Linux applies without a timer of ours. In milliseconds (man 7 tcp). */
export interface SocketTimeouts {
  /** TCP_USER_TIMEOUT: drop the connection when data or probes stay unanswered for this long. 0: only `probes` counts. */
  readonly userTimeoutMs: number;
  /** TCP_KEEPIDLE and TCP_KEEPINTVL: probe after this much quiet, then at this interval until there is an answer. */
  readonly idleMs: number;
  readonly everyMs: number;
  /** TCP_KEEPCNT: without a user timeout, drop the connection after this many unanswered probes. */
  readonly probes: number;
}

/** What Linux can tell us about a client's connection, and do about it and about our memory. Only this file calls getsockopt and setsockopt. */
export interface Kernel {
  /** @returns undefined when the connection is gone or is not a TCP connection. */
  evidenceOf(socket: Socket): KernelEvidence | undefined;
  /**
   * Sets all timeouts, and ends the probing that `probe` started. If they are set already, it does nothing.
   *
   * @param isNew whether nobody has set any on this socket: then keepalive and user timeout are still off.
   */
  applyTimeouts(socket: Socket, timeouts: SocketTimeouts, isNew?: boolean): void;
  /** Changes only TCP_USER_TIMEOUT. A timer that is running already is not shortened. */
  setUserTimeout(socket: Socket, ms: number): void;
  /** Sends a keepalive probe as soon as the connection has been quiet for one second. This suspends the timeouts. */
  probe(socket: Socket): void;
  /**
   * Gives memory back to Linux that this process has freed. The C library keeps it: after many new connections that is up to 25
   * MB, which V8's threads needed to compile. It takes 0.3 to 4 ms.
   */
  trimMemory(): void;
}

export type KernelOrNot = { readonly ok: true; readonly kernel: Kernel } | { readonly ok: false; readonly why: string };

// <asm-generic/socket.h>, <linux/tcp.h>
const SOL_SOCKET = 1;
const SO_KEEPALIVE = 9;
const IPPROTO_TCP = 6;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_KEEPCNT = 6;
const TCP_INFO = 11;
const TCP_USER_TIMEOUT = 18;

/** The length of `struct tcp_info` up to `tcpi_notsent_bytes`, unchanged since Linux 4.6. Supported Nodes need a newer one. */
export const TCP_INFO_LENGTH = 148;
const AT = {
  retransmits: 2,
  probes: 3,
  unacked: 24,
  lastDataReceived: 52,
  lastAckReceived: 56,
  rtt: 68,
  rttvar: 72,
  acked: 120,
  notSent: 144,
} as const;

/** The interval of the kernel's own probes. It is longer than any liveness check, so that every probe is one of ours. */
const OWN_PROBES_EVERY_S = 75;
/** The maximum of TCP_KEEPCNT, so that the kernel does not drop the connection before we have a verdict. */
const PROBES_BEFORE_DROP = 127;

/** Loads the system calls. @returns why not, if they cannot be loaded. */
export async function loadKernel(platform: NodeJS.Platform = process.platform): Promise<KernelOrNot> {
  if (platform !== 'linux') return { ok: false, why: `needs Linux, this is ${platform}` };
  try {
    const koffi = await import('koffi');
    const libc = koffi.load(null);
    const getsockopt = libc.func('int getsockopt(int, int, int, void *, void *)');
    const setsockopt = libc.func('int setsockopt(int, int, int, void *, uint32_t)');
    return { ok: true, kernel: kernelOf(getsockopt, setsockopt, mallocTrimOf(libc)) };
  } catch (error) {
    return { ok: false, why: `koffi cannot be loaded: ${reasonOf(error)}` };
  }
}

/** Only glibc has `malloc_trim` (<malloc.h>). */
function mallocTrimOf(libc: { func(definition: string): SystemCall }): SystemCall | undefined {
  try {
    return libc.func('int malloc_trim(size_t)');
  } catch {
    return undefined;
  }
}

export type SystemCall = (...args: unknown[]) => number;

/** A kernel that uses these two calls from <sys/socket.h>, and `malloc_trim` where there is one. */
export function kernelOf(getsockopt: SystemCall, setsockopt: SystemCall, mallocTrim?: SystemCall): Kernel {
  // One buffer is enough: there is one thread, and no await between filling and reading it.
  const info = Buffer.alloc(TCP_INFO_LENGTH);
  const infoLength = Buffer.alloc(4);
  const value = Buffer.alloc(4);

  const set = (fd: number, level: number, option: number, to: number): void => {
    value.writeInt32LE(to);
    setsockopt(fd, level, option, value, 4);
  };

  return {
    evidenceOf(socket) {
      const fd = descriptorOf(socket);
      if (fd === undefined) return undefined;
      infoLength.writeUInt32LE(TCP_INFO_LENGTH);
      if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, infoLength) !== 0) return undefined;
      // An emulator or a sandbox may know only the first fields. The others would seem to say that the client answers.
      if (infoLength.readUInt32LE() < TCP_INFO_LENGTH) return undefined;
      return readTcpInfo(info, 0);
    },
    applyTimeouts(socket, timeouts, isNew = false) {
      const fd = descriptorOf(socket);
      if (fd === undefined || areAlreadySet(socket, timeouts)) return;
      noteSet(socket, timeouts);
      const { userTimeoutMs, idleMs, everyMs, probes } = timeouts;
      // This comes first: with an unanswered probe, setting the user timeout could end the connection.
      if (!isNew) set(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
      if (!isNew || userTimeoutMs > 0) set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, userTimeoutMs);
      set(fd, IPPROTO_TCP, TCP_KEEPCNT, probes);
      set(fd, IPPROTO_TCP, TCP_KEEPINTVL, Math.ceil(everyMs / 1000));
      set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
      // This comes last: with keepalive on, the idle time counts from the last segment of the other end.
      set(fd, IPPROTO_TCP, TCP_KEEPIDLE, Math.ceil(idleMs / 1000));
    },
    setUserTimeout(socket, ms) {
      const fd = descriptorOf(socket);
      if (fd === undefined) return;
      noteSet(socket, undefined);
      set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, ms);
    },
    probe(socket) {
      const fd = descriptorOf(socket);
      if (fd === undefined) return;
      noteSet(socket, undefined);
      // With a user timeout, Linux would drop a connection that was quiet for that long at the first unanswered probe.
      set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 0);
      set(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES_BEFORE_DROP);
      set(fd, IPPROTO_TCP, TCP_KEEPINTVL, OWN_PROBES_EVERY_S);
      set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
      // Setting the idle time restarts its timer. On a quiet connection the timer has expired already, so a probe goes out now.
      set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
    },
    trimMemory: () => void mallocTrim?.(0),
  };
}

/** The timeouts that a socket has. Undefined if they are not known, or if some have been changed since. */
const TIMEOUTS = Symbol('timeouts');

function noteSet(socket: Socket, timeouts: SocketTimeouts | undefined): void {
  (socket as { [TIMEOUTS]?: SocketTimeouts | undefined })[TIMEOUTS] = timeouts;
}

/** Whether a socket has exactly these timeouts, as it has when a client asks for a second page on it. */
function areAlreadySet(socket: Socket, { userTimeoutMs, idleMs, everyMs, probes }: SocketTimeouts): boolean {
  const last = (socket as { [TIMEOUTS]?: SocketTimeouts | undefined })[TIMEOUTS];
  return (
    last !== undefined &&
    last.userTimeoutMs === userTimeoutMs &&
    last.idleMs === idleMs &&
    last.everyMs === everyMs &&
    last.probes === probes
  );
}

/** Reads a `struct tcp_info` of at least `TCP_INFO_LENGTH` bytes that begins at `start`. */
export function readTcpInfo(bytes: Buffer, start: number): KernelEvidence {
  return {
    unackedSegments: bytes.readUInt32LE(start + AT.unacked),
    unsentBytes: bytes.readUInt32LE(start + AT.notSent),
    ackedBytes: Number(bytes.readBigUInt64LE(start + AT.acked)),
    retransmits: bytes.readUInt8(start + AT.retransmits),
    unansweredProbes: bytes.readUInt8(start + AT.probes),
    receivedAgoMs: Math.min(
      bytes.readUInt32LE(start + AT.lastDataReceived),
      bytes.readUInt32LE(start + AT.lastAckReceived),
    ),
    rttMs: bytes.readUInt32LE(start + AT.rtt) / 1000,
    rttvarMs: bytes.readUInt32LE(start + AT.rttvar) / 1000,
  };
}
