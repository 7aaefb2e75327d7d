import { setTimeout as delay } from 'node:timers/promises';
import {
  followMap,
  logIn,
  type NodeConnection,
  type NodeIdentity,
  newNodeIdentity,
  openNodeConnection,
} from '../../../src/demo/node-connection.ts';
import type { ContestsReport } from './contestants.ts';

/**
 * Many nodes on one host, each with a key of its own, and contests of each with itself: in every round a node that has
 * been quiet for a while opens a second stream beside the one it has, keeps both for as long as the watchdog asks about
 * the old one, and then wants an answer on both. It goes on with the newer one.
 *
 *     contestants-main.ts URL NODES ROUNDS QUIET_MS
 *
 * Says in one line of JSON how it went, a `ContestsReport`, and stays until it is ended.
 */

/** 1.5 s eagerly, 10 s calmly, and a little. */
const ASKED_ABOUT_MS = 12_500;
/** The nodes do not come all at once. */
const SPREAD_MS = 2_000;
const ANSWERS_WITHIN_MS = 45_000;

class Contestant {
  readonly #identity: NodeIdentity;
  readonly #url: URL;
  readonly #comesAfterMs: number;
  #current: NodeConnection | undefined;

  constructor(name: string, url: URL, comesAfterMs: number) {
    this.#identity = newNodeIdentity(name);
    this.#url = url;
    this.#comesAfterMs = comesAfterMs;
  }

  async start(): Promise<void> {
    await delay(this.#comesAfterMs);
    this.#current = await this.#open();
  }

  /** @returns whether both streams have outlived it, undefined where there were no two. */
  async contest(): Promise<boolean | undefined> {
    const old = this.#current;
    await delay(this.#comesAfterMs);
    if (old === undefined || !old.isOpen) return undefined;
    const newcomer = await this.#open();
    await delay(ASKED_ABOUT_MS);
    const alive = await Promise.all([this.#answers(old), this.#answers(newcomer)]);
    old.close();
    this.#current = newcomer;
    return !alive.includes(false);
  }

  async #open(): Promise<NodeConnection> {
    const connection = await openNodeConnection(this.#url, this.#identity.machine, AbortSignal.timeout(60_000));
    await logIn(connection, this.#identity);
    await new Promise<void>((resolve, reject) => {
      followMap(connection, this.#identity, resolve).catch(reject);
    });
    return connection;
  }

  async #answers(connection: NodeConnection): Promise<boolean> {
    const answered = logIn(connection, this.#identity).then(
      () => true,
      () => false,
    );
    return Promise.race([answered, delay(ANSWERS_WITHIN_MS, false)]);
  }
}

async function main([url = '', nodes = '', rounds = '', quietMs = '']: readonly string[]): Promise<void> {
  const contestants = Array.from({ length: Number(nodes) }, (_, i) => {
    return new Contestant(`contestant-${i}`, new URL(url), (i / Number(nodes)) * SPREAD_MS);
  });
  await Promise.all(contestants.map((each) => each.start()));
  const results: (boolean | undefined)[] = [];
  for (let round = 0; round < Number(rounds); round++) {
    await delay(Number(quietMs));
    results.push(...(await Promise.all(contestants.map((each) => each.contest()))));
  }
  const report: ContestsReport = {
    contests: results.filter((result) => result !== undefined).length,
    bothAlive: results.filter((result) => result === true).length,
  };
  process.stdout.write(`${JSON.stringify(report)}\n`);
}

await main(process.argv.slice(2));
