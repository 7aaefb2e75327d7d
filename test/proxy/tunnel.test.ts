import { createHash, randomFillSync } from 'node:crypto';
import type { Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import {
  closed,
  closeReason,
  Harness,
  type OnUpgrade,
  readAll,
  readHead,
  SWITCHING,
  until,
  upgradeHead,
} from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

const MIB = 1024 * 1024;

/** Answers 101 and hands over the socket. */
function switching(then: (socket: Socket, head: Buffer) => void): OnUpgrade {
  return (_request, socket, head) => {
    socket.on('error', () => {});
    socket.write(SWITCHING);
    then(socket, head);
  };
}

function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

describe('Tunnel, bytes', () => {
  test('64 MiB go in both directions at once, unchanged', async () => {
    const [up, down] = [randomFillSync(Buffer.alloc(64 * MIB)), randomFillSync(Buffer.alloc(64 * MIB))];
    let atUpstream: Promise<Buffer> | undefined;
    const upstream = await harness.upstream(
      switching((socket) => {
        atUpstream = readAll(socket);
        socket.end(down);
      }),
    );
    const { port, events } = await harness.watchdog(upstream.url);
    const client = await harness.upgraded(port);
    client.end(up);
    const atClient = await readAll(client);
    expect(sha256(atClient)).toBe(sha256(down));
    expect(sha256(await (atUpstream as Promise<Buffer>))).toBe(sha256(up));
    await until(() => events.some((event) => event.kind === 'stream_closed'), 'the stream is closed');
    const event = events.find(({ kind }) => kind === 'stream_closed');
    expect(event).toMatchObject({ stream: { bytesReceived: 64 * MIB, bytesSent: 64 * MIB } });
  });

  test('what the client sends before the 101 reaches Headscale after it, in order', async () => {
    let answer: (() => void) | undefined;
    let early = '';
    let atUpstream: Promise<Buffer> | undefined;
    const upstream = await harness.upstream((_request, socket, head) => {
      early = head.toString();
      socket.on('data', (chunk) => (early += chunk));
      answer = () => {
        socket.removeAllListeners('data');
        socket.write(SWITCHING);
        atUpstream = readAll(socket);
      };
    });
    const { port } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(`${upgradeHead('/other')}one `);
    // Our own questions to Headscale have sockets too.
    await until(() => answer !== undefined, 'the upgrade has come');
    client.write('two ');
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(early).toBe('');
    answer?.();
    expect(await readHead(client)).toMatch(/ 101 /);
    client.end('three');
    expect((await (atUpstream as Promise<Buffer>)).toString()).toBe('one two three');
  });

  test('if the reader does not read, the writer is slowed down, and memory stays bounded', async () => {
    let sent = 0;
    const upstream = await harness.upstream(
      switching((socket) => {
        const chunk = Buffer.alloc(MIB);
        const pump = (): void => {
          while (!socket.destroyed && socket.write(chunk)) sent += chunk.length;
          sent += chunk.length;
        };
        socket.on('drain', pump);
        pump();
      }),
    );
    const { port } = await harness.watchdog(upstream.url);
    const client = await harness.upgraded(port);
    client.pause();
    const before = process.memoryUsage().arrayBuffers;
    let last = -1;
    await until(async () => {
      const stalled = sent === last;
      last = sent;
      await new Promise((resolve) => setTimeout(resolve, 150));
      return stalled && sent > 0;
    }, 'the writer has stopped');
    // The kernel's buffers on four sockets take a few MiB; the watchdog's own take none worth naming.
    expect(sent).toBeLessThan(48 * MIB);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * MIB);
  });
});

