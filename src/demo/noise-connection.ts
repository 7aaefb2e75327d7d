import { Duplex, type Readable } from 'node:stream';
import type { TransportKeys } from './noise-handshake.ts';
import { createOpener, createSealer } from './noise-records.ts';

/** What goes in and out of `duplex` is plain; what goes over the socket below is sealed. */
export interface NoiseConnection {
  readonly duplex: Duplex;
  /** From now on neither reads from the socket nor writes to it, and leaves it open: a device that got stuck. */
  freeze(): void;
}

/**
 * The transport after the handshake, over `socket`, which it owns from here on: it ends and is destroyed together
 * with `duplex`. A record that cannot be opened destroys both, with an error that says why.
 */
export function connectNoise(socket: Duplex, keys: TransportKeys): NoiseConnection {
  const seal = createSealer(keys.send);
  let frozen = false;

  const duplex = new Duplex({
    read() {
      if (!frozen) socket.resume();
    },
    // All that waits goes into one run of records: HTTP/2 writes a frame's header and body apart.
    writev(chunks, done) {
      // A frozen side never says that it has written: its caller waits, as it would for a full socket.
      if (!frozen) socket.write(seal(Buffer.concat(chunks.map(({ chunk }) => chunk as Buffer))), done);
    },
    final(done) {
      if (!frozen) socket.end(done);
    },
    destroy(error, done) {
      socket.destroy();
      done(error);
    },
  });

  deliver(socket, duplex, keys.receive);
  return {
    duplex,
    freeze() {
      frozen = true;
      socket.pause();
    },
  };
}

/** Hands what the socket receives to `duplex`, opened, and lets it share the socket's end. */
function deliver(socket: Duplex, duplex: Duplex, key: Buffer): void {
  const opener = createOpener(key);
  socket.on('data', (chunk: Buffer) => {
    const { plaintext, broken } = opener.push(chunk);
    // An empty record is legal and says nothing; pushing it would look like the end.
    if (plaintext.length > 0 && !duplex.push(plaintext)) socket.pause();
    if (broken !== undefined) duplex.destroy(new Error(`Noise session ended: ${broken}`));
  });
  socket.on('end', () => {
    if (opener.midRecord) duplex.destroy(new Error('Noise session ended: connection closed within a record'));
    else duplex.push(null);
  });
  socket.on('error', (error) => duplex.destroy(error));
  // A socket that is gone without 'end' or 'error', because somebody else destroyed it.
  socket.on('close', () => duplex.destroy());
}

/**
 * The next `length` bytes of a stream nobody else reads; the rest stays in it.
 *
 * @throws when it ends or fails before.
 */
export async function readExactly(stream: Readable, length: number): Promise<Buffer> {
  return await new Promise<Buffer>((resolve, reject) => {
    const settle = (settled: () => void): void => {
      stream.off('readable', attempt).off('end', ended).off('close', ended).off('error', failed);
      settled();
    };
    const attempt = (): void => {
      const chunk: Buffer | null = stream.read(length);
      if (chunk !== null && chunk.length === length) settle(() => resolve(chunk));
    };
    const ended = (): void =>
      settle(() => reject(new Error(`connection ended where ${length} more bytes were expected`)));
    const failed = (error: Error): void => settle(() => reject(error));
    if (stream.readableEnded || stream.destroyed) return ended();
    stream.on('readable', attempt).on('end', ended).on('close', ended).on('error', failed);
    attempt();
  });
}
