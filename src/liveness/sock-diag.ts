import { constants, endianness } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { addressBytes } from '../lib/addresses.ts';
import type { Clock } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';
import {
  AF_INET,
  AF_INET6,
  type Answer,
  type BoundConnection,
  type DumpFilter,
  dumpRequest,
  findRequest,
  readAnswer,
  type TcpSocket,
} from './inet-diag.ts';

/** Why Linux was not asked, or how its answer could not be used. */
export interface SockDiagFailure {
  readonly ok: false;
  /** The name of an errno (`EPERM`), or what else went wrong (`TIMED_OUT`). */
  readonly code: string;
  /** What was tried, what came of it, and what to do. */
  readonly why: string;
}

type FindResult = { readonly ok: true; readonly socket: TcpSocket | undefined } | SockDiagFailure;
type DumpResult = { readonly ok: true; readonly sockets: readonly TcpSocket[] } | SockDiagFailure;

/**
 * The TCP sockets of this network namespace. Linux reports them to every user, whoever owns them (man 7 sock_diag). Only this
 * file speaks netlink.
 */
export interface SockDiag {
  /** The socket of this connection now. Undefined if there is none; that is exact. Takes about 20 µs. Never throws. */
  find(connection: BoundConnection): FindResult;
  /**
   * All sockets that the filter lets through, at once: it takes a millisecond for a thousand connections on this machine,
   * whatever the filter.
   */
  list(filter: DumpFilter): DumpResult;
  /**
   * The same off the event loop. A worker thread waits for Linux, and we read 32 kB at a time, so the event loop
   * is not blocked. Dumps wait for each other; equal ones that are still waiting are one. Never rejects.
   *
   * Sockets go on changing during a dump, and one of them may be missing. Only `find` says that a socket is gone.
   */
  dump(filter: DumpFilter): Promise<DumpResult>;
  close(): void;
}

export type SockDiagOrNot = { readonly ok: true; readonly sockDiag: SockDiag } | SockDiagFailure;

/** The system calls. A result below zero is a negated errno. */
export interface NetlinkCalls {
  open(): number;
  send(fd: number, request: Buffer): number;
  /** @returns the length of the answer, even if it did not fit. */
  receive(fd: number, answer: Buffer): number;
  sendInBackground(fd: number, request: Buffer): Promise<number>;
  receiveInBackground(fd: number, answer: Buffer): Promise<number>;
  close(fd: number): void;
}

// <bits/socket.h>, <linux/netlink.h>
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOCK_CLOEXEC = 0o2000000;
const NETLINK_SOCK_DIAG = 4;
const MSG_TRUNC = 0x20;
const MSG_DONTWAIT = 0x40;

/** No connection has the port 0. */
const NOWHERE = { address: '127.0.0.1', port: 0 };

/** Loads the system calls and asks Linux in both ways. @returns why not, and what to do, if that is not possible. */
export async function loadSockDiag(clock: Clock, platform: NodeJS.Platform = process.platform): Promise<SockDiagOrNot> {
  if (platform !== 'linux') return failed('PLATFORM', `needs Linux, this is ${platform}`);
  if (endianness() !== 'LE') return failed('PLATFORM', 'needs a little-endian machine');
  let calls: NetlinkCalls;
  try {
    calls = await loadCalls();
  } catch (error) {
    return failed('KOFFI', `koffi cannot be loaded: ${reasonOf(error)}`);
  }
  const sockDiag = sockDiagOf(calls, clock);
  // If tcp_diag is a module, Linux loads it now. No socket is in none of all states, so the answer is empty.
  const asked = await sockDiag.dump({ states: [] });
  // The other way to ask opens the socket that it keeps, so the number of descriptors does not depend on what comes later.
  const found = asked.ok ? sockDiag.find({ local: NOWHERE, remote: NOWHERE }) : asked;
  if (found.ok) return { ok: true, sockDiag };
  sockDiag.close();
  return found;
}

