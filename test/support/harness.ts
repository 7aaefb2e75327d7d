import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttpServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { startWatchdog, type Watchdog, type WatchdogOptions } from '../../src/app/watchdog.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/types.ts';
import type { NoiseKey } from '../../src/identity/noise.ts';
import type { WatchdogEvent } from '../../src/streams/events.ts';
import { createLogger } from '../../src/telemetry/log.ts';

/** What a test has opened; `closeAll` closes it in reverse order and checks that nothing is left. */
export class Harness {
  readonly #closers: (() => unknown)[] = [];

  /** Closes `close` at the end of the test. */
  defer(close: () => unknown): void {
    this.#closers.push(close);
  }

  async closeAll(): Promise<void> {
    for (const close of this.#closers.reverse()) await close();
    this.#closers.length = 0;
    await until(() => openSockets() === 0, 'all sockets and servers are closed').catch(() => undefined);
    expect(openSockets(), 'sockets and servers left open').toBe(0);
  }

  /** A new folder, for as long as the test lasts. */
  folder(): string {
    const folder = mkdtempSync(join(tmpdir(), 'headscale-watchdog-test-'));
    this.defer(() => rmSync(folder, { recursive: true, force: true }));
    return folder;
  }

  /** An upstream in Headscale's place. */
  async upstream(onUpgrade: OnUpgrade, onRequest: RequestListener = notFound): Promise<Upstream> {
    const server = createHttpServer(onRequest);
    const sockets = new Set<Socket>();
    server.on('connection', (socket) => {
      sockets.add(socket);
      // Node listens for no error of an upgraded connection.
      socket.on('error', () => {});
      socket.on('close', () => sockets.delete(socket));
    });
    server.on('upgrade', onUpgrade);
    const port = await listening(server);
    this.defer(() => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    });
    return { url: `http://127.0.0.1:${port}`, port, sockets, server };
  }

  /** A watchdog before `upstream`, with every event written down. */
  watchdog(
    upstream: string,
    flags: Record<string, unknown> = {},
    noiseKey?: NoiseKey,
    options: Partial<WatchdogOptions> = {},
  ): Promise<TestWatchdog> {
    const here = { listen: '127.0.0.1:0', admin: '127.0.0.1:0' };
    // Clients of a test come from the loopback, and are to be seen as those from elsewhere are.
    const config = loadConfig({ upstream, ...here, trustedProxies: 'none', ...flags });
    return this.watchdogOf(config, noiseKey, options);
  }

  async watchdogOf(
    config: Config,
    noiseKey: NoiseKey | undefined,
    options: Partial<WatchdogOptions> = {},
  ): Promise<TestWatchdog> {
    const log = await createLogger('silent', process.stdout);
    const watchdog = await startWatchdog(config, { noiseKey, log, ...options });
    const events: WatchdogEvent[] = [];
    watchdog.onEvent((event) => events.push(event));
    this.defer(() => watchdog.close());
    const port = watchdog.listenAddresses[0]?.port ?? 0;
    const admin = `http://127.0.0.1:${watchdog.adminAddress.port}`;
    return { watchdog, port, url: `http://127.0.0.1:${port}`, admin, events };
  }

  /** A raw client connection. */
  client(port: number): Socket {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => {});
    this.defer(() => socket.destroy());
    return socket;
  }

  /** A client whose upgrade has been answered with 101. */
  async upgraded(port: number, path = '/other'): Promise<Socket> {
    const socket = this.client(port);
    socket.write(upgradeHead(path));
    const head = await readHead(socket);
    expect(head).toMatch(/^HTTP\/1\.1 101 /);
    return socket;
  }
}

export interface Upstream {
  readonly url: string;
  readonly port: number;
  readonly sockets: ReadonlySet<Socket>;
  readonly server: Server;
}

export interface TestWatchdog {
  readonly watchdog: Watchdog;
  readonly port: number;
  readonly url: string;
  readonly admin: string;
  readonly events: readonly WatchdogEvent[];
}

export type OnUpgrade = (request: IncomingMessage, socket: Socket, head: Buffer) => void;

/** Accepts a stream as Headscale does, reads whatever comes, and ends it when the client does. */
export const acceptStream: OnUpgrade = (_request, socket) => {
  socket.on('end', () => socket.end()).resume();
  socket.write(SWITCHING);
};

const notFound: RequestListener = (_request, response) => response.writeHead(404).end();

export const SWITCHING = switching('tailscale-control-protocol');

export function switching(protocol: string): string {
  return `HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${protocol}\r\nConnection: Upgrade\r\n\r\n`;
}

export function upgradeHead(path: string, more = ''): string {
  return `POST ${path} HTTP/1.1\r\nHost: head.example\r\nUpgrade: tailscale-control-protocol\r\nConnection: Upgrade\r\nContent-Length: 0\r\n${more}\r\n`;
}

/** Reads up to the end of a response's head; what came behind it is put back. */
export async function readHead(socket: Socket): Promise<string> {
  let read = Buffer.alloc(0);
  for (;;) {
    const chunk = (await nextChunk(socket)) ?? Buffer.alloc(0);
    if (chunk.length === 0) return read.toString('latin1');
    read = Buffer.concat([read, chunk]);
    const end = read.indexOf('\r\n\r\n');
    if (end < 0) continue;
    if (read.length > end + 4) socket.unshift(read.subarray(end + 4));
    return read.subarray(0, end + 4).toString('latin1');
  }
}

/** All that comes until the peer's FIN or the end of the connection. */
export async function readAll(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for (;;) {
    const chunk = await nextChunk(socket);
    if (chunk === undefined) return Buffer.concat(chunks);
    chunks.push(chunk);
  }
}

/** The next bytes; undefined when the peer has ended or the connection has closed. */
function nextChunk(socket: Socket): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const attempt = (): void => {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null && !socket.readableEnded && !socket.destroyed) return;
      for (const event of ['readable', 'end', 'close']) socket.off(event, attempt);
      resolve(chunk ?? undefined);
    };
    for (const event of ['readable', 'end', 'close']) socket.on(event, attempt);
    attempt();
  });
}

/** @throws when it has not come true within `withinMs`: that it hangs, not that it is slow. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  withinMs = 60_000,
): Promise<void> {
  const deadline = performance.now() + withinMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited ${withinMs} ms in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Why the one stream of a test closed, once it has. */
export async function closeReason(events: readonly WatchdogEvent[]): Promise<string | undefined> {
  await until(() => events.some(({ kind }) => kind === 'stream_closed'), 'the stream is closed');
  return events.flatMap((event) => (event.kind === 'stream_closed' ? [event.reason] : []))[0];
}

export function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.closed) resolve();
    else socket.once('close', () => resolve());
  });
}

function listening(server: Server): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
  });
}

function openSockets(): number {
  return process.getActiveResourcesInfo().filter((name) => /^TCP|^TLS/.test(name)).length;
}
