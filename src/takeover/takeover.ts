import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import { type CheckedConnection, type LivenessCheck, livenessCheck } from '../liveness/liveness-check.ts';
import { type ContestVerdict, type Emit, reportWouldSever } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import {
  type CloseReason,
  type EvidenceSource,
  isBeingSevered,
  isLive,
  type KernelEvidence,
  type LossReason,
  type Stream,
  type StreamId,
  setState,
} from '../streams/stream.ts';
import { Contest } from './contest.ts';
import { DuplicateKeys, type DuplicateKeysOptions } from './duplicate-keys.ts';
import { Hold, Holds, USUAL_HOLD_MS, type WaitedFor } from './hold.ts';

/** A stream as the takeover sees it: it can be probed, severed, and forwarded to Headscale. */
export interface Contestant extends CheckedConnection {
  readonly stream: Stream;
  /** Where its evidence comes from. Undefined for streams of other replicas. */
  readonly source?: EvidenceSource;
  /** Closes the upstream connection first, then the client's. */
  sever(because: LossReason): void;
  /** Forwards the stream to Headscale. Called at most once. */
  forward(): void;
  /** Only for newcomers of other replicas: whether that replica still has the stream. The contest is judged again once it is known. */
  isThere?(): boolean;
}

/** Settings that may differ from node to node. They are read each time they are needed. Durations are in milliseconds. */
export interface TakeoverTerms {
  /** How long a client may send nothing before rule 2 calls it silent. */
  readonly silentAfterMs: number;
  /** The longest hold; 0 means no hold. A newcomer does not wait for a verdict that takes longer than this. */
  readonly holdMs: number;
  /** The usual hold, when no verdict needs more time. */
  readonly holdUsuallyMs: number;
  /** Report what would have been severed, but sever and hold nothing. */
  readonly observeOnly: boolean;
}

/** Limits how many newcomers are held at once. */
export interface HoldLimit {
  most(): number;
  reached(stream: Stream): void;
}

interface Entry {
  readonly contestant: Contestant;
  /** Probes this stream's client while the stream is an old one. Most streams never are in a contest. */
  check: LivenessCheck | undefined;
  /** Set while this stream is a held newcomer. */
  hold: Hold | undefined;
  /** The contests of this stream, as the old one or as the newcomer. */
  contests: readonly Contest[];
}

/**
 * A newcomer contests at most this many of its old streams, the newest ones. A real node has one or two. A client that
 * opens more must not slow down everybody else with contests of each against each.
 */
const MAX_RIVALS = 8;

/** How long another replica may need for a verdict in doubt. */
const WITH_REPLICAS_MS = 3000;

/** Opens a contest between a newcomer and each old stream of its node, holds the newcomer meanwhile, and severs the losers. */
export class Takeover {
  readonly #clock: Clock;
  readonly #registry: Registry;
  readonly #termsOf: (stream: Stream) => TakeoverTerms;
  readonly #emit: Emit;
  readonly #bound: HoldLimit;
  readonly #entries = new Map<Stream, Entry>();
  readonly #holds = new Holds();
  /** Contests that began in the process before this one, by `pairOf`, and since when. */
  readonly #begun = new Map<string, Instant>();
  /** Machine keys that two machines use. */
  readonly duplicates: DuplicateKeys;

  constructor(
    clock: Clock,
    registry: Registry,
    termsOf: (stream: Stream) => TakeoverTerms,
    emit: Emit,
    bound: HoldLimit = { most: () => Number.POSITIVE_INFINITY, reached() {} },
    guard: Pick<DuplicateKeysOptions, 'random' | 'isTelling'> = { random: Math.random, isTelling: () => true },
  ) {
    this.#clock = clock;
    this.#registry = registry;
    this.#termsOf = termsOf;
    this.#emit = emit;
    this.#bound = bound;
    const shortened = (key: MachineKey): void => this.#rejudge(registry.ofMachineKey(key));
    const openOf = (key: MachineKey): number => registry.ofMachineKey(key).filter(isLive).length;
    this.duplicates = new DuplicateKeys({ clock, emit, ...guard, openOf, shortened });
  }

