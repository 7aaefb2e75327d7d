import type { Server } from 'node:http';
import type { Clock, Timer } from '../lib/clock.ts';
import type { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import { closeAfter } from '../proxy/answer.ts';
import type { ClientListener } from '../proxy/listener.ts';
import type { Emit } from '../streams/events.ts';

export interface ShutdownParts {
  readonly clock: Clock;
  readonly emit: Emit;
  readonly acceptor: StreamAcceptor;
  /** For clients. */
  readonly listeners: readonly Pick<ClientListener, 'server' | 'unanswered' | 'connections'>[];
  /** Over how long streams are ended now; 0: at once. */
  drainTerms(): DrainTerms;
  /** Closes all that has no socket of a client's. */
  closeRest(): Promise<unknown>;
}

export interface DrainTerms {
  readonly overMs: number;
  /** Whether clients wait in a socket that is not ours, so that it is shorter than was set. */
  readonly isShortened: boolean;
}

/**
 * A client gives up on a connection that nobody answers after ten seconds. In an inherited socket it waits until our
 * successor accepts, and that starts only after us: half of the time is for the drain, half for the start.
 */
const LONGEST_WHILE_CLIENTS_WAIT_MS = 5000;

export function drainTermsOf(drainMs: number, hasInherited: boolean): DrainTerms {
  const isShortened = hasInherited && drainMs > LONGEST_WHILE_CLIENTS_WAIT_MS;
  return { overMs: isShortened ? LONGEST_WHILE_CLIENTS_WAIT_MS : drainMs, isShortened };
}

/** `drain: off` is about streams: who is about to be answered is. */
const LEAST_FOR_REQUESTS_MS = 1000;

const LOOK_FOR_IDLE_MS = 250;

/** The way down: stop accepting, end the streams evenly, then close all that is left. */
export class Shutdown {
  readonly #parts: ShutdownParts;
  #admin: Server | undefined;
  #stopped: Promise<unknown> | undefined;
  #closed: Promise<void> | undefined;
  #isDraining = false;
  #timer: Timer | undefined;

  constructor(parts: ShutdownParts) {
    this.#parts = parts;
    for (const { server } of parts.listeners) {
      // First of all: who answers may do so at once.
      server.prependListener('request', (_request, response) => {
        if (this.#isDraining) closeAfter(response);
      });
    }
  }

  /** The admin server answers until the end, so that operators can watch the drain. */
  closeLast(admin: Server): void {
    this.#admin = admin;
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }

  /**
   * Stops accepting, ends the streams evenly over the drain and lets requests finish within it, then closes.
   * `close` in the middle of it ends it now.
   */
  async drain(): Promise<void> {
    const { clock, emit, acceptor, listeners } = this.#parts;
    const startedAt = clock.now();
    const { overMs, isShortened } = this.#parts.drainTerms();
    this.#isDraining = true;
    for (const { unanswered } of listeners) {
      for (const [, response] of unanswered.all()) closeAfter(response);
    }
    emit({ kind: 'drain_started', streams: acceptor.size, overMs, isShortened });
    const stopped = this.#stopListening();
    this.#endIdle();
    await new Promise<void>((resolve) => {
      const end = clock.after(Math.max(overMs, LEAST_FOR_REQUESTS_MS), resolve);
      void Promise.all([stopped, acceptor.drain(overMs)]).then(() => {
        end.cancel();
        resolve();
      });
    });
    await this.close();
    emit({ kind: 'drain_ended', tookMs: clock.now() - startedAt });
  }

  /** Ends all there is now; resolves when nothing is left open. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { acceptor, listeners, closeRest } = this.#parts;
    this.#timer?.cancel();
    const closed = Promise.all([this.#stopListening(), this.#admin && closeServer(this.#admin)]);
    this.#admin?.closeAllConnections();
    // A stream's upstream connection goes first, as it always does.
    await acceptor.end();
    for (const { connections } of listeners) connections.endAll();
    await Promise.all([closed, closeRest()]);
  }

  #stopListening(): Promise<unknown> {
    this.#stopped ??= Promise.all(this.#parts.listeners.map(({ server }) => closeServer(server)));
    return this.#stopped;
  }

  /** A connection that has been answered would otherwise stay until the end, for another request or for its client to leave. */
  #endIdle(): void {
    for (const { server, connections } of this.#parts.listeners) {
      server.closeIdleConnections();
      connections.endAnswered();
    }
    if (this.#closed === undefined) this.#timer = this.#parts.clock.after(LOOK_FOR_IDLE_MS, () => this.#endIdle());
  }
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    if (server.listening) server.close(() => resolve());
    else resolve();
  });
}
