import { readFileSync } from 'node:fs';
import { createServer as createHttpServer, type Server } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { expect } from 'vitest';
import { closed, type Harness, readHead, SWITCHING, upgradeHead } from './harness.ts';
import { Keystream, KeystreamCheck } from './keystream.ts';

const pem = (name: string): string => new URL(`./tls/${name}.pem`, import.meta.url).pathname;

/** What one side sends, and how it reads. */
export interface Side {
  readonly seed: number;
  readonly length: number;
  /** The sizes of its writes, over and over. */
  readonly writes: readonly number[];
  /** It rests for a turn of the loop after so many writes. */
  readonly burst: number;
  /** How many turns of the loop it does not read after each chunk; 0: it reads as fast as it can. */
  readonly restsReading: number;
  /** What it sends before it has seen the other side's head. */
  readonly early: number;
}

export interface Terms {
  readonly tlsListener: boolean;
  readonly tlsUpstream: boolean;
  readonly proxyHeader: 'none' | 'v1' | 'v2';
  readonly client: Side;
  readonly upstream: Side;
}

const PROXY_HEADERS = {
  none: Buffer.alloc(0),
  v1: Buffer.from('PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n'),
  v2: Buffer.from('0d0a0d0a000d0a515549540a2111000cc0000207c0000201c35001bb', 'hex'),
};

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** It has, or is closed. */
function hasDrained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const settle = (): void => {
      socket.off('drain', settle).off('close', settle);
      resolve();
    };
    socket.on('drain', settle).on('close', settle);
  });
}

/** Sends all that a side has to send, as it sends it, and ends. */
async function send(socket: Socket, { seed, length, writes, burst, early }: Side): Promise<void> {
  const bytes = new Keystream(seed);
  bytes.next(early);
  let left = length - early;
  for (let i = 0; left > 0 && !socket.destroyed; i++) {
    // Millions of tiny writes would say no more than hundreds.
    const size = Math.min(left, Math.max(writes[i % writes.length] as number, i < 300 ? 1 : 50_000));
    left -= size;
    const hasRoom = socket.write(bytes.next(size));
    if (!hasRoom) await hasDrained(socket);
    else if (i % burst === 0) await turn();
  }
  socket.end();
}

/** Reads to the end, as a side reads, what the other side sends. */
async function receive(socket: Socket, { restsReading }: Side, from: Side): Promise<object> {
  const check = new KeystreamCheck(from.seed);
  const ended = new Promise((resolve) => socket.once('end', resolve).once('close', resolve));
  socket.on('data', async (chunk: Buffer) => {
    check.feed(chunk);
    if (restsReading === 0) return;
    socket.pause();
    for (let i = 0; i < restsReading; i++) await turn();
    socket.resume();
  });
  await ended;
  const { received, wrong } = check;
  return { received, wrong };
}

/**
 * Passes both sides' bytes through one tunnel; certificates must not be checked, see `NODE_TLS_REJECT_UNAUTHORIZED`.
 *
 * @returns what came where, as `right` has it where all is well.
 */
export async function pass(
  harness: Harness,
  terms: Terms,
): Promise<{ readonly upstream: object; readonly client: object }> {
  const pair = { cert: readFileSync(pem('cert')), key: readFileSync(pem('key')) };
  const server: Server = terms.tlsUpstream ? createHttpsServer(pair) : createHttpServer();
  const atUpstream = new Promise<object>((resolve) => {
    server.on('upgrade', (_request, socket: Socket, head: Buffer) => {
      // A TLS server's are not, by themselves.
      socket.allowHalfOpen = true;
      socket.on('error', () => {});
      harness.defer(() => socket.destroy());
      if (head.length > 0) socket.unshift(head);
      const { upstream } = terms;
      socket.write(Buffer.concat([Buffer.from(SWITCHING), new Keystream(upstream.seed).next(upstream.early)]));
      void send(socket, upstream);
      resolve(receive(socket, upstream, terms.client));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  harness.defer(() => new Promise((resolve) => server.close(resolve)));
  const { port: upstreamPort } = server.address() as AddressInfo;
  const query = [
    ...(terms.tlsListener ? [`cert=${pem('cert')}`, `key=${pem('key')}`] : []),
    ...(terms.proxyHeader === 'none' ? [] : ['proxy-protocol=true']),
  ].join('&');
  const { port } = await harness.watchdog(`http${terms.tlsUpstream ? 's' : ''}://127.0.0.1:${upstreamPort}`, {
    listen: `http${terms.tlsListener ? 's' : ''}://127.0.0.1:0${query && `?${query}`}`,
    ...(terms.proxyHeader === 'none' ? {} : { trustedProxies: '127.0.0.1' }),
  });
  const raw = harness.client(port);
  if (terms.proxyHeader !== 'none') raw.write(PROXY_HEADERS[terms.proxyHeader]);
  const socket = terms.tlsListener ? connectTls({ socket: raw, rejectUnauthorized: false }) : raw;
  socket.allowHalfOpen = true;
  socket.on('error', () => {});
  const early = new Keystream(terms.client.seed).next(terms.client.early);
  socket.write(Buffer.concat([Buffer.from(upgradeHead('/other')), early]));
  expect(await readHead(socket)).toMatch(/^HTTP\/1\.1 101 /);
  const atClient = receive(socket, terms.client, terms.upstream);
  void send(socket, terms.client);
  const found = { upstream: await atUpstream, client: await atClient };
  socket.destroy();
  await closed(raw);
  return found;
}

export const right = ({ client, upstream }: Terms): object => ({
  upstream: { received: client.length, wrong: 0 },
  client: { received: upstream.length, wrong: 0 },
});
