import { readdirSync, readlinkSync } from 'node:fs';
import koffi from 'koffi';

// The same numbers on every architecture: <asm-generic/unistd.h>, <asm-generic/socket.h>
const PIDFD_OPEN = 434;
const PIDFD_GETFD = 438;
const SOL_SOCKET = 1;
const SO_KEEPALIVE = 9;

const libc = koffi.load(null);
const syscall = libc.func('long syscall(long, long, long, long)');
const setsockopt = libc.func('int setsockopt(int, int, int, void *, uint32_t)');
const close = libc.func('int close(int)');

/** Switches TCP keepalive off on every socket that another process has open now: Go switches it on, every 15 s, unasked. */
export function switchKeepaliveOff(pid: number): void {
  const process = Number(syscall(PIDFD_OPEN, pid, 0, 0));
  if (process < 0) throw new Error(`process ${pid} cannot be opened`);
  try {
    for (const fd of readdirSync(`/proc/${pid}/fd`)) {
      if (!isSocket(`/proc/${pid}/fd/${fd}`)) continue;
      const copy = Number(syscall(PIDFD_GETFD, process, Number(fd), 0));
      if (copy < 0) continue;
      setsockopt(copy, SOL_SOCKET, SO_KEEPALIVE, Buffer.alloc(4), 4);
      close(copy);
    }
  } finally {
    close(process);
  }
}

/** A descriptor that has been closed meanwhile is none. */
function isSocket(link: string): boolean {
  try {
    return readlinkSync(link).startsWith('socket:');
  } catch {
    return false;
  }
}
