import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from './process.ts';

/** A Redis of a test's own, in memory alone. */
export class RedisServer {
  readonly port: number;
  readonly #folder = mkdtempSync(join(tmpdir(), 'redis-'));
  readonly #more: readonly string[];
  #process: ChildProcess | undefined;

  constructor(port: number, more: readonly string[] = []) {
    this.port = port;
    this.#more = more;
  }

  /** @param more settings of redis-server, as it takes them on its command line; `--sentinel` among them makes it one. */
  static async start(more: readonly string[] = []): Promise<RedisServer> {
    const redis = new RedisServer(await freePort(), more);
    await redis.start();
    return redis;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    // A sentinel writes down there what it learns.
    const file = join(this.#folder, 'redis.conf');
    writeFileSync(file, `port ${this.port}\nbind 127.0.0.1\nsave ""\ndir ${this.#folder}\n`);
    const child = spawn('redis-server', [file, ...this.#more], { stdio: 'ignore' });
    this.#process = child;
    const failed = once(child, 'error').then(([error]) => Promise.reject(error));
    await Promise.race([this.#accepts(), failed]);
  }

  /** As an outage does: no goodbye. */
  async kill(): Promise<void> {
    await this.#stop('SIGKILL');
  }

  /** It neither answers nor closes anything. */
  freeze(): void {
    this.#process?.kill('SIGSTOP');
  }

  thaw(): void {
    this.#process?.kill('SIGCONT');
  }

  /** Sends a command as one would type it, and returns the whole answer. */
  command(...words: readonly string[]): Promise<string> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.port, '127.0.0.1');
      socket.on('error', reject);
      const bulk = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('');
      socket.write(`*${words.length}\r\n${bulk}`);
      let text = '';
      socket.on('data', (chunk) => {
        text += chunk;
        clearTimeout(quiet);
        quiet = setTimeout(() => socket.end(), 50);
      });
      let quiet: NodeJS.Timeout | undefined;
      socket.on('close', () => resolve(text));
    });
  }

  async close(): Promise<void> {
    this.thaw();
    await this.#stop('SIGKILL');
    rmSync(this.#folder, { recursive: true });
  }

  async #stop(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const closed = once(child, 'close');
    child.kill(signal);
    await closed;
  }

  async #accepts(): Promise<void> {
    for (;;) {
      const pong = await this.command('PING').catch(() => '');
      if (pong.startsWith('+PONG') || pong.startsWith('-NOAUTH')) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
