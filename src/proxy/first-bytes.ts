import type { Socket } from 'node:net';

/** What is to be done with the first bytes of a connection. */
export type FirstBytes =
  /** They are not enough. */
  | { readonly kind: 'more' }
  /** Read enough: whoever comes next begins with these. */
  | { readonly kind: 'done'; readonly rest: Buffer }
  | { readonly kind: 'refuse' };

const MOST_BYTES = 32 * 1024;
const WITHIN_MS = 10_000;

/**
 * Reads the first bytes of a connection for somebody who comes before its server; `done` is called once they have been
 * put back, changed or not. Who sends too much or too slowly, or ends, is let go.
 */
export function readFirstBytes(socket: Socket, read: (bytes: Buffer) => FirstBytes, done: () => void): void {
  let bytes: Buffer = Buffer.alloc(0);
  const give = (): void => void socket.destroy();
  const finish = (): void => {
    socket.off('readable', look).off('end', give).off('error', give);
    socket.setTimeout(0, give);
  };
  const look = (): void => {
    for (;;) {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null) return;
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk]);
      const found = bytes.length > MOST_BYTES ? REFUSE : read(bytes);
      if (found.kind === 'more') continue;
      finish();
      if (found.kind === 'refuse') give();
      else {
        if (found.rest.length > 0) socket.unshift(found.rest);
        done();
      }
      return;
    }
  };
  socket.setTimeout(WITHIN_MS, give);
  socket.on('readable', look).on('end', give).on('error', give);
}

const REFUSE: FirstBytes = { kind: 'refuse' };
