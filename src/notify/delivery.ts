import { createHash } from 'node:crypto';
import type { Agent } from 'undici';
import type { NotifyTarget } from '../config/types.ts';
import { atMost, type Clock, pause, plus } from '../lib/clock.ts';
import { codeOf } from '../lib/errors.ts';
import type { Emit, EventOf } from '../streams/events.ts';
import { type Message, messageIn, type Outgoing, outgoing } from './messages.ts';
import type { Notes } from './tracker.ts';

/** What a receiver answered. */
interface Answer {
  readonly status: number;
  /** The header `Retry-After`. */
  readonly retryAfter: string | undefined;
}

/** Sends one request. Rejects if there is no answer. It ends when `signal` aborts. */
export type Post = (url: URL, request: Outgoing, signal: AbortSignal) => Promise<Answer>;

const TIMEOUT_MS = 10_000;
/** The body of an answer is of no interest. Reading a little of it lets the connection end well. */
const MOST_BODY_BYTES = 4096;

export interface Poster {
  readonly post: Post;
  close(): Promise<void>;
}

/** Posts through undici, which does not follow redirects. It is loaded with the first notification. */
export function poster(): Poster {
  let agent: Promise<Agent> | undefined;
  const load = async (): Promise<Agent> => {
    const { Agent } = await import('undici');
    return new Agent({
      connect: { timeout: TIMEOUT_MS },
      headersTimeout: TIMEOUT_MS,
      bodyTimeout: TIMEOUT_MS,
      pipelining: 0,
    });
  };
  return {
    async post(url, { headers, body }, signal) {
      const { request } = await import('undici');
      agent ??= load();
      // The user of the URL is in the headers already.
      const { origin, pathname: path, search } = url;
      const answer = await request(origin + path + search, {
        ...{ method: 'POST', headers, body, signal, dispatcher: await agent },
      });
      await answer.body.dump({ limit: MOST_BODY_BYTES, signal }).catch(() => {});
      const retryAfter = answer.headers['retry-after'];
      return { status: answer.statusCode, retryAfter: Array.isArray(retryAfter) ? retryAfter[0] : retryAfter };
    },
    async close() {
      await (await agent)?.destroy();
    },
  };
}

/** How an attempt went. `detail` is for people and shows nothing of the URL. */
export type Outcome =
  | { readonly kind: 'sent'; readonly detail: string }
  /** Another attempt may succeed. */
  | { readonly kind: 'failed'; readonly detail: string; readonly retryAfter: string | undefined }
  /** The receiver does not want this request. */
  | { readonly kind: 'refused'; readonly detail: string };

/** Tries to deliver a message once. Never rejects. */
export async function deliverOnce(
  { clock, post }: { readonly clock: Clock; readonly post: Post },
  target: NotifyTarget,
  secret: string | undefined,
  message: Message,
  ended: AbortSignal = new AbortController().signal,
): Promise<Outcome> {
  const late = new AbortController();
  const timer = clock.after(TIMEOUT_MS, () => late.abort());
  try {
    const request = outgoing(target, secret, message, clock.dateOf(clock.now()));
    return outcomeOf(await post(target.url, request, AbortSignal.any([late.signal, ended])));
  } catch (error) {
    const detail = late.signal.aborted ? `no answer within ${TIMEOUT_MS / 1000} s` : failureOf(error);
    return { kind: 'failed', detail, retryAfter: undefined };
  } finally {
    timer.cancel();
  }
}

function outcomeOf({ status, retryAfter }: Answer): Outcome {
  if (status >= 200 && status < 300) return { kind: 'sent', detail: `it answered ${status}` };
  if (status >= 300 && status < 400)
    return { kind: 'refused', detail: `it answered ${status}, a redirect, and redirects are not followed` };
  if (status >= 400 && status < 500 && status !== 408 && status !== 429)
    return { kind: 'refused', detail: `it answered ${status}` };
  return { kind: 'failed', detail: `it answered ${status}`, retryAfter };
}

/** Only the code of an error, because a message might show the URL. */
function failureOf(error: unknown): string {
  return codeOf(error) ?? (error instanceof Error ? error.name : 'it failed');
}

/** How many messages may wait for one target. */
export const MOST_WAITING = 1000;
/** How long a message is worth delivering. */
const WORTH_MS = 3_600_000;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 60_000;
const LONGEST_RETRY_AFTER_MS = 10 * 60_000;

export interface OutboxOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  readonly post: Post;
  /** From 0 to 1. */
  readonly random: () => number;
  /** Has what waits, for the time after a restart. */
  readonly notes: Notes;
}

/** While another process takes over what waits, an attempt may go on for this long. Then that process makes it anew. */
const FINISHED_WITHIN_MS = 100;

