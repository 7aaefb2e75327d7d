import { spawn } from 'node:child_process';
import { type Harness, until } from './harness.ts';
import { CLI, freePort } from './process.ts';

export interface Unit {
  /** Of the sockets to hold, on 127.0.0.1; 0: any. */
  readonly ports?: readonly number[];
  /** LISTEN_FDNAMES. */
  readonly names?: string;
  /** NOTIFY_SOCKET: a path, or `@name`. */
  readonly notify?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** What follows `headscale-watchdog`, once it is known which ports there are. */
  args(ports: readonly number[]): readonly string[];
}

/** A stand-in for systemd with one service. */
export class ServiceManager {
  readonly ports: readonly number[];
  /** What it was told by sd_notify. */
  readonly notified: string[] = [];
  readonly ended = new Map<number, number>();
  /** What its service has written, log and all. */
  output = '';
  #pid: number | undefined;
  #isBound = false;
  readonly #say: (line: string) => void;

  private constructor(ports: readonly number[], say: (line: string) => void) {
    this.ports = ports;
    this.#say = say;
  }

  static async with(harness: Harness, unit: Unit): Promise<ServiceManager> {
    const { ports = [], names, notify, env } = unit;
    const script = new URL('service-manager.py', import.meta.url).pathname;
    // The ports are chosen first, since the command names them.
    const chosen = await Promise.all(ports.map((port) => (port === 0 ? freePort() : port)));
    const command = [process.execPath, CLI, ...unit.args(chosen)];
    const child = spawn('python3', [script, JSON.stringify({ ports: chosen, names, notify, env, command })]);
    const manager = new ServiceManager(chosen, (line) => void child.stdin.write(`${line}\n`));
    const closed = new Promise((resolve) => child.on('close', resolve));
    let heard = '';
    child.stdout.on('data', (chunk) => {
      heard += chunk;
      const lines = heard.split('\n');
      heard = lines.pop() ?? '';
      for (const line of lines) manager.#heard(line);
    });
    child.stderr.on('data', (chunk) => {
      manager.output += chunk;
    });
    const bound = until(() => manager.#isBound, 'its sockets are bound');
    harness.defer(() => {
      manager.#kill('SIGKILL');
      child.kill('SIGKILL');
      return closed;
    });
    await bound;
    return manager;
  }

  /** Starts the service. @returns its process id. */
  async start(): Promise<number> {
    const before = this.#pid;
    this.#say('start');
    await until(() => this.#pid !== before, 'the service is started');
    return this.#pid as number;
  }

  /** Starts the service and waits until it listens. @returns its process id. */
  async started(): Promise<number> {
    const before = this.listenings;
    const pid = await this.start();
    await until(() => this.listenings > before, 'it listens', 15_000);
    return pid;
  }

  get listenings(): number {
    return this.output.split('"msg":"listening"').length - 1;
  }

  /** @returns its exit code. */
  async end(pid: number, withinMs = 15_000): Promise<number | undefined> {
    await until(() => this.ended.has(pid), 'the service has ended', withinMs);
    return this.ended.get(pid);
  }

  #heard(line: string): void {
    const [what, first, second] = line.split(' ');
    if (what === 'ports') this.#isBound = true;
    else if (what === 'started') this.#pid = Number(first);
    else if (what === 'ended') this.ended.set(Number(first), Number(second));
    else if (what === 'notify') this.notified.push(JSON.parse(line.slice('notify '.length)) as string);
  }

  #kill(signal: NodeJS.Signals): void {
    if (this.#pid !== undefined && !this.ended.has(this.#pid)) process.kill(this.#pid, signal);
  }
}
