import { type MachineKey, parseMachineKey } from '../identity/keys.ts';
import type { Clock, Instant, Timer } from '../lib/clock.ts';
import { RENEW_EVERY_MS } from './link.ts';
import type { Message } from './messages.ts';

/** A replica that has sent nothing for as long as a lease lasts counts as gone. */
const GONE_AFTER_MS = 3 * RENEW_EVERY_MS;
/** An operator waits this long for replicas that do not answer. */
const ANSWER_TIMEOUT_MS = 1000;
/** Streams in one message, which keeps messages small. */
const STREAMS_PER_MESSAGE = 500;

type StreamsShown = Extract<Message, { readonly kind: 'shown' }>;

interface Request {
  /** The replicas that have not answered in full. */
  readonly awaited: Set<string>;
  readonly streams: object[];
  readonly timer: Timer;
  readonly done: () => void;
}

interface MembersOptions {
  readonly clock: Clock;
  /** The name of this replica. */
  readonly name: string;
  send(message: Message, to?: string): void;
}

/** The other replicas: which of them are there, and the streams that they show to an operator. */
export class Members {
  readonly #options: MembersOptions;
  readonly #lastHeardAt = new Map<string, Instant>();
  readonly #requests = new Map<number, Request>();
  #lastRequest = 0;

  constructor(options: MembersOptions) {
    this.#options = options;
  }

  /** Every message of a replica proves that it is there. */
  heardFrom(replica: string): void {
    this.#lastHeardAt.set(replica, this.#options.clock.now());
  }

  /** After an outage of Redis, everybody gets the time to be heard again. */
  heardFromAll(): void {
    for (const replica of this.#lastHeardAt.keys()) this.heardFrom(replica);
  }

  get names(): readonly string[] {
    return [...this.#lastHeardAt.keys()];
  }

  has(replica: string): boolean {
    return this.#lastHeardAt.has(replica);
  }

  /** Whether no other replica that is there has a name before ours. */
  get isFirst(): boolean {
    return [...this.#lastHeardAt.keys()].every((other) => this.#options.name < other);
  }

  /** @returns the replicas that have sent nothing for too long, with the time of their last message. They are forgotten. */
  forgetGone(): readonly (readonly [replica: string, lastHeardAt: Instant])[] {
    const now = this.#options.clock.now();
    const gone = [...this.#lastHeardAt].filter(([, at]) => now - at > GONE_AFTER_MS);
    for (const [replica] of gone) this.#lastHeardAt.delete(replica);
    return gone;
  }

  /** @returns the streams of every replica that answers within a second, as `/streams` shows them. */
  streams(): Promise<readonly object[]> {
    if (this.#lastHeardAt.size === 0) return Promise.resolve([]);
    const { clock, name: from, send } = this.#options;
    const request = ++this.#lastRequest;
    return new Promise((resolve) => {
      const streams: object[] = [];
      const done = (): void => {
        this.#requests.get(request)?.timer.cancel();
        this.#requests.delete(request);
        resolve(streams);
      };
      const timer = clock.after(ANSWER_TIMEOUT_MS, done);
      this.#requests.set(request, { awaited: new Set(this.#lastHeardAt.keys()), streams, timer, done });
      send({ kind: 'show', from, request });
    });
  }

  /** Takes a part of a replica's answer to `streams`. */
  receiveStreams({ from, request: number, streams, isLast }: StreamsShown): void {
    const request = this.#requests.get(number);
    if (request === undefined) return;
    // One by one: `push(...streams)` fails when there are more streams than a call takes arguments.
    for (const stream of streams) request.streams.push(stream);
    if (isLast) request.awaited.delete(from);
    if (request.awaited.size === 0) request.done();
  }

  /** Answers another replica's request for our streams. */
  sendStreams(to: string, request: number, streams: readonly object[]): void {
    const { name: from, send } = this.#options;
    for (let i = 0; i === 0 || i < streams.length; i += STREAMS_PER_MESSAGE) {
      const isLast = i + STREAMS_PER_MESSAGE >= streams.length;
      send({ kind: 'shown', from, request, streams: streams.slice(i, i + STREAMS_PER_MESSAGE), isLast }, to);
    }
  }

  close(): void {
    for (const { done } of [...this.#requests.values()]) done();
  }
}

/** @param streams as `/streams` shows them. @returns the machine keys that have a session. */
export function sessionKeysOf(streams: readonly object[]): ReadonlySet<MachineKey> {
  const keys = new Set<MachineKey>();
  for (const stream of streams) {
    const { kind, state, machineKey } = stream as { kind?: unknown; state?: unknown; machineKey?: unknown };
    const key = typeof machineKey === 'string' ? parseMachineKey(machineKey) : undefined;
    if (key !== undefined && kind === 'control' && state === 'open') keys.add(key);
  }
  return keys;
}
