import type { Clock, Timer } from '../lib/clock.ts';
import { openNotifySocket, type SendDatagram } from './notify-socket.ts';

/** What the service manager that started us is told: systemd's sd_notify(3). Without one nothing happens. */
export interface ServiceManager {
  ready(status: string): void;
  /** The start of a reload; `ready` ends it. */
  reloading(): void;
  /** @param withinMs how long stopping takes at most: the manager is not to kill us before. */
  stopping(status: string, withinMs: number): void;
  /** Ends the signs of life. */
  close(): void;
  /** Why it cannot be told anything although it asked for it. */
  readonly mute: string | undefined;
}

/** Longer than a close takes after the last stream has ended. */
const STOP_ROOM_MS = 10_000;

/** Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and removes them from `env`. */
export async function serviceManagerOf(env: NodeJS.ProcessEnv, pid: number, clock: Clock): Promise<ServiceManager> {
  const { NOTIFY_SOCKET: address, WATCHDOG_USEC: watchdogUs, WATCHDOG_PID: watchdogPid } = env;
  delete env.NOTIFY_SOCKET;
  delete env.WATCHDOG_USEC;
  delete env.WATCHDOG_PID;
  if (address === undefined || address === '') return managerTold(() => false, clock, undefined, undefined);
  const socket = await openNotifySocket(address);
  if (!socket.ok) return managerTold(() => false, clock, undefined, socket.why);
  const isOurs = watchdogPid === undefined || watchdogPid === String(pid);
  const watchdogMs = Number(watchdogUs) / 1000;
  return managerTold(socket.send, clock, isOurs && watchdogMs > 0 ? watchdogMs : undefined, undefined);
}

/** @param watchdogMs without a sign of life for so long the manager ends us. */
export function managerTold(
  send: SendDatagram,
  clock: Clock,
  watchdogMs: number | undefined,
  mute: string | undefined,
): ServiceManager {
  let timer: Timer | undefined;
  let isStopping = false;
  // By the event loop's own timer: a loop that is stuck sends none, and is to be seen stuck.
  const signOfLife = (): void => {
    if (watchdogMs === undefined) return;
    send('WATCHDOG=1');
    timer = clock.after(watchdogMs / 2, signOfLife);
  };
  return {
    ready(status) {
      // A reload may still come; what is stopping does not become ready again.
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
    close: () => timer?.cancel(),
    mute,
  };
}
