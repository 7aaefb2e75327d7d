import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import { type Happening, type History, type HistoryQuery, matches } from '../history/history.ts';
import type { Clock, Timer } from '../lib/clock.ts';

export interface LiveFeedOptions {
  readonly clock: Clock;
  readonly history: History;
  view(happening: Happening): object;
}

const MOST_LISTENERS = 32;
/**
 * A listener that reads slower than things happen is let go: it can come back and say where it was. More than a whole
 * history, which whoever comes with `after=0` is sent at once.
 */
const MOST_WAITING_BYTES = 24 * 1024 * 1024;
const PING_EVERY_MS = 30_000;

/** What happens, as it happens, over WebSocket: first what came after `after`, then every new one. */
export class LiveFeed {
  readonly #options: LiveFeedOptions;
  readonly #server = new WebSocketServer({ noServer: true, maxPayload: 1024, perMessageDeflate: false });
  readonly #awaited = new Set<WebSocket>();
  #timer: Timer | undefined;
  #closed = false;

  constructor(options: LiveFeedOptions) {
    this.#options = options;
  }

  get isFull(): boolean {
    return this.#closed || this.#server.clients.size >= MOST_LISTENERS;
  }

  /** Takes over an upgrade that the gate has let in. */
  take(request: IncomingMessage, socket: Duplex, head: Buffer, query: HistoryQuery): void {
    this.#server.handleUpgrade(request, socket, head, (listener) => this.#serve(listener, query));
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    for (const listener of this.#server.clients) listener.terminate();
    this.#server.close();
  }

  #serve(listener: WebSocket, query: HistoryQuery): void {
    const { history } = this.#options;
    const send = (happening: Happening): void => {
      listener.send(JSON.stringify(this.#options.view(happening)));
      if (listener.bufferedAmount > MOST_WAITING_BYTES) listener.terminate();
    };
    // Who comes with a number of a watchdog that ran before this one hears what is new all the same.
    const from = Math.min(query.after ?? 0, history.lastSeq);
    const end = history.onHappening((happening) => {
      if (matches(happening, query, from)) send(happening);
    });
    listener.on('error', () => listener.terminate());
    listener.on('close', end);
    listener.on('pong', () => this.#awaited.delete(listener));
    // All of it: what is left out here would never be told.
    const missed = query.after === undefined ? [] : history.find({ ...query, limit: Number.POSITIVE_INFINITY });
    for (const happening of missed) send(happening);
    this.#schedule();
  }

  /** Whoever has not answered the last ping is not there any more. */
  #schedule(): void {
    if (this.#closed || this.#timer !== undefined) return;
    this.#timer = this.#options.clock.after(PING_EVERY_MS, () => {
      this.#timer = undefined;
      for (const listener of this.#server.clients) {
        if (this.#awaited.has(listener)) listener.terminate();
        this.#awaited.add(listener);
        listener.ping();
      }
      for (const listener of this.#awaited) if (!this.#server.clients.has(listener)) this.#awaited.delete(listener);
      if (this.#server.clients.size > 0) this.#schedule();
    });
  }
}