/** What waits for one target, for another process: the beginning of its notes, and messages as they are in notes. */
export type HandedMessages = readonly [notesOf: string, messages: readonly unknown[]];

type DropReason = EventOf<'notification_dropped'>['reason'];

/** Delivers the messages for one target, one after the other, and tries again while the receiver is away. */
export class Outbox {
  readonly #options: OutboxOptions;
  #label: string;
  readonly #target: NotifyTarget;
  #secret: string | undefined;
  readonly #waiting: { readonly message: Message; readonly until: number }[] = [];
  /** How the notes of this target's messages begin. The URL may be a secret. */
  readonly #notesOf: string;
  /** Ends the wait for the next attempt. */
  #wake = new AbortController();
  #ended = new AbortController();
  #isStopping = false;
  /** Another process delivers, or this one does so later. */
  #isPaused: boolean;
  /** What that process has got. */
  readonly #handed: { readonly message: Message; readonly until: number }[] = [];
  #running: Promise<void> | undefined;
  /** Failed attempts since the receiver last answered as it should. */
  #failures = 0;
  #hasWarned = false;

  /**
   * @param label the target, for the log.
   * @param isPaused whether it begins only with `takeOver`.
   */
  constructor(
    options: OutboxOptions,
    label: string,
    target: NotifyTarget,
    secret: string | undefined,
    isPaused = false,
  ) {
    this.#options = options;
    this.#label = label;
    this.#target = target;
    this.#secret = secret;
    const identity = JSON.stringify([target.url.href, target.format]);
    this.#notesOf = `waiting/${createHash('sha256').update(identity).digest('hex').slice(0, 16)}/`;
    this.#isPaused = isPaused;
    if (!isPaused) this.#takeUp();
  }

