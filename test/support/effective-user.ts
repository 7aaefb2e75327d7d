import koffi from 'koffi';

/**
 * Makes this process act as another user, or as root again. Not `process.seteuid`: Debian's own Node refuses it, because its libuv may use io_uring.
 *
 * @throws Error if this process may not.
 */
export function actAs(uid: number): void {
  const seteuid = koffi.load(null).func('int seteuid(uint32_t)');
  if (seteuid(uid) !== 0) throw new Error(`this process may not act as user ${uid}`);
}
