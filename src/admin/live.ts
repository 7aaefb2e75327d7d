import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import { type History, type HistoryEntry, type HistoryQuery, matches } from '../history/history.ts';
import type { Clock, Timer } from '../lib/clock.ts';

interface LiveFeedOptions {
  readonly clock: Clock;
  readonly history: History;
  view(entry: HistoryEntry): object;
}

const MAX_LISTENERS = 32;
/**
 * A listener that reads too slowly is disconnected; it can reconnect with the number of its last event. The limit is larger
 * than a whole history, because `after=0` sends all of it at once.
 */
const MAX_BUFFERED_BYTES = 24 * 1024 * 1024;
const PING_EVERY_MS = 30_000;

/** Sends events over WebSocket as they happen: first those after the number `after`, then each new one. */
export class LiveFeed {
  readonly #options: LiveFeedOptions;
  readonly #server = new WebSocketServer({ noServer: true, maxPayload: 1024, perMessageDeflate: false });
  readonly #awaitingPong = new Set<WebSocket>();
  #timer: Timer | undefined;
  #closed = false;

  constructor(options: LiveFeedOptions) {
    this.#options = options;
  }

  get isFull(): boolean {
    return this.#closed || this.#server.clients.size >= MAX_LISTENERS;
  }

  /** Takes over an upgrade request that access control has allowed. */
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
    const send = (entry: HistoryEntry): void => {
      listener.send(JSON.stringify(this.#options.view(entry)));
      if (listener.bufferedAmount > MAX_BUFFERED_BYTES) listener.terminate();
    };
    const end = history.onEntry((entry) => {
      if (matches(entry, query, query.after ?? 0)) send(entry);
    });
    listener.on('error', () => listener.terminate());
    listener.on('close', end);
    listener.on('pong', () => this.#awaitingPong.delete(listener));
    // No limit here: an event that is left out would never be sent.
    const missed = query.after === undefined ? [] : history.find({ ...query, limit: Number.POSITIVE_INFINITY });
    for (const entry of missed) send(entry);
    this.#schedule();
  }

  /** Disconnects listeners that have not answered the last ping. */
  #schedule(): void {
    if (this.#closed || this.#timer !== undefined) return;
    this.#timer = this.#options.clock.after(PING_EVERY_MS, () => {
      this.#timer = undefined;
      for (const listener of this.#server.clients) {
        if (this.#awaitingPong.has(listener)) listener.terminate();
        this.#awaitingPong.add(listener);
        listener.ping();
      }
      for (const listener of this.#awaitingPong)
        if (!this.#server.clients.has(listener)) this.#awaitingPong.delete(listener);
      if (this.#server.clients.size > 0) this.#schedule();
    });
  }
}