async function loadCalls(): Promise<NetlinkCalls> {
  const koffi = await import('koffi');
  const libc = koffi.load(null);
  const socket = libc.func('int socket(int, int, int)');
  const send = libc.func('intptr_t send(int, const void *, size_t, int)');
  const recv = libc.func('intptr_t recv(int, void *, size_t, int)');
  const close = libc.func('int close(int)');
  const orErrno = (result: unknown): number => (Number(result) < 0 ? -koffi.errno() : Number(result));
  // Runs on a thread of libuv's pool. Its errno cannot be read from this thread, so a call that fails is made again here.
  const inBackground = (call: typeof send, args: readonly unknown[], again: () => number): Promise<number> =>
    new Promise((resolve) => {
      call.async(...args, (error: unknown, result: unknown) => {
        resolve(error || Number(result) < 0 ? again() : Number(result));
      });
    });
  const calls: NetlinkCalls = {
    open: () => orErrno(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)),
    send: (fd, request) => orErrno(send(fd, request, request.length, MSG_DONTWAIT)),
    receive: (fd, answer) => orErrno(recv(fd, answer, answer.length, MSG_DONTWAIT | MSG_TRUNC)),
    sendInBackground: (fd, request) =>
      inBackground(send, [fd, request, request.length, MSG_DONTWAIT], () => calls.send(fd, request)),
    receiveInBackground: (fd, answer) =>
      inBackground(recv, [fd, answer, answer.length, MSG_DONTWAIT | MSG_TRUNC], () => calls.receive(fd, answer)),
    close,
  };
  return calls;
}

/** The most that Linux puts into one datagram of a dump (net/netlink/af_netlink.c). */
const LONGEST_ANSWER = 32 * 1024;
const LONGEST_DUMP_MS = 2000;
const DUMP_ATTEMPTS = 2;

/** @param calls system calls on netlink sockets. After each of them, Linux has an answer ready: nothing here has to wait. */
export function sockDiagOf(calls: NetlinkCalls, clock: Clock): SockDiag {
  const found = Buffer.alloc(LONGEST_ANSWER);
  // A buffer of its own: a worker thread may write to it during a `find`.
  const dumped = Buffer.alloc(LONGEST_ANSWER);
  let findSocket: number | undefined;
  let sequence = 0;
  let isClosed = false;
  let lastDump: Promise<void> = Promise.resolve();
  /** The dumps that have not begun, by their filter. */
  const waiting = new Map<string, Promise<DumpResult>>();

  const nextSequence = (): number => {
    sequence = (sequence + 1) >>> 0;
    return sequence;
  };

  const closeFindSocket = (): void => {
    if (findSocket !== undefined) calls.close(findSocket);
    findSocket = undefined;
  };

  const findOne = (connection: BoundConnection): FindResult => {
    const asked = nextSequence();
    const request = findRequest(connection, asked);
    if (request === undefined)
      return failed('ADDRESS', 'a connection needs two addresses of one family, and two ports');
    if (findSocket === undefined) {
      const fd = calls.open();
      if (fd < 0) return callFailed('socket', fd);
      findSocket = fd;
    }
    const sent = calls.send(findSocket, request);
    if (sent < 0) return callFailed('send', sent);
    const length = calls.receive(findSocket, found);
    if (length < 0) return callFailed('recv', length);
    const sockets: TcpSocket[] = [];
    const answer = readAnswer(found, length, asked, sockets);
    if (typeof answer === 'object' && answer.errno === constants.errno.ENOENT) return { ok: true, socket: undefined };
    const [socket] = sockets;
    if (answer !== 'more' || socket === undefined) return answerFailed(answer);
    // If no other socket has these numbers, Linux answers with the one that listens.
    return { ok: true, socket: socket.state === 'listen' ? undefined : socket };
  };

  /** One dump. It yields each request to send, and undefined for each answer to receive, and gets the result of the call. */
  function* dumpSteps(filter: DumpFilter, answers: Buffer): Generator<Buffer | undefined, DumpResult, number> {
    const remote = filter.remoteAddress === undefined ? undefined : addressBytes(filter.remoteAddress);
    if (filter.remoteAddress !== undefined && remote === undefined) return failed('ADDRESS', 'it is not an address');
    const sockets: TcpSocket[] = [];
    // A server that listens on `::` has IPv6 sockets for its IPv4 clients.
    for (const family of remote?.length === 16 ? [AF_INET6] : [AF_INET, AF_INET6]) {
      const asked = nextSequence();
      const sent = yield dumpRequest(family, filter, remote, asked);
      if (sent < 0) return callFailed('send', sent);
      for (let answer: Answer = 'more'; answer !== 'done'; ) {
        const length = yield undefined;
        if (length < 0) return callFailed('recv', length);
        answer = readAnswer(answers, length, asked, sockets);
        if (answer !== 'more' && answer !== 'done') return answerFailed(answer);
      }
    }
    return { ok: true, sockets };
  }

  /** Opens a socket for one dump: the rest of a dump that is given up is lost with it. */
  const dumpOnce = async (filter: DumpFilter, isGivenUp: () => boolean): Promise<DumpResult> => {
    const fd = calls.open();
    if (fd < 0) return callFailed('socket', fd);
    try {
      const steps = dumpSteps(filter, dumped);
      for (let step = steps.next(); ; ) {
        if (step.done) return step.value;
        if (isGivenUp()) return givenUp();
        const { value: request } = step;
        step = steps.next(
          await (request ? calls.sendInBackground(fd, request) : calls.receiveInBackground(fd, dumped)),
        );
      }
    } finally {
      calls.close(fd);
    }
  };

  const listOnce = (filter: DumpFilter): DumpResult => {
    const fd = calls.open();
    if (fd < 0) return callFailed('socket', fd);
    try {
      const steps = dumpSteps(filter, found);
      for (let step = steps.next(); ; ) {
        if (step.done) return step.value;
        const { value: request } = step;
        step = steps.next(request ? calls.send(fd, request) : calls.receive(fd, found));
      }
    } finally {
      calls.close(fd);
    }
  };

  const dumpAll = async (filter: DumpFilter, isGivenUp: () => boolean): Promise<DumpResult> => {
    let result: DumpResult = givenUp();
    for (let attempt = 0; attempt < DUMP_ATTEMPTS && !isGivenUp(); attempt++) {
      result = await dumpOnce(filter, isGivenUp);
      if (result.ok || result.code !== 'INTERRUPTED') break;
    }
    return result;
  };

  return {
    find(connection) {
      if (isClosed) return givenUp();
      const result = findOne(connection);
      // An answer that is still to come must not be taken for the next one.
      if (!result.ok) closeFindSocket();
      return result;
    },
    list(filter) {
      if (isClosed) return givenUp();
      const result = listOnce(filter);
      return !result.ok && result.code === 'INTERRUPTED' ? listOnce(filter) : result;
    },
    dump(filter) {
      const key = JSON.stringify(filter);
      const same = waiting.get(key);
      if (same !== undefined) return same;
      const result = new Promise<DumpResult>((resolve) => {
        let isLate = false;
        const begin = (): void => {
          if (waiting.get(key) === result) waiting.delete(key);
        };
        const timer = clock.after(LONGEST_DUMP_MS, () => {
          isLate = true;
          begin();
          resolve(givenUp());
        });
        lastDump = lastDump.then(async () => {
          begin();
          resolve(
            await dumpAll(filter, () => isLate || isClosed).catch((error: unknown) =>
              failed('INTERNAL', reasonOf(error)),
            ),
          );
          timer.cancel();
        });
      });
      waiting.set(key, result);
      return result;
    },
    close() {
      isClosed = true;
      closeFindSocket();
    },
  };
}

