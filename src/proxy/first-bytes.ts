import type { Socket } from 'node:net';

/** What is to be done with the first bytes of a connection. */
export type FirstBytes =
  /** They are not enough. */
  | { readonly kind: 'more' }
  /** Read enough: whoever comes next begins with these. */
  | { readonly kind: 'done'; readonly rest: Buffer }
  | { readonly kind: 'refuse' };

const MOST_BYTES = 32 * 1024;

export interface Patience {
  readonly withinMs: number;
  /** Too little has come in time; nobody listens to the socket any more. */
  slow(): void;
}

/**
 * Reads the first bytes of a connection for somebody who comes before its server; `done` is called once they have been
 * put back, changed or not. Who sends too much or too slowly, or ends, is let go.
 */
export function readFirstBytes(
  socket: Socket,
  read: (bytes: Buffer) => FirstBytes,
  { withinMs, slow }: Patience,
  done: () => void,
): void {
  let bytes: Buffer = Buffer.alloc(0);
  const give = (): void => void socket.destroy();
  const finish = (): void => {
    clearTimeout(timer);
    socket.off('readable', look).off('end', give).off('close', finish);
  };
  const look = (): void => {
    for (;;) {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null) return;
      bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk]);
      const found = read(bytes);
      if (found.kind === 'more' && bytes.length <= MOST_BYTES) continue;
      finish();
      if (found.kind !== 'done') give();
      else {
        socket.off('error', give);
        if (found.rest.length > 0) socket.unshift(found.rest);
        done();
      }
      return;
    }
  };
  const timer = setTimeout(() => {
    finish();
    slow();
    setTimeout(give, SLOW_ENDS_WITHIN_MS).unref();
  }, withinMs);
  socket.on('readable', look).on('end', give).on('error', give).on('close', finish);
}

const SLOW_ENDS_WITHIN_MS = 1000;
