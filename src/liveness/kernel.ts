import type { Socket } from 'node:net';
import { reasonOf } from '../lib/errors.ts';
import type { KernelEvidence } from '../streams/stream.ts';

/** What Linux does about a connection by itself, with no timer of ours. In milliseconds. */
export interface SocketTimeouts {
  /** Drop it once data has stayed unacknowledged, or probes unanswered, for so long. 0: only `probes` counts. */
  readonly userTimeoutMs: number;
  /** Ask the other kernel for a sign of life after so much quiet, and again every so often while it does not answer. */
  readonly idleMs: number;
  readonly everyMs: number;
  /** Without a user timeout: drop it when so many in a row were unanswered. */
  readonly probes: number;
}

/** What Linux can be asked and told about a client's connection. The only file that knows the system's calls. */
export interface Kernel {
  /** Undefined when the connection is gone, or is none of TCP's. */
  evidenceOf(socket: Socket): KernelEvidence | undefined;
  /** Sets all timeouts, and ends what `probe` began. */
  applyTimeouts(socket: Socket, timeouts: SocketTimeouts): void;
  /** Changes only how long data that is sent from here on may stay unacknowledged. */
  setUserTimeout(socket: Socket, ms: number): void;
  /** Sends a keepalive probe as soon as the line has been quiet for a second; the timeouts rest from here on. */
  probe(socket: Socket): void;
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

/** struct tcp_info up to tcpi_notsent_bytes, the same since Linux 4.6; no Node that is supported runs on an older one. */
const TCP_INFO_LENGTH = 148;
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

/** The kernel's own next probe: further off than any check lasts, so that each probe is one of ours. */
const OWN_PROBES_EVERY_S = 75;
/** The kernel drops a connection after this many unanswered probes. The verdict is ours to find, so: its maximum. */
const PROBES_BEFORE_DROP = 127;

/** Loads the system's calls; says why not where they cannot be had. */
export async function loadKernel(platform: NodeJS.Platform = process.platform): Promise<KernelOrNot> {
  if (platform !== 'linux') return { ok: false, why: `needs Linux, this is ${platform}` };
  try {
    const koffi = await import('koffi');
    const libc = koffi.load(null);
    const getsockopt = libc.func('int getsockopt(int, int, int, void *, void *)');
    const setsockopt = libc.func('int setsockopt(int, int, int, void *, uint32_t)');
    return { ok: true, kernel: kernelOf(getsockopt, setsockopt) };
  } catch (error) {
    return { ok: false, why: `koffi cannot be loaded: ${reasonOf(error)}` };
  }
}

export type SystemCall = (...args: unknown[]) => number;

/** A kernel asked by these two calls, as <sys/socket.h> has them. */
export function kernelOf(getsockopt: SystemCall, setsockopt: SystemCall): Kernel {
  // One thread, and nothing is awaited between filling and reading: one buffer serves all.
  const info = Buffer.alloc(TCP_INFO_LENGTH);
  const infoLength = Buffer.alloc(4);
  const value = Buffer.alloc(4);

  const set = (fd: number, level: number, option: number, to: number): void => {
    value.writeInt32LE(to);
    setsockopt(fd, level, option, value, 4);
  };

  return {
    evidenceOf(socket) {
      const fd = fdOf(socket);
      if (fd === undefined) return undefined;
      infoLength.writeUInt32LE(TCP_INFO_LENGTH);
      if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, infoLength) !== 0) return undefined;
      return readTcpInfo(info);
    },
    applyTimeouts(socket, timeouts) {
      const fd = fdOf(socket);
      if (fd !== undefined) order((level, option, to) => set(fd, level, option, to), timeouts);
    },
    setUserTimeout(socket, ms) {
      const fd = fdOf(socket);
      if (fd !== undefined) set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, ms);
    },
    probe(socket) {
      const fd = fdOf(socket);
      if (fd === undefined) return;
      // With a user timeout Linux drops a line that has been quiet for that long at its first unanswered probe.
      set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 0);
      set(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES_BEFORE_DROP);
      set(fd, IPPROTO_TCP, TCP_KEEPINTVL, OWN_PROBES_EVERY_S);
      set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
      // Each setting of the idle time starts its timer anew; on a quiet line it has run out already.
      set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
    },
  };
}

function order(
  set: (level: number, option: number, to: number) => void,
  { userTimeoutMs, idleMs, everyMs, probes }: SocketTimeouts,
): void {
  // First of all: with a probe out, the user timeout alone might end the connection.
  set(SOL_SOCKET, SO_KEEPALIVE, 0);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, userTimeoutMs);
  set(IPPROTO_TCP, TCP_KEEPCNT, probes);
  set(IPPROTO_TCP, TCP_KEEPINTVL, Math.ceil(everyMs / 1000));
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  // Last: set on a connection with keepalive, the idle time counts from when the other end was last heard.
  set(IPPROTO_TCP, TCP_KEEPIDLE, Math.ceil(idleMs / 1000));
}

function readTcpInfo(info: Buffer): KernelEvidence {
  return {
    unackedSegments: info.readUInt32LE(AT.unacked),
    unsentBytes: info.readUInt32LE(AT.notSent),
    ackedBytes: Number(info.readBigUInt64LE(AT.acked)),
    retransmits: info.readUInt8(AT.retransmits),
    unansweredProbes: info.readUInt8(AT.probes),
    receivedAgoMs: Math.min(info.readUInt32LE(AT.lastDataReceived), info.readUInt32LE(AT.lastAckReceived)),
    rttMs: info.readUInt32LE(AT.rtt) / 1000,
    rttvarMs: info.readUInt32LE(AT.rttvar) / 1000,
  };
}

/** The descriptor of a socket, also of a TLS one; Node has no public way to it. */
function fdOf(socket: Socket): number | undefined {
  const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd;
  return fd !== undefined && fd >= 0 ? fd : undefined;
}