  /**
   * Admits a newcomer: opens its contests and forwards it, at once or when its hold ends. An internal error forwards it at
   * once.
   *
   * @param elsewhere the replicas that have old streams of its node. They report with `replicaJudged`.
   * @param isOlder whether a stream of its node is older. For our own newcomers the stream ids decide.
   * @param heldMs how long another process has held it already.
   */
  admit(
    contestant: Contestant,
    elsewhere: readonly string[] = [],
    isOlder = (old: Stream): boolean => old.id < contestant.stream.id,
    heldMs = 0,
  ): void {
    const { stream } = contestant;
    const entry = this.#addEntry(contestant);
    try {
      const others = [...elsewhere, ...this.#beingSevered(stream)];
      this.#contest(entry, this.#rivalsOf(stream, isOlder), others, heldMs);
      this.#contestOvertaken(stream);
    } catch (error) {
      this.#emit({ kind: 'internal_error', during: 'opening a contest', error });
      entry.hold?.release('error');
    }
    if (entry.hold === undefined && isLive(stream)) contestant.forward();
  }

  /** Takes up an open stream that another process had. Its contests go on. */
  adopt(contestant: Contestant): void {
    const { stream } = contestant;
    const older = this.#rivalsOf(stream, (old) => old.id < stream.id);
    this.#contest(this.#addEntry(contestant), older);
    this.#contestOvertaken(stream);
  }

  /** These contests of a stream have begun in another process, which has reported them. */
  begun(stream: Stream, contests: ReadonlyMap<StreamId, Instant>): void {
    for (const [other, since] of contests) this.#begun.set(pairOf(stream.id, other), since);
  }

  /** Another process has the stream now, and its contests go on there. */
  release(stream: Stream): void {
    for (const contest of this.#stop(stream)) {
      contest.end();
      this.#forget(contest);
    }
    this.#entries.delete(stream);
  }

  /** A stream that waited longer for Redis than a newer one is admitted after it, but it is still the older stream. */
  #contestOvertaken(stream: Stream): void {
    if (stream.machineKey === undefined || stream.replica !== undefined) return;
    for (const newer of this.#registry.ofMachineKey(stream.machineKey)) {
      if (newer.id > stream.id) this.contestAlso(newer, (old) => old === stream);
    }
  }