  /** Goes on with what waited when the watchdog stopped. */
  #takeUp(): void {
    const { clock, notes } = this.#options;
    const now = clock.dateOf(clock.now()).getTime();
    for (const [name, value] of [...notes.all()]) {
      if (!name.startsWith(this.#notesOf)) continue;
      const message = messageIn(value);
      const leftMs = message === undefined ? 0 : Math.min(message.at.getTime() + WORTH_MS - now, WORTH_MS);
      if (message === undefined || leftMs <= 0) notes.set(name, null);
      else this.#waiting.push({ message, until: plus(clock.now(), leftMs) });
    }
    this.#waiting.sort((one, other) => one.message.at.getTime() - other.message.at.getTime());
    this.#start();
  }

  /**
   * Attempts nothing any more, because another process does. It gets what waits now, see `handed`: an attempt that is under way is
   * made anew there, unless it ends within 100 ms.
   */
  async pause(): Promise<void> {
    this.#isPaused = true;
    this.#wake.abort();
    if (this.#running !== undefined) await atMost(this.#options.clock, FINISHED_WITHIN_MS, this.#running);
    // The other process may have ended meanwhile.
    if (!this.#isPaused) return;
    this.#ended.abort();
    await this.#running;
    this.#ended = new AbortController();
    if (this.#isPaused) this.#handed.push(...this.#waiting.splice(0));
    else this.#start();
  }

  /** What waited when it paused. */
  get handed(): HandedMessages {
    return [this.#notesOf, this.#handed.map(({ message }) => inNotes(message))];
  }

  /** Ends a pause: the other process did not take over. */
  goOn(): void {
    this.#isPaused = false;
    this.#waiting.unshift(...this.#handed.splice(0));
    this.#start();
  }

  /**
   * Begins, in a process that has taken over.
   *
   * @param handed what the process before it gave for all targets. Undefined if it gave nothing: then what is in the notes counts.
   */
  takeOver(handed: readonly HandedMessages[] | undefined): void {
    const { notes } = this.#options;
    // What this process has told meanwhile is in the notes, too.
    const here = this.#waiting.splice(0).map(({ message }) => this.#notesOf + message.id);
    if (handed !== undefined) {
      const values = handed.filter(([notesOf]) => notesOf === this.#notesOf).flatMap(([, messages]) => messages);
      const before = new Map(values.map((value) => [this.#notesOf + messageIn(value)?.id, value]));
      // The notes that this process has read are of an earlier moment.
      for (const [name] of [...notes.all()]) {
        if (name.startsWith(this.#notesOf) && !before.has(name) && !here.includes(name)) notes.set(name, null);
      }
      for (const [name, value] of before) if (notes.get(name) === undefined) notes.set(name, value);
    }
    this.#isPaused = false;
    this.#takeUp();
  }

  #start(): void {
    if (this.#isPaused || this.#waiting.length === 0) return;
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** After a reload. */
  use(label: string, secret: string | undefined): void {
    this.#label = label;
    this.#secret = secret;
  }

  send(message: Message): void {
    if (this.#isStopping) return;
    // The first message may be under way.
    if (this.#waiting.length >= MOST_WAITING) {
      for (const { message: oldest } of this.#waiting.splice(1, 1)) this.#forget(oldest);
      this.#dropped('overflow', `more than ${MOST_WAITING} were waiting`, 1);
    }
    this.#waiting.push({ message, until: plus(this.#options.clock.now(), WORTH_MS) });
    this.#options.notes.set(this.#notesOf + message.id, inNotes(message));
    this.#start();
  }

  /** Tries at once what waits, until something fails or `signal` aborts. What is left is dropped. */
  async stop(signal: AbortSignal, reason: 'stopped' | 'removed'): Promise<void> {
    this.#isStopping = true;
    this.#isPaused = false;
    this.#wake.abort();
    this.#start();
    const end = (): void => this.#ended.abort();
    if (signal.aborted) end();
    else signal.addEventListener('abort', end, { once: true });
    await this.#running;
    signal.removeEventListener('abort', end);
    const waiting = this.#waiting.splice(0);
    const left = waiting.length;
    // After a restart, it goes on with them.
    if (reason === 'stopped' && this.#options.notes.isKept) return;
    for (const { message } of waiting) this.#forget(message);
    if (left > 0) this.#dropped(reason, reason === 'stopped' ? 'the watchdog stopped' : 'the target was removed', left);
  }

  async #run(): Promise<void> {
    for (let head = this.#waiting[0]; head !== undefined; head = this.#waiting[0]) {
      const { clock } = this.#options;
      if (clock.now() >= head.until) {
        this.#waiting.shift();
        this.#forget(head.message);
        this.#dropped('expired', 'it could not be delivered for an hour', 1, head.message.title);
        continue;
      }
      if (this.#ended.signal.aborted || this.#isPaused) return;
      const wasStopping = this.#isStopping;
      const outcome = await deliverOnce(this.#options, this.#target, this.#secret, head.message, this.#ended.signal);
      if (this.#isPaused && outcome.kind === 'failed') return;
      this.#note(outcome, head.message.title);
      if (outcome.kind !== 'failed') {
        this.#waiting.shift();
        this.#forget(head.message);
        continue;
      }
      if (wasStopping) return;
      // When it stops during the attempt, it tries once more.
      if (!this.#isStopping) await pause(clock, this.#waitMs(outcome.retryAfter), this.#nextWake());
    }
  }

  #forget({ id }: Message): void {
    this.#options.notes.set(this.#notesOf + id, null);
  }

  #note(outcome: Outcome, about: string): void {
    const { emit } = this.#options;
    const { kind, detail } = outcome;
    const target = this.#label;
    const isNews = !this.#hasWarned;
    this.#hasWarned = kind !== 'sent';
    switch (kind) {
      case 'sent':
        emit({ kind: 'notification_sent', target, about, worksAgain: !isNews });
        this.#failures = 0;
        break;
      case 'refused':
        emit({ kind: 'notification_dropped', target, about, reason: 'refused', detail, count: 1, isNews });
        this.#failures = 0;
        break;
      case 'failed':
        emit({ kind: 'notification_delayed', target, about, detail, isNews });
        this.#failures += 1;
        break;
      default:
        kind satisfies never;
    }
  }

  #dropped(reason: DropReason, detail: string, count: number, about?: string): void {
    const target = this.#label;
    this.#options.emit({ kind: 'notification_dropped', target, about, reason, detail, count, isNews: true });
  }

  #nextWake(): AbortSignal {
    this.#wake = new AbortController();
    return this.#wake.signal;
  }

  /** It doubles with each failure, and varies, so that several watchdogs do not come at the same moment. */
  #waitMs(retryAfter: string | undefined): number {
    const doubled = Math.min(FIRST_WAIT_MS * 2 ** (this.#failures - 1), LONGEST_WAIT_MS);
    const backoff = doubled * (0.5 + this.#options.random() / 2);
    return Math.max(backoff, this.#retryAfterMs(retryAfter));
  }

  /** `Retry-After` is a number of seconds or a date. */
  #retryAfterMs(text: string | undefined): number {
    if (text === undefined) return 0;
    const { clock } = this.#options;
    // Node would also read `-5` as a date.
    const date = text.endsWith(' GMT') ? Date.parse(text) : Number.NaN;
    const ms = /^\d+$/.test(text) ? Number(text) * 1000 : date - clock.dateOf(clock.now()).getTime();
    return Number.isNaN(ms) ? 0 : Math.min(Math.max(0, ms), LONGEST_RETRY_AFTER_MS);
  }
}

function inNotes(message: Message): unknown {
  return { ...message, at: message.at.toISOString() };
}
