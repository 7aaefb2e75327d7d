import type { MachineKey } from '../identity/keys.ts';
import { DAY_MS } from '../lib/units.ts';

/*
 * When each node was connected, and when nobody was there to see it. It is pure, and all dates are milliseconds since 1970.
 */

/** `unknown`: the watchdog did not run, or had not heard of the node yet. */
export type PeriodState = 'online' | 'offline' | 'unknown';
export const PERIOD_STATES: readonly PeriodState[] = ['online', 'offline', 'unknown'];

export interface Period {
  readonly state: PeriodState;
  readonly since: number;
  readonly until: number;
}

/** A watchdog ran from `since` until `at`. It repeats this while it runs. */
export interface RunRecord {
  readonly at: number;
  /** Names this run of the watchdog. */
  readonly run: string;
  readonly since: number;
}

/** A node came online at `at`; or, with `since`, was online from then until `at`. */
export interface NodeRecord {
  readonly at: number;
  /** Undefined in a summary of several runs. */
  readonly run: string | undefined;
  readonly node: MachineKey;
  readonly since: number | undefined;
}

export const KEPT_MS = 30 * DAY_MS;
/** After a start, nodes need time to come back. Whoever is back within it has not been offline. */
const SETTLE_MS = 120_000;
const MOST_NODES = 10_000;
/** Each takes 16 bytes. */
const MOST_INTERVALS = 1_000_000;

interface Span {
  readonly since: number;
  until: number;
}

interface Known {
  /** The times at which it was online: since, until, since, until. The first one is when the watchdog first heard of the node. */
  times: number[];
  /** By run, since when it has been online. Two runs overlap if one takes over from the other. */
  readonly open: Map<string, number>;
}

/** Remembers for thirty days when each node was online. */
export class PresenceLog {
  readonly #run: string;
  readonly #runs = new Map<string, Span>();
  readonly #nodes = new Map<MachineKey, Known>();
  #intervals = 0;
  #forgottenBefore = 0;

  /** @param run the name of this run. */
  constructor(run: string) {
    this.#run = run;
  }

