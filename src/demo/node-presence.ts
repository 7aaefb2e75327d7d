import type { Clock } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';
import { followMap, logIn, type NodeIdentity } from './map-client.ts';
import { type NodeConnection, openNodeConnection } from './node-connection.ts';
import { pause } from './pause.ts';

export interface PresenceListener {
  /** The map request was answered with an empty 200. */
  refused(): void;
  /** The first message of a map stream has come. */
  accepted(): void;
  /** The connection, or the try to make one, failed. */
  lost(why: string): void;
}

const STEP_MS = 10;
const LONGEST_PAUSE_MS = 30_000;

/**
 * How long a client waits after its `failures`-th failure in a row: 10 ms times the square, 30 s at most, give or take a half
 * (tailscale `util/backoff`, as `control/controlclient/auto.go` uses it). An empty 200 is such a failure.
 *
 * @param random from 0 to 1.
 */
export function pauseAfter(failures: number, random: number): number {
  return Math.min(failures * failures * STEP_MS, LONGEST_PAUSE_MS) * (0.5 + random);
}

/** One life of a node's control client: it connects, logs in, asks for its map stream, and does not give up. */
export class NodePresence {
  readonly #identity: NodeIdentity;
  readonly #serverUrl: URL;
  readonly #clock: Clock;
  readonly #listener: PresenceListener;
  readonly #localAddress: string | undefined;
  /** Aborted by `end`: connections are given up. */
  readonly #ended = new AbortController();
  /** Aborted by `end` and by `freeze`: nothing new begins. */
  readonly #over = new AbortController();
  readonly #life: Promise<void>;
  #connection: NodeConnection | undefined;
  #failures = 0;

  /** @param localAddress of this machine, from which it connects; by default the kernel chooses. */
  constructor(identity: NodeIdentity, serverUrl: URL, clock: Clock, listener: PresenceListener, localAddress?: string) {
    this.#identity = identity;
    this.#serverUrl = serverUrl;
    this.#clock = clock;
    this.#listener = listener;
    this.#localAddress = localAddress;
    this.#life = this.#live();
  }

  /** This side's port of the connection; undefined while there is none. */
  get localPort(): number | undefined {
    return this.#connection?.isOpen ? this.#connection.localPort : undefined;
  }

  /** Neither reads nor writes from now on; the connection stays open. */
  freeze(): void {
    this.#over.abort();
    this.#connection?.freeze();
  }

  /** Closes the connection, and resolves when nothing is left. */
  async end(): Promise<void> {
    this.#over.abort();
    this.#ended.abort();
    this.#connection?.close();
    await this.#life;
    // One that was being made at the time has come into being by now.
    this.#connection?.close();
    await this.#connection?.closed;
  }

  async #live(): Promise<void> {
    const over = this.#over.signal;
    while (!over.aborted) {
      try {
        await this.#tryOnce();
      } catch (error) {
        if (!over.aborted) this.#listener.lost(reasonOf(error));
      }
      await pause(this.#clock, pauseAfter(++this.#failures, Math.random()), over);
    }
  }

  /** Asks for the map stream, in the session there is, and follows it to its end. */
  async #tryOnce(): Promise<void> {
    const over = this.#over.signal;
    if (this.#connection === undefined || !this.#connection.isOpen) {
      const { machine } = this.#identity;
      this.#connection = await openNodeConnection(this.#serverUrl, machine, this.#ended.signal, this.#localAddress);
      if (over.aborted) this.#connection.freeze();
      else await logIn(this.#connection, this.#identity);
    }
    if (over.aborted) return;
    const messages = await followMap(this.#connection, this.#identity, () => {
      this.#failures = 0;
      this.#listener.accepted();
    });
    if (messages === 0 && !over.aborted) this.#listener.refused();
  }
}
