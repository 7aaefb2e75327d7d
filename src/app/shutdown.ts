import type { Server } from 'node:http';
import type { AdminServer } from '../admin/server.ts';
import { atMost, type Clock, type Timer } from '../lib/clock.ts';
import type { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import { closeAfter } from '../proxy/answer.ts';
import type { ClientListener } from '../proxy/listener.ts';
import type { Emit } from '../streams/events.ts';

export interface ShutdownOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  readonly acceptor: StreamAcceptor;
  /** The servers that clients connect to. */
  readonly listeners: readonly Pick<ClientListener, 'server' | 'unanswered' | 'connections'>[];
  /** Read when the drain begins, because a reload may have changed them. */
  drainTerms(): DrainTerms;
  /** Closes everything else: the parts that hold no client's socket. */
  closeRest(): Promise<unknown>;
}

export interface DrainTerms {
  /** The ends of the streams are spread evenly over this time; 0: all end at once. */
  readonly overMs: number;
  /** Whether it is shorter than `--drain`, because new clients wait in an inherited socket meanwhile. */
  readonly isShortened: boolean;
}

/**
 * In an inherited socket, a new client waits until the next process accepts it, and that process starts only after we have
 * ended. A client gives up after ten seconds. Half of that is for our drain, half for the next start.
 */
const LONGEST_WHILE_CLIENTS_WAIT_MS = 5000;

export function drainTermsOf(drainMs: number, hasInherited: boolean): DrainTerms {
  const isShortened = hasInherited && drainMs > LONGEST_WHILE_CLIENTS_WAIT_MS;
  return { overMs: isShortened ? LONGEST_WHILE_CLIENTS_WAIT_MS : drainMs, isShortened };
}

/** Requests get at least this long to finish, even with `drain: off`, which only concerns streams. */
const LEAST_FOR_REQUESTS_MS = 1000;

const LOOK_FOR_IDLE_MS = 250;

/** Stops a watchdog. SIGTERM drains it; a second signal calls `close`, which ends everything at once. */
export class Shutdown {
  readonly #options: ShutdownOptions;
  #admin: AdminServer | undefined;
  #stopped: Promise<unknown> | undefined;
  #closed: Promise<void> | undefined;
  #isDraining = false;
  /** What ends streams. */
  #reason: 'shutdown' | 'not_handed_over' = 'shutdown';
  #onStop: () => void = () => {};
  #timer: Timer | undefined;

  constructor(options: ShutdownOptions) {
    this.#options = options;
    for (const { server } of options.listeners) {
      // Before all other listeners, because they may answer at once.
      server.prependListener('request', (_request, response) => {
        if (this.#isDraining) closeAfter(response);
      });
    }
  }

  /** The admin server answers until the end, so that operators can watch the drain. */
  closeLast(admin: AdminServer): void {
    this.#admin = admin;
  }

  /** @param act is called when the watchdog begins to stop. */
  onStop(act: () => void): void {
    this.#onStop = act;
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }

  /**
   * Stops accepting and ends the streams evenly over the drain. Requests may finish meanwhile. Then it closes everything.
   * A call of `close` cuts the drain short.
   */
  async drain(): Promise<void> {
    const { clock, emit, acceptor } = this.#options;
    const startedAt = clock.now();
    const { overMs, isShortened } = this.#options.drainTerms();
    this.#onStop();
    this.#beginDraining();
    emit({ kind: 'drain_started', streams: acceptor.size, overMs, isShortened });
    const stopped = this.#stopListening();
    this.#endIdle();
    const ended = Promise.all([stopped, acceptor.drain(overMs)]);
    await atMost(clock, Math.max(overMs, LEAST_FOR_REQUESTS_MS), ended);
    await this.close();
    emit({ kind: 'drain_ended', tookMs: clock.now() - startedAt });
  }

  /**
   * A new process listens now. Whatever could not go there may end by itself, until `overMs` have passed. The streams that can
   * never go end evenly over that time.
   */
  async leave(overMs: number): Promise<void> {
    const { clock, acceptor } = this.#options;
    this.#reason = 'not_handed_over';
    this.#beginDraining();
    const stopped = Promise.all([this.#stopListening(), this.#admin && closeServer(this.#admin)]);
    this.#admin?.endLive();
    this.#endIdle();
    const draining = acceptor.drain(overMs, ({ tunnel }) => tunnel.staysBecause === 'tls', this.#reason);
    const ended = Promise.all([stopped, draining]);
    await atMost(clock, Math.max(overMs, LEAST_FOR_REQUESTS_MS), ended);
    await this.close();
  }

  #beginDraining(): void {
    this.#isDraining = true;
    for (const { unanswered } of this.#options.listeners) {
      for (const [, response] of unanswered.all()) closeAfter(response);
    }
  }

  /** Closes everything now. Resolves when nothing is left open. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { acceptor, listeners, closeRest } = this.#options;
    this.#onStop();
    this.#timer?.cancel();
    const closed = Promise.all([this.#stopListening(), this.#admin && closeServer(this.#admin)]);
    this.#admin?.closeAllConnections();
    // Streams first: each closes its upstream connection before the client's.
    await acceptor.end(this.#reason);
    for (const { connections } of listeners) connections.endAll();
    await Promise.all([closed, closeRest()]);
  }

  #stopListening(): Promise<unknown> {
    this.#stopped ??= Promise.all(this.#options.listeners.map(({ server }) => closeServer(server)));
    return this.#stopped;
  }

  /** Closes connections that only wait for another request. Otherwise they would stay open until the end of the drain. */
  #endIdle(): void {
    for (const { server, connections } of this.#options.listeners) {
      server.closeIdleConnections();
      connections.endAnswered();
    }
    if (this.#closed === undefined) this.#timer = this.#options.clock.after(LOOK_FOR_IDLE_MS, () => this.#endIdle());
  }
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    if (server.listening) server.close(() => resolve());
    else resolve();
  });
}
