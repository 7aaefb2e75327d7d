import { hasBegun, type WatchdogEvent } from '../streams/events.ts';

const MINUTE_MS = 60_000;
const SHOWN = 60;

/** One minute of the last hour. */
export interface Minute {
  /** Its beginning, in milliseconds of the Unix epoch. */
  readonly at: number;
  /** The highest number of streams that were open at the same time. */
  readonly streams: number;
  readonly takeovers: number;
  readonly gone: number;
}

interface Counts {
  readonly number: number;
  most: number;
  last: number;
  takeovers: number;
  gone: number;
}

/** Counts what happened in each minute of the last hour, for charts. */
export class Minutes {
  /** Minutes in which something happened, oldest first. */
  #counts: Counts[] = [];
  #streams = 0;
  /** How many streams were open before the first minute of `#counts`. */
  #before = 0;

  listen(event: WatchdogEvent, atMs: number): void {
    const { kind } = event;
    if (!hasBegun(event) && kind !== 'stream_closed' && kind !== 'stream_severed') return;
    const counts = this.#at(Math.floor(atMs / MINUTE_MS));
    if (hasBegun(event)) this.#streams += 1;
    if (kind === 'stream_closed') this.#streams -= 1;
    counts.most = Math.max(counts.most, this.#streams);
    counts.last = this.#streams;
    if (kind === 'stream_severed') counts.takeovers += 1;
    if (kind === 'stream_closed' && event.reason === 'gone') counts.gone += 1;
  }

  all(): readonly Counts[] {
    return this.#counts;
  }

  /** Goes on after the minutes that another process has counted. The last of them may be the first of ours. */
  resume(before: readonly Counts[]): void {
    for (const counts of before.toReversed()) {
      const [first] = this.#counts;
      if (first === undefined || counts.number < first.number) this.#counts.unshift({ ...counts });
      else if (counts.number === first.number) {
        first.most = Math.max(first.most, counts.most);
        first.takeovers += counts.takeovers;
        first.gone += counts.gone;
      }
    }
  }

  /** The last hour, oldest minute first; the last one is the current minute. */
  lastHour(nowMs: number): readonly Minute[] {
    const first = Math.floor(nowMs / MINUTE_MS) - SHOWN + 1;
    this.#forgetBefore(first);
    const known = new Map(this.#counts.map((counts) => [counts.number, counts]));
    let open = this.#before;
    return Array.from({ length: SHOWN }, (_, index) => {
      const counts = known.get(first + index);
      const streams = Math.max(open, counts?.most ?? 0);
      open = counts?.last ?? open;
      const { takeovers = 0, gone = 0 } = counts ?? {};
      return { at: (first + index) * MINUTE_MS, streams, takeovers, gone };
    });
  }

  #at(number: number): Counts {
    const newest = this.#counts.at(-1);
    // If the clock is set back, events count in the newest minute.
    if (newest !== undefined && newest.number >= number) return newest;
    this.#forgetBefore(number - SHOWN + 1);
    const counts = { number, most: this.#streams, last: this.#streams, takeovers: 0, gone: 0 };
    this.#counts.push(counts);
    return counts;
  }

  #forgetBefore(first: number): void {
    const old = this.#counts.filter(({ number }) => number < first);
    this.#before = old.at(-1)?.last ?? this.#before;
    if (old.length > 0) this.#counts = this.#counts.slice(old.length);
  }
}
