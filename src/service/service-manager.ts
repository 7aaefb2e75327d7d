import { endianness } from 'node:os';
import type { Clock, Timer } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';

/** Reports our state to the service manager that started us (systemd, sd_notify(3)). Without one it does nothing. */
export interface ServiceManager {
  ready(status: string): void;
  /** Reports that a reload begins. `ready` reports its end. */
  reloading(): void;
  /** @param withinMs how long we need to stop, at most. It keeps the manager from killing us earlier. */
  stopping(status: string, withinMs: number): void;
  /** Reports that another process of the service is the main one now. It reports everything from here on. */
  handedOver(pid: number): void;
  /** What another process of the service needs to reach the manager; undefined without a manager. */
  readonly environment: NodeJS.ProcessEnv | undefined;
  /** Stops the signs of life. */
  close(): void;
  /** Why we cannot reach the manager; undefined if we can, or if there is no manager. */
  readonly unreachableReason: string | undefined;
}

/** After the last stream has ended, the rest of a shutdown takes less than this. */
const STOP_ROOM_MS = 10_000;

/** Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and removes them from `env`. */
export async function connectServiceManager(
  env: NodeJS.ProcessEnv,
  pid: number,
  clock: Clock,
): Promise<ServiceManager> {
  const { NOTIFY_SOCKET: address, WATCHDOG_USEC: watchdogUs, WATCHDOG_PID: watchdogPid } = env;
  delete env.NOTIFY_SOCKET;
  delete env.WATCHDOG_USEC;
  delete env.WATCHDOG_PID;
  if (address === undefined || address === '') return createServiceManager(() => false, clock, undefined, undefined);
  const socket = await openNotifySocket(address);
  if (!socket.ok) return createServiceManager(() => false, clock, undefined, socket.why);
  const environment = { NOTIFY_SOCKET: address, WATCHDOG_USEC: watchdogUs };
  const isOurs = watchdogPid === undefined || watchdogPid === String(pid);
  const watchdogMs = Number(watchdogUs) / 1000;
  const sendsEveryMs = isOurs && watchdogMs > 0 ? watchdogMs : undefined;
  return createServiceManager(socket.send, clock, sendsEveryMs, undefined, environment);
}

/** @param watchdogMs the manager restarts us if it hears nothing from us for this long (WatchdogSec=). */
export function createServiceManager(
  send: SendDatagram,
  clock: Clock,
  watchdogMs: number | undefined,
  unreachableReason: string | undefined,
  environment?: NodeJS.ProcessEnv,
): ServiceManager {
  let timer: Timer | undefined;
  let isStopping = false;
  // This timer runs on the event loop. If the loop is stuck, nothing is sent, and the manager notices.
  const signOfLife = (): void => {
    if (watchdogMs === undefined) return;
    send('WATCHDOG=1');
    timer = clock.after(watchdogMs / 2, signOfLife);
  };
  return {
    ready(status) {
      // A reload may end while we are stopping. It must not make us ready again.
      if (isStopping) return;
      send(`READY=1\nSTATUS=${status}`);
      if (timer === undefined) signOfLife();
    },
    reloading() {
      if (!isStopping) send(`RELOADING=1\nMONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
    },
    stopping(status, withinMs) {
      isStopping = true;
      send(`STOPPING=1\nSTATUS=${status}\nEXTEND_TIMEOUT_USEC=${Math.ceil((withinMs + STOP_ROOM_MS) * 1000)}`);
    },
    handedOver(pid) {
      isStopping = true;
      timer?.cancel();
      send(`MAINPID=${pid}`);
    },
    close: () => timer?.cancel(),
    ...{ environment, unreachableReason },
  };
}

/** Sends one datagram to the service manager. @returns false if that failed. */
export type SendDatagram = (text: string) => boolean;

type NotifySocketOrNot =
  | { readonly ok: true; readonly send: SendDatagram }
  | { readonly ok: false; readonly why: string };

// <sys/socket.h>
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** sizeof(sockaddr_un.sun_path), including the closing NUL; see unix(7). */
const LONGEST_PATH = 108;

/** Opens a datagram socket for the service manager. Node has no AF_UNIX datagram sockets, so this calls libc. */
async function openNotifySocket(address: string): Promise<NotifySocketOrNot> {
  const target = socketAddress(address);
  if (target === undefined)
    return { ok: false, why: `NOTIFY_SOCKET is '${address}', which is not the path of a socket` };
  try {
    const koffi = await import('koffi');
    const libc = koffi.load(null);
    const socket = libc.func('int socket(int, int, int)');
    const sendto = libc.func('intptr_t sendto(int, const void *, size_t, int, const void *, uint32_t)');
    const descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) as number;
    if (descriptor < 0) return { ok: false, why: 'no socket could be opened' };
    const send = (text: string): boolean => {
      const bytes = Buffer.from(text);
      return (
        Number(sendto(descriptor, bytes, bytes.length, MSG_NOSIGNAL | MSG_DONTWAIT, target, target.length)) ===
        bytes.length
      );
    };
    return { ok: true, send };
  } catch (error) {
    return { ok: false, why: `koffi cannot be loaded: ${reasonOf(error)}` };
  }
}

/**
 * struct sockaddr_un (unix(7)): 2 bytes family, then the path and a NUL. An abstract address (`@name`) has a NUL instead of
 * the `@`, and no NUL at its end.
 */
export function socketAddress(address: string): Buffer | undefined {
  const isAbstract = address.startsWith('@');
  if (!isAbstract && !address.startsWith('/')) return undefined;
  const path = Buffer.from(isAbstract ? `\0${address.slice(1)}` : `${address}\0`);
  if (path.length < 2 || path.length > LONGEST_PATH) return undefined;
  const family = Buffer.alloc(2);
  if (endianness() === 'LE') family.writeUInt16LE(AF_UNIX);
  else family.writeUInt16BE(AF_UNIX);
  return Buffer.concat([family, path]);
}
