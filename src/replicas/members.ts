import type { Clock, Timer } from '../lib/clock.ts';
import type { Message } from './messages.ts';

/** So long an operator waits for replicas that do not answer. */
const ANSWERED_WITHIN_MS = 1000;
/** Of one message, so that none of them is large. */
const AT_ONCE = 500;

type Shown = Extract<Message, { readonly kind: 'shown' }>;

interface Call {
  readonly awaited: Set<string>;
  readonly streams: object[];
  readonly timer: Timer;
  readonly done: () => void;
}

export interface MembersOptions {
  readonly clock: Clock;
  readonly name: string;
  send(message: Message, to?: string): void;
}

/** Other replicas' streams, asked for when an operator looks. */
export class Members {
  readonly #options: MembersOptions;
  readonly #calls = new Map<number, Call>();
  #last = 0;

  constructor(options: MembersOptions) {
    this.#options = options;
  }

  /** @param replicas who is there. @returns all that have answered in time have shown. */
  call(replicas: readonly string[]): Promise<readonly object[]> {
    if (replicas.length === 0) return Promise.resolve([]);
    const { clock, name: from, send } = this.#options;
    const request = ++this.#last;
    return new Promise((resolve) => {
      const streams: object[] = [];
      const done = (): void => {
        this.#calls.get(request)?.timer.cancel();
        this.#calls.delete(request);
        resolve(streams);
      };
      const timer = clock.after(ANSWERED_WITHIN_MS, done);
      this.#calls.set(request, { awaited: new Set(replicas), streams, timer, done });
      send({ kind: 'show', from, request });
    });
  }

  heard({ from, request, streams, isLast }: Shown): void {
    const call = this.#calls.get(request);
    if (call === undefined) return;
    // One by one: there may be more than a call takes arguments.
    for (const stream of streams) call.streams.push(stream);
    if (isLast) call.awaited.delete(from);
    if (call.awaited.size === 0) call.done();
  }

  /** Answers another's call. */
  answer(to: string, request: number, streams: readonly object[]): void {
    const { name: from, send } = this.#options;
    for (let i = 0; i === 0 || i < streams.length; i += AT_ONCE) {
      const isLast = i + AT_ONCE >= streams.length;
      send({ kind: 'shown', from, request, streams: streams.slice(i, i + AT_ONCE), isLast }, to);
    }
  }

  close(): void {
    for (const { done } of [...this.#calls.values()]) done();
  }
}
