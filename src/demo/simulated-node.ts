import { type MachineKey, machineKeyOf } from '../identity/keys.ts';
import { type Clock, type Instant, pause, systemClock } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';
import {
  followMap,
  logIn,
  type NodeConnection,
  type NodeIdentity,
  newNodeIdentity,
  openNodeConnection,
} from './node-connection.ts';

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

/** How a node got its map stream. */
export interface Acceptance {
  readonly refusedTries: number;
  /** From the start of this client, or its comeback, to the first message of its map, in milliseconds. */
  readonly afterMs: number;
}

export type SimulatedNodeState = 'stopped' | 'trying' | 'accepted' | 'frozen';

export interface SimulatedNodeOptions {
  readonly name: string;
  /** The control server, or the proxy before it. */
  readonly serverUrl: URL;
  readonly clock?: Clock;
  readonly onRefused?: (node: SimulatedNode) => void;
  readonly onAccepted?: (node: SimulatedNode, acceptance: Acceptance) => void;
  readonly onLost?: (node: SimulatedNode, why: string) => void;
}

interface Waiter {
  resolve(acceptance: Acceptance): void;
  reject(error: Error): void;
}

/**
 * A node that speaks the client's side of the control protocol over real sockets, as tailscaled 1.102.3 does:
 * refused, it tries again in the same Noise session.
 */
export class SimulatedNode {
  readonly name: string;
  readonly machineKey: MachineKey;
  readonly #identity: NodeIdentity;
  readonly #options: SimulatedNodeOptions;
  readonly #clock: Clock;
  readonly #frozen: NodePresence[] = [];
  #waiters: Waiter[] = [];
  #current: NodePresence | undefined;
  #state: SimulatedNodeState = 'stopped';
  #startedAt: Instant;
  #refusedTries = 0;
  #acceptance: Acceptance | undefined;

  constructor(options: SimulatedNodeOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#identity = newNodeIdentity(options.name);
    this.#startedAt = this.#clock.now();
    this.name = options.name;
    this.machineKey = machineKeyOf(this.#identity.machine.publicRaw);
  }

  get state(): SimulatedNodeState {
    return this.#state;
  }

  /** How often the client of now has been refused. */
  get refusedTries(): number {
    return this.#refusedTries;
  }

  /** Since the client of now started, in milliseconds. */
  get tryingMs(): number {
    return this.#clock.now() - this.#startedAt;
  }

  /** Connects for the first time. */
  start(): void {
    if (this.#current !== undefined) throw new Error(`${this.name} is ${this.#state}: it cannot start`);
    this.#begin();
  }

  /** How the client of now was accepted, as soon as it is. Rejects when it is frozen or stopped before. */
  async accepted(): Promise<Acceptance> {
    if (this.#acceptance !== undefined) return this.#acceptance;
    return await new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /**
   * Stops reading and writing; the socket stays open. To the other end it is a device that got stuck: its kernel still
   * acknowledges, nobody answers.
   */
  freeze(): void {
    if (this.#current === undefined) throw new Error(`${this.name} is ${this.#state}: it cannot freeze`);
    this.#current.freeze();
    this.#frozen.push(this.#current);
    this.#current = undefined;
    this.#leave('frozen');
  }

  /** A new client with the same keys on a fresh connection, while the frozen one lingers. */
  comeBack(): void {
    if (this.#state !== 'frozen') throw new Error(`${this.name} is ${this.#state}: it cannot come back`);
    this.#begin();
  }

  /** Closes the sockets of the frozen clients: what the kernel of such a device does when it reboots. */
  async dropFrozen(): Promise<void> {
    await Promise.all(this.#frozen.splice(0).map((presence) => presence.end()));
  }

  /** Ends everything cleanly (FIN), and resolves when nothing is left. */
  async stop(): Promise<void> {
    const current = this.#current;
    this.#current = undefined;
    this.#leave('stopped');
    await Promise.all([current?.end(), this.dropFrozen()]);
  }

  #begin(): void {
    this.#state = 'trying';
    this.#startedAt = this.#clock.now();
    this.#refusedTries = 0;
    this.#acceptance = undefined;
    this.#current = new NodePresence(this.#identity, this.#options.serverUrl, this.#clock, {
      refused: () => {
        this.#refusedTries++;
        this.#options.onRefused?.(this);
      },
      accepted: () => {
        const acceptance = { refusedTries: this.#refusedTries, afterMs: this.tryingMs };
        this.#state = 'accepted';
        this.#acceptance = acceptance;
        for (const { resolve } of this.#waiters.splice(0)) resolve(acceptance);
        this.#options.onAccepted?.(this, acceptance);
      },
      lost: (why) => {
        this.#state = 'trying';
        this.#options.onLost?.(this, why);
      },
    });
  }

  #leave(state: 'frozen' | 'stopped'): void {
    this.#state = state;
    this.#acceptance = undefined;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const { reject } of waiters) reject(new Error(`${this.name} was ${state} before it was accepted`));
  }
}
