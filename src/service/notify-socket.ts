import { endianness } from 'node:os';
import { reasonOf } from '../lib/errors.ts';

/** Sends one datagram to the service manager; false if it could not be sent. */
export type SendDatagram = (text: string) => boolean;

export type NotifySocketOrNot =
  | { readonly ok: true; readonly send: SendDatagram }
  | { readonly ok: false; readonly why: string };

// <sys/socket.h>
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
/** sizeof(sockaddr_un.sun_path), its closing NUL counted. */
const LONGEST_PATH = 108;

/** Opens a socket to NOTIFY_SOCKET's address. Node has no datagram sockets of AF_UNIX, so it is asked of libc. */
export async function openNotifySocket(address: string): Promise<NotifySocketOrNot> {
  const target = socketAddress(address);
  if (target === undefined) return { ok: false, why: `NOTIFY_SOCKET is '${address}', which is no path of a socket` };
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
 * struct sockaddr_un: 2 bytes family, then the path and its NUL. An abstract address (`@name`) begins with a NUL
 * instead of the `@` and has none at its end.
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