/** What an errno means here, and what to do. */
const MEANINGS: { readonly [code: string]: string } = {
  EAFNOSUPPORT: 'netlink is not allowed; add AF_NETLINK to RestrictAddressFamilies= of the systemd unit',
  EPERM: 'netlink is not allowed; allow AF_NETLINK sockets in the seccomp profile',
  EACCES: 'netlink is not allowed; allow it in the AppArmor or SELinux profile',
  EPROTONOSUPPORT: 'this kernel or sandbox has no sock_diag; load the kernel module inet_diag',
  ENOENT: 'this kernel does not report TCP sockets; load the kernel module tcp_diag',
  EMFILE: 'too many files are open; raise LimitNOFILE=',
  ENFILE: 'too many files are open on this machine; raise the sysctl fs.file-max',
  ENOBUFS: 'Linux had no memory for the answer',
  EAGAIN: 'Linux has not answered',
};

function failed(code: string, why: string): SockDiagFailure {
  return { ok: false, code, why };
}

function callFailed(call: string, result: number): SockDiagFailure {
  const code = getSystemErrorName(result);
  const meaning = MEANINGS[code];
  return failed(code, `${call}: ${code}${meaning === undefined ? '' : `: ${meaning}`}`);
}

function answerFailed(answer: Answer): SockDiagFailure {
  if (typeof answer === 'object') return callFailed('sock_diag', -answer.errno);
  if (answer === 'interrupted') return failed('INTERRUPTED', 'sockets changed faster than Linux could report them');
  return failed(
    'ANSWER',
    `Linux sent an answer that is ${answer === 'truncated' || answer === 'stale' ? answer : 'malformed'}`,
  );
}

function givenUp(): SockDiagFailure {
  return failed(
    'TIMED_OUT',
    `Linux did not report all sockets within ${LONGEST_DUMP_MS} ms, or the watchdog is stopping`,
  );
}
