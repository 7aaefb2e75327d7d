import { request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Child } from './child.ts';
import { type Host, onHost } from './network.ts';
import { until } from './wait.ts';

export interface Answer {
  readonly status: number;
  readonly body: string;
}

/** Connects from outside to what listens on a host; see window.ts. */
export class Reach {
  readonly #socketPath: string;

  private constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  static async into(
    host: Host,
    directory: string,
    start: (name: string, ...command: readonly [string, readonly string[]]) => Child,
  ): Promise<Reach> {
    const socketPath = join(directory, `${host.name}.window`);
    const program = join(import.meta.dirname, 'window.ts');
    const child = start(
      `window of ${host.name}`,
      ...onHost(host, process.execPath, '--import', 'tsx', program, socketPath),
    );
    await until('opening a window', { timeoutMs: 60_000, giveUp: () => ended(child) }, () => probe(socketPath));
    return new Reach(socketPath);
  }

  connect(target: string): Socket {
    const socket = connect({ path: this.#socketPath });
    socket.write(`${target}\n`);
    return socket;
  }

  get(target: string, path: string, headers: Record<string, string> = {}): Promise<Answer> {
    return ask({
      method: 'GET',
      path,
      headers: { host: target, ...headers },
      createConnection: () => this.connect(target),
    });
  }
}

/** @returns why there is no point in waiting for `child`. */
export function ended(child: Child): string | undefined {
  return child.alive ? undefined : child.tail();
}

export interface Question {
  readonly method: string;
  readonly path: string;
  readonly headers: Record<string, string>;
  readonly body?: string;
  readonly createConnection: () => Socket;
}

/** One HTTP request, on a connection of its own. */
export function ask({ body, ...options }: Question): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ ...options, timeout: 2_000 }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() }));
    });
    outgoing.on('timeout', () =>
      outgoing.destroy(new Error(`${options.method} ${options.path}: no answer within 2 s`)),
    );
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

function probe(socketPath: string): Promise<true> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path: socketPath });
    socket.on('error', reject);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });
}