  /** Since when something is known; undefined before the first record. */
  get knownSince(): number | undefined {
    let first: number | undefined;
    for (const { since } of this.#runs.values()) if (first === undefined || since < first) first = since;
    return first === undefined ? undefined : Math.max(first, this.#forgottenBefore);
  }

  has(key: MachineKey): boolean {
    return this.#nodes.has(key);
  }

  keys(): IterableIterator<MachineKey> {
    return this.#nodes.keys();
  }

  /** Since when it has been online without a gap; undefined if it is not online. */
  onlineSince(key: MachineKey): number | undefined {
    return this.#nodes.get(key)?.open.get(this.#run);
  }

  /** When it was last online, apart from now; undefined if never. */
  lastOnlineAt(key: MachineKey): number | undefined {
    const times = this.#nodes.get(key)?.times ?? [];
    for (let i = times.length - 2; i >= 0; i -= 2) if (times[i] !== times[i + 1]) return times[i + 1];
    return undefined;
  }

  applyRun({ at, run, since }: RunRecord): void {
    const span = this.#runs.get(run);
    if (span === undefined) this.#runs.set(run, { since: Math.min(since, at), until: at });
    else span.until = Math.max(span.until, at);
  }

  applyNode({ at, run, node, since }: NodeRecord): void {
    if (run !== undefined) this.applyRun({ at, run, since: since ?? at });
    const known = this.#known(node);
    if (since === undefined) {
      if (run !== undefined && !known.open.has(run)) known.open.set(run, at);
      return;
    }
    if (run !== undefined) known.open.delete(run);
    this.#add(known, since, at);
  }

  /** Call it after the records of earlier runs: what was online when such a run ended is unknown from then on. */
  endEarlierRuns(): void {
    for (const known of this.#nodes.values()) {
      for (const [run, since] of known.open) {
        if (run === this.#run) continue;
        known.open.delete(run);
        const until = this.#runs.get(run)?.until ?? since;
        this.#add(known, since, Math.max(since, until));
      }
      known.times = merged(known.times);
    }
    this.#count();
  }

  /** Forgets the oldest days until about this many records are left. */
  shrinkTo(most: number, isNode: (key: MachineKey) => boolean): void {
    for (let days = 0; this.#intervals > most && days < KEPT_MS / DAY_MS; days++) {
      this.forgetBefore((this.knownSince ?? 0) + DAY_MS, isNode);
    }
  }

  /** Forgets what was before `at`. @param isNode whether a node still exists. */
  forgetBefore(at: number, isNode: (key: MachineKey) => boolean): void {
    this.#forgottenBefore = Math.max(this.#forgottenBefore, at);
    for (const [run, { until }] of this.#runs) if (until < at && run !== this.#run) this.#runs.delete(run);
    for (const [key, known] of this.#nodes) {
      const { times, open } = known;
      if ((times[1] ?? at) < at) {
        const first = times.findIndex((time, i) => i % 2 === 1 && time >= at);
        // That the node existed already remains known.
        known.times = [at, at, ...(first === -1 ? [] : times.slice(first - 1))];
      }
      if (open.size === 0 && known.times.length <= 2 && known.times[0] === known.times[1] && !isNode(key)) {
        this.#nodes.delete(key);
      }
    }
    this.#count();
    if (this.#intervals > MOST_INTERVALS) this.shrinkTo(MOST_INTERVALS, isNode);
  }

  /**
   * What a node was from `from` until `to`, without gaps. A time after `now` is left out.
   *
   * @param now until when this run has been watching.
   */
  periods(key: MachineKey, from: number, to: number, now: number): readonly Period[] {
    const online = this.#onlineTimes(key, now);
    const begin = Math.max(from, online[0] ?? Number.POSITIVE_INFINITY, this.#forgottenBefore);
    const end = Math.min(to, now);
    const periods: Period[] = [];
    let at = from;
    const upTo = (until: number, state: PeriodState): void => {
      const stop = Math.min(until, end);
      if (stop <= at) return;
      const last = periods.at(-1);
      if (last?.state === state) periods[periods.length - 1] = { ...last, until: stop };
      else periods.push({ state, since: at, until: stop });
      at = stop;
    };
    let i = 0;
    let lastEnd: number | undefined;
    for (const { since, until } of this.#spans(online, now)) {
      while ((online[i + 1] ?? Number.POSITIVE_INFINITY) < since) i += 2;
      upTo(Math.max(begin, settledAt(online, i, { since, until }, lastEnd, now)), 'unknown');
      lastEnd = until;
      for (; (online[i] ?? Number.POSITIVE_INFINITY) <= until; i += 2) {
        upTo(online[i] as number, 'offline');
        upTo(online[i + 1] as number, 'online');
      }
      if (at >= begin) upTo(until, 'offline');
    }
    upTo(end, 'unknown');
    return periods;
  }

  #onlineTimes(key: MachineKey, now: number): readonly number[] {
    const known = this.#nodes.get(key);
    if (known === undefined) return [];
    if (known.open.size === 0) return known.times;
    return merged([...known.times, ...[...known.open.values()].flatMap((since) => [since, Math.max(since, now)])]);
  }

  /** When the watchdog was watching. A node that was seen online proves it too. */
  #spans(online: readonly number[], now: number): readonly Span[] {
    const all: number[] = [];
    for (const [run, { since, until }] of this.#runs) all.push(since, run === this.#run ? Math.max(until, now) : until);
    const times = merged([...all, ...online]);
    const spans: Span[] = [];
    for (let i = 0; i < times.length; i += 2) spans.push({ since: times[i] as number, until: times[i + 1] as number });
    return spans;
  }

  /** Everything that is known, in the fewest records. */
  *records(): Generator<RunRecord | NodeRecord> {
    for (const [run, { since, until }] of this.#runs) yield { at: until, run, since };
    for (const [node, { times, open }] of this.#nodes) {
      for (let i = 0; i < times.length; i += 2) {
        yield { at: times[i + 1] as number, run: undefined, node, since: times[i] as number };
      }
      for (const [run, since] of open) yield { at: since, run, node, since: undefined };
    }
  }

  #known(key: MachineKey): Known {
    const before = this.#nodes.get(key);
    if (before !== undefined) return before;
    if (this.#nodes.size >= MOST_NODES) this.#makeRoom();
    const known: Known = { times: [], open: new Map() };
    this.#nodes.set(key, known);
    return known;
  }

  /** Forgets the node that has been away for the longest time. */
  #makeRoom(): void {
    let oldest: MachineKey | undefined;
    let oldestAt = Number.POSITIVE_INFINITY;
    for (const [key, { times, open }] of this.#nodes) {
      const at = open.size > 0 ? Number.POSITIVE_INFINITY : (times.at(-1) ?? 0);
      if (at < oldestAt) [oldest, oldestAt] = [key, at];
    }
    if (oldest !== undefined) this.#nodes.delete(oldest);
  }

  #add(known: Known, since: number, until: number): void {
    const { times } = known;
    // A clock that was set back must not turn an interval around.
    const [from, to] = [Math.min(since, until), Math.max(since, until)];
    const last = times.at(-1);
    if (last !== undefined && from <= last) known.times = merged([...times, from, to]);
    else times.push(from, to);
    this.#intervals += 1;
  }

  #count(): void {
    this.#intervals = 0;
    for (const { times } of this.#nodes.values()) this.#intervals += times.length / 2;
  }
}

/**
 * Until when, after the watchdog began to watch again, nobody knows whether a node is away or has only not come back yet.
 *
 * @param i where the times begin that are not before `span`.
 * @param lastEnd when the watchdog had last been watching.
 */
function settledAt(
  online: readonly number[],
  i: number,
  { since, until }: Span,
  lastEnd: number | undefined,
  now: number,
): number {
  const isExpected = lastEnd === undefined || (online[0] ?? lastEnd) > lastEnd || wasOnlineAt(online, lastEnd);
  if (!isExpected) return since;
  let back = i;
  while (back < online.length && (online[back] as number) === online[back + 1]) back += 2;
  const backAt = online[back] ?? Number.POSITIVE_INFINITY;
  if (backAt <= since + SETTLE_MS) return Math.max(since, backAt);
  return now < since + SETTLE_MS ? Math.min(now, until) : since;
}

function wasOnlineAt(online: readonly number[], at: number): boolean {
  for (let i = 0; i < online.length; i += 2) {
    if ((online[i] as number) < at && (online[i + 1] as number) >= at) return true;
  }
  return false;
}

/** Intervals in order, those that touch or overlap joined. The first one stays where it is, even if it is empty. */
function merged(times: readonly number[]): number[] {
  const pairs: (readonly [number, number])[] = [];
  let isSorted = true;
  for (let i = 0; i + 1 < times.length; i += 2) {
    if (i > 0 && (times[i] as number) <= (times[i - 1] as number)) isSorted = false;
    pairs.push([times[i] as number, times[i + 1] as number]);
  }
  if (isSorted) return [...times];
  pairs.sort(([a], [b]) => a - b);
  const all: number[] = [];
  for (const [since, until] of pairs) {
    const last = all.length - 1;
    if (last > 0 && since <= (all[last] as number)) all[last] = Math.max(all[last] as number, until);
    else all.push(since, until);
  }
  return all;
}
