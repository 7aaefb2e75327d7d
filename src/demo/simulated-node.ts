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

interface NodeClientListener {
  /** The server answered the map request with an empty 200. */
  refused(): void;
  /** The first message of the map stream has arrived. */
  accepted(): void;
  /** The connection failed, or could not be made. */
  lost(why: string): void;
}

const BACKOFF_STEP_MS = 10;
const MAX_BACKOFF_MS = 30_000;

/**
 * How long a client waits after a number of failures in a row, in milliseconds: 10 ms times the square of the number, at most
 * 30 s, plus or minus half. An empty 200 counts as a failure. Source: tailscale `util/backoff`, `control/controlclient/auto.go`.
 *
 * @param random from 0 to 1.
 */
export function backoffMs(failures: number, random: number): number {
  return Math.min(failures * failures * BACKOFF_STEP_MS, MAX_BACKOFF_MS) * (0.5 + random);
}

/** A node's control client. It connects, logs in, requests its map stream, and retries until it is ended or frozen. */
export class NodeClient {
  readonly #identity: NodeIdentity;
  readonly #serverUrl: URL;
  readonly #clock: Clock;
  readonly #listener: NodeClientListener;
  readonly #localAddress: string | undefined;
  /** Aborted by `end`: closes connections. */
  readonly #ended = new AbortController();
  /** Aborted by `end` and `freeze`: nothing new begins. */
  readonly #over = new AbortController();
  readonly #running: Promise<void>;
  #connection: NodeConnection | undefined;
  #failures = 0;

  /** @param localAddress the local address to connect from; by default the kernel chooses. */
  constructor(
    identity: NodeIdentity,
    serverUrl: URL,
    clock: Clock,
    listener: NodeClientListener,
    localAddress?: string,
  ) {
    this.#identity = identity;
    this.#serverUrl = serverUrl;
    this.#clock = clock;
    this.#listener = listener;
    this.#localAddress = localAddress;
    this.#running = this.#run();
  }

  /** The local port of the connection; undefined while there is no connection. */
  get localPort(): number | undefined {
    return this.#connection?.isOpen ? this.#connection.localPort : undefined;
  }

  /** Stops reading and writing. The connection stays open. */
  freeze(): void {
    this.#over.abort();
    this.#connection?.freeze();
  }

  /** Closes the connection, and resolves when everything has ended. */
  async end(): Promise<void> {
    this.#over.abort();
    this.#ended.abort();
    this.#connection?.close();
    await this.#running;
    // A connection that was being made at the time exists by now.
    this.#connection?.close();
    await this.#connection?.closed;
  }

  async #run(): Promise<void> {
    const over = this.#over.signal;
    while (!over.aborted) {
      try {
        await this.#tryOnce();
      } catch (error) {
        if (!over.aborted) this.#listener.lost(reasonOf(error));
      }
      await pause(this.#clock, backoffMs(++this.#failures, Math.random()), over);
    }
  }

  /** Requests the map stream, in the open session if there is one, and follows it to its end. */
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
interface Acceptance {
  readonly refusedTries: number;
  /** Time from the start or comeback to the first message of the map, in milliseconds. */
  readonly afterMs: number;
}

type SimulatedNodeState = 'stopped' | 'trying' | 'accepted' | 'frozen';

interface SimulatedNodeOptions {
  readonly name: string;
  /** Its keys. Default: new ones. */
  readonly identity?: NodeIdentity;
  /** The control server, or the proxy in front of it. */
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
 * A node that speaks the client's side of the control protocol over real sockets, as tailscaled 1.102.3 does. After a
 * refusal it tries again in the same Noise session.
 */
export class SimulatedNode {
  readonly name: string;
  readonly machineKey: MachineKey;
  readonly #identity: NodeIdentity;
  readonly #options: SimulatedNodeOptions;
  readonly #clock: Clock;
  readonly #frozen: NodeClient[] = [];
  #waiters: Waiter[] = [];
  #current: NodeClient | undefined;
  #state: SimulatedNodeState = 'stopped';
  #startedAt: Instant;
  #refusedTries = 0;
  #acceptance: Acceptance | undefined;

  constructor(options: SimulatedNodeOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#identity = options.identity ?? newNodeIdentity(options.name);
    this.#startedAt = this.#clock.now();
    this.name = options.name;
    this.machineKey = machineKeyOf(this.#identity.machine.publicRaw);
  }

  get state(): SimulatedNodeState {
    return this.#state;
  }

  /** How often the current client has been refused. */
  get refusedTries(): number {
    return this.#refusedTries;
  }

  /** Time since the current client started, in milliseconds. */
  get tryingMs(): number {
    return this.#clock.now() - this.#startedAt;
  }

  /** Connects for the first time. */
  start(): void {
    if (this.#current !== undefined) throw new Error(`${this.name} is ${this.#state}: it cannot start`);
    this.#begin();
  }

  /** Resolves when the current client is accepted. Rejects if it is frozen or stopped first. */
  async accepted(): Promise<Acceptance> {
    if (this.#acceptance !== undefined) return this.#acceptance;
    return await new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /**
   * Stops reading and writing but leaves the socket open. To the other end it looks like a device that hangs: its kernel
   * still acknowledges data, but nobody answers.
   */
  freeze(): void {
    if (this.#current === undefined) throw new Error(`${this.name} is ${this.#state}: it cannot freeze`);
    this.#current.freeze();
    this.#frozen.push(this.#current);
    this.#current = undefined;
    this.#leave('frozen');
  }

  /** Starts a new client with the same keys on a new connection, while the frozen one lingers. */
  comeBack(): void {
    if (this.#state !== 'frozen') throw new Error(`${this.name} is ${this.#state}: it cannot come back`);
    this.#begin();
  }

  /** Closes the sockets of the frozen clients, as such a device does when it reboots. */
  async dropFrozen(): Promise<void> {
    await Promise.all(this.#frozen.splice(0).map((client) => client.end()));
  }

  /** Ends everything cleanly (FIN), and resolves when all has ended. */
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
    this.#current = new NodeClient(this.#identity, this.#options.serverUrl, this.#clock, {
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