describe('Tunnel, ends', () => {
  test("a client's FIN reaches Headscale, whose answer still reaches the client", async () => {
    const upstream = await harness.upstream(
      switching((socket) => {
        socket.on('end', () => socket.end('farewell'));
        socket.resume();
      }),
    );
    const { port, events } = await harness.watchdog(upstream.url);
    const client = await harness.upgraded(port);
    client.end('done');
    expect((await readAll(client)).toString()).toBe('farewell');
    expect(await closeReason(events)).toBe('client_closed');
    await until(() => upstream.sockets.size === 0, 'the upstream connection is closed');
  });

  test("Headscale's FIN reaches the client, and what the client still sends reaches Headscale", async () => {
    let atUpstream: Promise<Buffer> | undefined;
    const upstream = await harness.upstream(
      switching((socket) => {
        atUpstream = readAll(socket);
        socket.end('bye');
      }),
    );
    const { port, events } = await harness.watchdog(upstream.url);
    const client = await harness.upgraded(port);
    expect((await readAll(client)).toString()).toBe('bye');
    client.end('last words');
    expect((await (atUpstream as Promise<Buffer>)).toString()).toBe('last words');
    expect(await closeReason(events)).toBe('upstream_closed');
  });

  test("a client's reset resets the upstream connection", async () => {
    let error: NodeJS.ErrnoException | undefined;
    const upstream = await harness.upstream(
      switching((socket) => {
        socket.on('error', (raised) => (error = raised));
        socket.resume();
      }),
    );
    const { port, events } = await harness.watchdog(upstream.url);
    const client = await harness.upgraded(port);
    client.resetAndDestroy();
    await until(() => upstream.sockets.size === 0, 'the upstream connection is closed');
    expect(error?.code).toBe('ECONNRESET');
    expect(await closeReason(events)).toBe('client_error');
  });

  test("Headscale's reset resets the client's connection", async () => {
    const atUpstream: Socket[] = [];
    const upstream = await harness.upstream(switching((socket) => void atUpstream.push(socket)));
    const { port, events } = await harness.watchdog(upstream.url);
    const client = await harness.upgraded(port);
    let error: NodeJS.ErrnoException | undefined;
    client.on('error', (raised) => (error = raised));
    client.resume();
    atUpstream[0]?.resetAndDestroy();
    await closed(client);
    expect(error?.code).toBe('ECONNRESET');
    expect(await closeReason(events)).toBe('upstream_error');
  });

  test('if Headscale closes with unread bytes, which sends FIN and RST at once, nothing is left open', async () => {
    const atUpstream: Socket[] = [];
    const upstream = await harness.upstream(switching((socket) => void atUpstream.push(socket.pause())));
    const { port, events, watchdog } = await harness.watchdog(upstream.url);
    const clients = await Promise.all(Array.from({ length: 10 }, () => harness.upgraded(port)));
    for (const client of clients) client.resume().write(Buffer.alloc(8 * MIB));
    await new Promise((resolve) => setTimeout(resolve, 300));
    for (const socket of atUpstream) socket.end(() => socket.destroy());
    await until(() => atUpstream.every(({ destroyed }) => destroyed), 'Headscale has closed');
    for (const client of clients) client.destroy();
    await until(() => events.filter(({ kind }) => kind === 'stream_closed').length === 10, 'every stream is closed');
    await watchdog.close();
  });

  test('if a client leaves before the 101, its upstream connection closes too', async () => {
    const upstream = await harness.upstream((_request, socket) => {
      socket.on('error', () => {});
      socket.on('end', () => socket.end()).resume();
    });
    const { port, events } = await harness.watchdog(upstream.url);
    const client = harness.client(port);
    client.write(upgradeHead('/other'));
    await until(() => upstream.sockets.size === 1, 'the upgrade has come');
    client.end();
    await until(() => upstream.sockets.size === 0, 'the upstream connection is closed');
    expect(await closeReason(events)).toBe('client_left_early');
  });

  test('close() ends every stream', async () => {
    const upstream = await harness.upstream(switching((socket) => void socket.resume()));
    const { port, watchdog, events } = await harness.watchdog(upstream.url);
    const client = await harness.upgraded(port);
    client.on('end', () => client.end()).resume();
    await watchdog.close();
    await closed(client);
    expect(events).toContainEqual(expect.objectContaining({ kind: 'stream_closed', reason: 'shutdown' }));
  });
});
