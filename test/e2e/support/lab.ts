import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { Child } from './child.ts';
import { type Host, Network } from './network.ts';
import { Reach } from './reach.ts';
import { currentRun } from './run.ts';

/** Below it are those of the control servers. */
const FIRST_PORT = 8100;

/** The hosts, processes and files of one group of tests, made before it and removed after it. */
export class Lab {
  readonly network: Network;
  /** Where control servers and watchdogs run. */
  readonly server: Host;
  readonly reach: Reach;
  readonly #directory: string;
  readonly #children: Child[];
  /** What phones trust that are made from here on, beside the system's authorities. */
  caFile: string | undefined;
  #nextPort = FIRST_PORT;

  private constructor(network: Network, server: Host, reach: Reach, directory: string, children: Child[]) {
    this.network = network;
    this.server = server;
    this.reach = reach;
    this.#directory = directory;
    this.#children = children;
  }

  static async open(): Promise<Lab> {
    const directory = mkdtempSync(join(tmpdir(), `${currentRun()}-`));
    const network = await Network.create(directory.slice(tmpdir().length + 1));
    const children: Child[] = [];
    const server = await network.addHost('server');
    const reach = await Reach.into(server, directory, (name, command, args) => {
      const child = new Child(name, command, args);
      children.push(child);
      return child;
    });
    return new Lab(network, server, reach, directory, children);
  }

  start(name: string, [command, args]: readonly [string, readonly string[]], env: NodeJS.ProcessEnv = {}): Child {
    const child = new Child(name, command, args, env);
    this.#children.push(child);
    return child;
  }

  /** A port of the lab's server that nobody else was given. */
  port(): number {
    return this.#nextPort++;
  }

  folder(name: string): string {
    const path = join(this.#directory, name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  /** What every process said last, least those that are gone, for whoever has to find out why a test failed. */
  report(): string {
    return this.#children.map((child) => child.tail(child.alive ? 30 : 3)).join('\n');
  }

  async close(): Promise<void> {
    const ended = Promise.all(this.#children.map((child) => child.end('SIGKILL')));
    // What a program has started itself, as Apache does, holds the program's output open until its namespace is emptied.
    await this.network.close();
    await ended;
    rmSync(this.#directory, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** A lab for the tests of the enclosing `describe`. */
export function useLab(): { readonly lab: Lab } {
  let lab: Lab | undefined;
  beforeAll(async () => {
    lab = await Lab.open();
  });
  afterEach(({ task }) => {
    if (task.result?.state === 'fail') process.stderr.write(`${lab?.report() ?? ''}\n`);
  });
  afterAll(() => lab?.close());
  return {
    get lab() {
      if (lab === undefined) throw new Error('The lab is open only while tests run');
      return lab;
    },
  };
}