  /** Adds contests to an admitted newcomer: more streams of its node have turned out to be older. */
  contestAlso(newcomer: Stream, isOlder: (old: Stream) => boolean): void {
    const entry = this.#entries.get(newcomer);
    if (entry === undefined || !isLive(newcomer)) return;
    const contested = new Set(this.contestsOf(newcomer).map(({ old }) => old));
    this.#contest(
      entry,
      this.#rivalsOf(newcomer, (old) => !contested.has(old) && isOlder(old)),
    );
  }

  /** The old streams at another replica have all ended or answered: this newcomer need not wait for them any more. */
  replicaJudged(stream: Stream, replica: string, verdict: 'ended' | 'answered'): void {
    const hold = this.#entries.get(stream)?.hold;
    if (verdict === 'ended') hold?.oldClosed(replica);
    else hold?.oldAnswered(replica);
  }

  /** The client's first complete record has reached an open session. */
  firstRecord(stream: Stream): void {
    // The stream's own replica reports its session.
    if (stream.replica === undefined) this.duplicates.sessionBegan(stream);
    for (const contest of this.contestsOf(stream)) contest.judge();
  }

  /** One end of the stream is gone: its contests end. Headscale may still have its connection. */
  streamEnding(stream: Stream, reason: CloseReason): void {
    for (const contest of this.#stop(stream)) {
      this.#end(contest, contest.newcomer === stream ? 'newcomer_ended' : verdictOf(reason));
    }
  }

  /** Ends a stream's liveness check and its hold. @returns its contests, which are still to be ended. */
  #stop(stream: Stream): readonly Contest[] {
    const entry = this.#entries.get(stream);
    entry?.check?.stop();
    entry?.hold?.cancel();
    if (entry?.hold !== undefined) this.#holds.remove(stream, entry.hold);
    return this.contestsOf(stream);
  }

  /** The stream's connection to Headscale has closed: newcomers that waited for it go on. */
  upstreamClosed(stream: Stream): void {
    if (!this.#entries.delete(stream) || stream.machineKey === undefined) return;
    for (const hold of this.#holds.of(stream)) hold.oldClosed(stream);
  }

  /** Judges every contest again, because settings may have changed. */
  rejudgeAll(): void {
    this.#rejudge([...this.#entries.keys()]);
  }

  #rejudge(streams: readonly Stream[]): void {
    for (const stream of [...streams]) for (const contest of this.contestsOf(stream)) contest.judge();
  }

  contestsOf(stream: Stream): readonly Contest[] {
    return this.#entries.get(stream)?.contests ?? [];
  }

  /** How many newcomers are held now. */
  get held(): number {
    return this.#holds.size;
  }

  /** How many streams have a liveness check, a hold or contests. A test holds that nothing outlives its stream. */
  get size(): number {
    return this.#entries.size;
  }

  #addEntry(contestant: Contestant): Entry {
    const entry: Entry = { contestant, check: undefined, hold: undefined, contests: [] };
    this.#entries.set(contestant.stream, entry);
    return entry;
  }

  #checkOf(old: Entry): LivenessCheck {
    old.check ??= livenessCheck(this.#clock, old.contestant, () => this.#update(old));
    return old.check;
  }

  #rivalsOf(newcomer: Stream, isOlder: (old: Stream) => boolean): readonly Entry[] {
    if (newcomer.machineKey === undefined) return [];
    return this.#registry
      .ofMachineKey(newcomer.machineKey)
      .filter((old) => old !== newcomer && isLive(old) && isOlder(old))
      .slice(-MAX_RIVALS)
      .map((old) => this.#entries.get(old))
      .filter((entry) => entry !== undefined);
  }

  /** Streams of the same node that have lost already, but still have a connection to Headscale. */
  #beingSevered({ machineKey }: Stream): readonly Stream[] {
    if (machineKey === undefined) return [];
    return this.#registry.ofMachineKey(machineKey).filter((old) => isBeingSevered(old) && this.#entries.has(old));
  }

  /** @param others what else the newcomer waits for. Only given on admission: an admitted newcomer is not held again. */
  #contest(newcomer: Entry, rivals: readonly Entry[], others?: readonly WaitedFor[], heldMs = 0): void {
    const { stream } = newcomer.contestant;
    const terms = this.#termsOf(stream);
    const holdMs = terms.observeOnly ? 0 : Math.max(0, terms.holdMs - heldMs);
    const eagerMs = holdMs > 0 ? terms.holdUsuallyMs : USUAL_HOLD_MS;
    // Somebody is there at the newcomer's address. If that address does not answer, packets may just be lost.
    const sameAddress = (old: Entry): boolean => old.contestant.stream.address === stream.address;
    const waitedFor: WaitedFor[] = [...(others ?? [])];
    // We do not know how long other replicas need.
    let neededMs = waitedFor.some((other) => typeof other === 'string') ? WITH_REPLICAS_MS : 0;
    for (const old of rivals) {
      const withinMs = this.#checkOf(old).start(eagerMs, sameAddress(old));
      // A hold shorter than the verdict takes would only delay the newcomer.
      if (withinMs === undefined || withinMs > holdMs) continue;
      neededMs = Math.max(neededMs, withinMs);
      waitedFor.push(old.contestant.stream);
    }
    const forMs = Math.min(holdMs, Math.max(terms.holdUsuallyMs, neededMs));
    if (others !== undefined && holdMs > 0 && waitedFor.length > 0 && this.#mayHold(stream))
      this.#hold(newcomer, waitedFor, forMs);
    for (const old of rivals) this.#open(old, newcomer);
    // An answer since the last look may release an earlier newcomer too.
    for (const old of rivals) this.#update(old);
  }

  #open(old: Entry, newcomer: Entry): void {
    const pair = pairOf(old.contestant.stream.id, newcomer.contestant.stream.id);
    const begun = this.#begun.get(pair);
    this.#begun.delete(pair);
    const contest = new Contest({
      clock: this.#clock,
      openedAt: begun ?? this.#clock.now(),
      old: old.contestant.stream,
      newcomer: newcomer.contestant.stream,
      check: this.#checkOf(old),
      terms: () => ({
        silentAfterMs: this.#termsOf(old.contestant.stream).silentAfterMs,
        suspendedUntil: this.duplicates.suspendedUntil(old.contestant.stream),
      }),
      onSever: (because) => this.#sever(old, newcomer.contestant.stream, because),
      onWait: () => this.duplicates.bothStay(old.contestant.stream, newcomer.contestant.stream),
    });
    for (const entry of [old, newcomer]) entry.contests = entry.contests.concat(contest);
    if (begun === undefined) this.#emit({ kind: 'contest_opened', old: contest.old, newcomer: contest.newcomer });
  }

  #end(contest: Contest, verdict: ContestVerdict): void {
    const { old, newcomer } = contest;
    const lastedMs = contest.end();
    if (lastedMs === undefined) return;
    this.#forget(contest);
    this.#emit({ kind: 'contest_ended', old, newcomer, verdict, lastedMs });
  }

  #forget(contest: Contest): void {
    const { old, newcomer } = contest;
    for (const entry of [this.#entries.get(old), this.#entries.get(newcomer)])
      if (entry !== undefined) entry.contests = entry.contests.filter((each) => each !== contest);
    if (!this.contestsOf(old).some((other) => other.old === old)) this.#entries.get(old)?.check?.stop();
  }

  /** Above the limit a newcomer is forwarded without a hold. */
  #mayHold(stream: Stream): boolean {
    if (this.#holds.size < this.#bound.most()) return true;
    this.#bound.reached(stream);
    return false;
  }

  #hold(newcomer: Entry, waitedFor: readonly WaitedFor[], holdMs: number): void {
    const { stream } = newcomer.contestant;
    const now = this.#clock.now();
    setState(stream, { kind: 'held', since: now, until: plus(now, holdMs) });
    const hold = new Hold({
      clock: this.#clock,
      waitFor: waitedFor,
      holdMs,
      onRelease: (reason, heldMs) => {
        this.#holds.remove(stream, hold);
        // The stream's own replica holds it and reports the hold.
        if (stream.replica === undefined) this.#emit({ kind: 'stream_released', stream, reason, heldMs });
        newcomer.contestant.forward();
      },
    });
    newcomer.hold = hold;
    this.#holds.add(stream, hold);
    if (stream.replica === undefined) this.#emit({ kind: 'stream_held', stream, atMostMs: holdMs });
  }

  #update(old: Entry): void {
    for (const contest of old.contests) {
      // A verdict in one contest may end the others.
      if (contest.old !== old.contestant.stream || !old.contests.includes(contest)) continue;
      const hold = this.#entries.get(contest.newcomer)?.hold;
      if (hold && old.check?.answeredSince(hold.since)) hold.oldAnswered(old.contestant.stream);
      contest.judge();
    }
  }

  #sever(old: Entry, newcomer: Stream, because: LossReason): void {
    const { contestant } = old;
    const { stream, source } = contestant;
    if (!isLive(stream)) return;
    if (because === 'silent' && this.#entries.get(newcomer)?.contestant.isThere?.() === false) return;
    const { observeOnly, silentAfterMs } = this.#termsOf(stream);
    if (observeOnly) {
      reportWouldSever(stream, because, this.#emit);
      return;
    }
    const now = this.#clock.now();
    const openedAt = this.contestsOf(stream).find((each) => each.newcomer === newcomer)?.openedAt ?? now;
    const durations = { silentMs: now - stream.heardAt, silentAfterMs, contestedMs: now - openedAt };
    const answers = old.check?.liveness() === 'answers';
    const kernel = contestant.evidence();
    // A client that has left is no takeover: it ended its stream itself.
    if (because !== 'left')
      this.#emit({ kind: 'stream_severed', stream, newcomer, reason: because, ...durations, source, kernel, answers });
    for (const contest of this.contestsOf(stream)) this.#entries.get(contest.newcomer)?.hold?.waitFor(stream);
    contestant.sever(because);
    // Last, because the guard's findings may sever other streams.
    if (because === 'dead') this.duplicates.foundDead(stream);
    if (because === 'silent') this.duplicates.severed(stream, newcomer, loserAnswers(contestant, kernel, answers));
  }
}

/** Whether the loser's kernel answers. Undefined if nobody has asked it, as behind a proxy that does not probe. */
function loserAnswers(
  { behindProxy }: Contestant,
  kernel: KernelEvidence | undefined,
  answers: boolean,
): boolean | undefined {
  return kernel === undefined || (behindProxy !== undefined && !answers) ? undefined : answers;
}

function pairOf(one: StreamId, other: StreamId): string {
  return `${Math.min(one, other)} ${Math.max(one, other)}`;
}

function verdictOf(reason: CloseReason): ContestVerdict {
  if (reason === 'severed_dead') return 'dead';
  if (reason === 'client_left') return 'left';
  if (reason === 'severed_silent') return 'silent';
  return 'old_ended';
}
