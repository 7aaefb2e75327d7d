import type { MachineKey } from '../identity/keys.ts';
import { type Clock, plus } from '../lib/clock.ts';
import { type CheckedConnection, LivenessCheck } from '../liveness/liveness-check.ts';
import { type ContestVerdict, type Emit, reportWouldSever } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import { type CloseReason, isBeingSevered, isLive, type Stream, setState } from '../streams/stream.ts';
import { Contest } from './contest.ts';
import { DuplicateKeys, type GuardEnvironment } from './guard.ts';
import { type Awaited, Hold, Holds, USUAL_HOLD_MS } from './hold.ts';

/** A stream as takeover sees it: something that can be asked about, severed, and let through to Headscale. */
export interface Contestant extends CheckedConnection {
  readonly stream: Stream;
  /** Ends it: the upstream connection first, then the client's. */
  sever(because: 'dead' | 'silent'): void;
  /** Shows it to Headscale. Called once at most. */
  forward(): void;
  /** Of a newcomer that another replica has: whether it is known to be there at this moment. Once it is, it is judged anew. */
  isThere?(): boolean;
}

/** What may differ from node to node; asked anew each time it matters. Durations are in milliseconds. */
export interface TakeoverTerms {
  /** How long a client may say nothing before rule 2 calls it silent. */
  readonly silentAfterMs: number;
  /** How long a newcomer is held at most; 0: never. Whose verdict takes longer is not held for it at all. */
  readonly holdMs: number;
  /** How long it is held where no verdict takes longer. */
  readonly holdUsuallyMs: number;
  /** Tell what would have been severed, sever nothing, hold nobody. */
  readonly observeOnly: boolean;
}

/** How many newcomers are held at once. */
export interface HoldLimit {
  most(): number;
  reached(stream: Stream): void;
}

interface Seat {
  readonly member: Contestant;
  /** Asks about this stream, once it is an old one. */
  readonly check: LivenessCheck;
  /** Keeps this stream back, while it is a held newcomer. */
  hold: Hold | undefined;
  /** The contests it is part of, as the old one or as the newcomer. */
  readonly contests: Set<Contest>;
}

/**
 * How many of its old streams a newcomer contests, the newest ones. A node has one or two; whoever opens more is no node,
 * and must not make everybody wait while each is judged against each.
 */
const MOST_RIVALS = 8;

/** As long as a verdict in doubt takes, told by another replica. */
const WITH_REPLICAS_MS = 3000;

/** Opens a contest between a node's newcomer and each of its old streams, holds the newcomer meanwhile, and severs what has lost. */
export class Takeover {
  readonly #clock: Clock;
  readonly #registry: Registry;
  readonly #termsOf: (stream: Stream) => TakeoverTerms;
  readonly #emit: Emit;
  readonly #bound: HoldLimit;
  readonly #seats = new Map<Stream, Seat>();
  readonly #holds = new Holds();
  /** Of machine keys. */
  readonly duplicates: DuplicateKeys;

  constructor(
    clock: Clock,
    registry: Registry,
    termsOf: (stream: Stream) => TakeoverTerms,
    emit: Emit,
    bound: HoldLimit = { most: () => Number.POSITIVE_INFINITY, reached() {} },
    guard: GuardEnvironment = { random: Math.random, isTelling: () => true },
  ) {
    this.#clock = clock;
    this.#registry = registry;
    this.#termsOf = termsOf;
    this.#emit = emit;
    this.#bound = bound;
    const moved = (key: MachineKey): void => this.#rejudge(registry.ofMachineKey(key));
    const openOf = (key: MachineKey): number => registry.ofMachineKey(key).filter(isLive).length;
    this.duplicates = new DuplicateKeys({ clock, emit, ...guard, openOf, moved });
  }

  /**
   * Takes a newcomer in: forwards it, at once or when its hold ends. An error of ours forwards it at once.
   *
   * @param elsewhere the replicas that have old streams of its node. They are asked by others than us: see `replicaJudged`.
   * @param isOlder which of its node's streams here are older than it; by their numbers, where it is one of ours.
   */
  admit(
    member: Contestant,
    elsewhere: readonly string[] = [],
    isOlder = (old: Stream): boolean => old.id < member.stream.id,
  ): void {
    const { stream } = member;
    const seat = this.#seat(member);
    try {
      this.#contest(seat, this.#rivalsOf(stream, isOlder), [...elsewhere, ...this.#beingSevered(stream)]);
      this.#contestOvertaken(stream);
    } catch (error) {
      this.#emit({ kind: 'internal_error', during: 'opening a contest', error });
      seat.hold?.release('error');
    }
    if (seat.hold === undefined && isLive(stream)) member.forward();
  }

  /** One that waited longer for Redis than a newer one is admitted after it, and is an old stream of its all the same. */
  #contestOvertaken(stream: Stream): void {
    if (stream.machineKey === undefined || stream.replica !== undefined) return;
    for (const newer of this.#registry.ofMachineKey(stream.machineKey)) {
      if (newer.id > stream.id) this.contestAlso(newer, (old) => old === stream);
    }
  }

  /** More of its node's streams have turned out to be older than a newcomer that was admitted before. */
  contestAlso(newcomer: Stream, isOlder: (old: Stream) => boolean): void {
    const seat = this.#seats.get(newcomer);
    if (seat === undefined || !isLive(newcomer)) return;
    const contested = new Set(this.contestsOf(newcomer).map(({ old }) => old));
    this.#contest(
      seat,
      this.#rivalsOf(newcomer, (old) => !contested.has(old) && isOlder(old)),
    );
  }

  /** A replica has nothing left to keep this newcomer back for: its old streams have ended, or have answered. */
  replicaJudged(stream: Stream, replica: string, verdict: 'ended' | 'answered'): void {
    const hold = this.#seats.get(stream)?.hold;
    if (verdict === 'ended') hold?.oldClosed(replica);
    else hold?.oldAnswered(replica);
  }

  /** The stream's first whole record from its client has reached an open session. */
  firstRecord(stream: Stream): void {
    // Another replica's is told of by that one.
    if (stream.replica === undefined) this.duplicates.sessionBegan(stream);
    for (const contest of this.contestsOf(stream)) contest.judge();
  }

  /** One end of the stream is gone: it takes part in nothing any more, but Headscale may still hold it. */
  streamEnding(stream: Stream, reason: CloseReason): void {
    const seat = this.#seats.get(stream);
    if (seat === undefined) return;
    seat.check.stop();
    seat.hold?.drop();
    if (seat.hold !== undefined) this.#holds.remove(stream, seat.hold);
    for (const contest of seat.contests) {
      this.#end(contest, contest.newcomer === stream ? 'newcomer_ended' : verdictOf(reason));
    }
  }

  /** Headscale's connection of the stream has closed: who waited for that may go on. */
  upstreamClosed(stream: Stream): void {
    if (!this.#seats.delete(stream) || stream.machineKey === undefined) return;
    for (const hold of this.#holds.of(stream)) hold.oldClosed(stream);
  }

  /** Judges every contest anew: their terms may have changed. */
  rejudgeAll(): void {
    this.#rejudge([...this.#seats.keys()]);
  }

  #rejudge(streams: readonly Stream[]): void {
    for (const stream of [...streams]) for (const contest of this.contestsOf(stream)) contest.judge();
  }

  contestsOf(stream: Stream): readonly Contest[] {
    return [...(this.#seats.get(stream)?.contests ?? [])];
  }

  /** How many newcomers are held. */
  get held(): number {
    return this.#holds.size;
  }

  /** How many inquiries, holds and contests are alive: nothing may outlive its stream. */
  get size(): number {
    return this.#seats.size;
  }

  #seat(member: Contestant): Seat {
    const check = new LivenessCheck(this.#clock, member, () => this.#news(seat));
    const seat: Seat = { member, check, hold: undefined, contests: new Set() };
    this.#seats.set(member.stream, seat);
    return seat;
  }

  #rivalsOf(newcomer: Stream, isOlder: (old: Stream) => boolean): readonly Seat[] {
    if (newcomer.machineKey === undefined) return [];
    return this.#registry
      .ofMachineKey(newcomer.machineKey)
      .filter((old) => old !== newcomer && isLive(old) && isOlder(old))
      .slice(-MOST_RIVALS)
      .map((old) => this.#seats.get(old))
      .filter((seat) => seat !== undefined);
  }

  /** Its node's streams that have lost already, while Headscale still has them. */
  #beingSevered({ machineKey }: Stream): readonly Stream[] {
    if (machineKey === undefined) return [];
    return this.#registry.ofMachineKey(machineKey).filter((old) => isBeingSevered(old) && this.#seats.has(old));
  }

  /** @param others what else a newcomer waits for that is admitted now; one that was before is not held again. */
  #contest(newcomer: Seat, rivals: readonly Seat[], others?: readonly Awaited[]): void {
    const { stream } = newcomer.member;
    const terms = this.#termsOf(stream);
    const holdMs = terms.observeOnly ? 0 : terms.holdMs;
    const eagerMs = holdMs > 0 ? terms.holdUsuallyMs : USUAL_HOLD_MS;
    // Where the newcomer comes from there is somebody: what does not answer there may only be lost on the way.
    const sameAddress = (old: Seat): boolean => old.member.stream.address === stream.address;
    const awaited: Awaited[] = [...(others ?? [])];
    // Of what goes on elsewhere it is not known how long it takes.
    let neededMs = awaited.some((other) => typeof other === 'string') ? WITH_REPLICAS_MS : 0;
    for (const old of rivals) {
      const withinMs = old.check.start(eagerMs, sameAddress(old));
      // To wait for less than the verdict takes would only delay it.
      if (withinMs === undefined || withinMs > holdMs) continue;
      neededMs = Math.max(neededMs, withinMs);
      awaited.push(old.member.stream);
    }
    const forMs = Math.min(holdMs, Math.max(terms.holdUsuallyMs, neededMs));
    if (others !== undefined && holdMs > 0 && awaited.length > 0 && this.#mayHold(stream))
      this.#hold(newcomer, awaited, forMs);
    for (const old of rivals) this.#open(old, newcomer);
    // What was heard of one since its last look may also be what an earlier newcomer waits for.
    for (const old of rivals) this.#news(old);
  }

  #open(old: Seat, newcomer: Seat): void {
    const contest = new Contest({
      clock: this.#clock,
      old: old.member.stream,
      newcomer: newcomer.member.stream,
      check: old.check,
      terms: () => ({
        silentAfterMs: this.#termsOf(old.member.stream).silentAfterMs,
        restsUntil: this.duplicates.restsUntil(old.member.stream),
      }),
      onSever: (because) => this.#sever(old, newcomer.member.stream, because),
      onWait: () => this.duplicates.bothStay(old.member.stream, newcomer.member.stream),
    });
    old.contests.add(contest);
    newcomer.contests.add(contest);
    this.#emit({ kind: 'contest_opened', old: contest.old, newcomer: contest.newcomer });
  }

  #end(contest: Contest, verdict: ContestVerdict): void {
    const { old, newcomer } = contest;
    const lastedMs = contest.end();
    if (lastedMs === undefined) return;
    this.#seats.get(old)?.contests.delete(contest);
    this.#seats.get(newcomer)?.contests.delete(contest);
    this.#emit({ kind: 'contest_ended', old, newcomer, verdict, lastedMs });
    const stillContested = [...(this.#seats.get(old)?.contests ?? [])].some((other) => other.old === old);
    if (!stillContested) this.#seats.get(old)?.check.stop();
  }

  /** Beyond that a newcomer goes on unheld. */
  #mayHold(stream: Stream): boolean {
    if (this.#holds.size < this.#bound.most()) return true;
    this.#bound.reached(stream);
    return false;
  }

  #hold(newcomer: Seat, awaited: readonly Awaited[], holdMs: number): void {
    const { stream } = newcomer.member;
    const now = this.#clock.now();
    setState(stream, { kind: 'held', since: now, until: plus(now, holdMs) });
    const hold = new Hold({
      clock: this.#clock,
      awaited,
      holdMs,
      onRelease: (reason, heldMs) => {
        this.#holds.remove(stream, hold);
        // Another replica's is held there, and told of there.
        if (stream.replica === undefined) this.#emit({ kind: 'stream_released', stream, reason, heldMs });
        newcomer.member.forward();
      },
    });
    newcomer.hold = hold;
    this.#holds.add(stream, hold);
    if (stream.replica === undefined) this.#emit({ kind: 'stream_held', stream, atMostMs: holdMs });
  }

  #news(old: Seat): void {
    for (const contest of old.contests) {
      if (contest.old !== old.member.stream) continue;
      const hold = this.#seats.get(contest.newcomer)?.hold;
      if (hold && old.check.answeredSince(hold.since)) hold.oldAnswered(old.member.stream);
      contest.judge();
    }
  }

  #sever(old: Seat, newcomer: Stream, because: 'dead' | 'silent'): void {
    const { member } = old;
    const { stream } = member;
    if (!isLive(stream)) return;
    if (because === 'silent' && this.#seats.get(newcomer)?.member.isThere?.() === false) return;
    const { observeOnly, silentAfterMs } = this.#termsOf(stream);
    if (observeOnly) {
      reportWouldSever(stream, because, this.#emit);
      return;
    }
    const now = this.#clock.now();
    const openedAt = [...old.contests].find((each) => each.newcomer === newcomer)?.openedAt ?? now;
    const durations = { silentMs: now - stream.heardAt, silentAfterMs, contestedMs: now - openedAt };
    const answers = old.check.liveness() === 'answers';
    const kernel = member.evidence();
    this.#emit({ kind: 'stream_severed', stream, newcomer, reason: because, ...durations, kernel, answers });
    for (const contest of old.contests) this.#seats.get(contest.newcomer)?.hold?.waitFor(stream);
    member.sever(because);
    // Last: what they show may let others be severed.
    if (because === 'dead') this.duplicates.foundDead(stream);
    else this.duplicates.severed(stream, newcomer, kernel === undefined ? undefined : answers);
  }
}

function verdictOf(reason: CloseReason): ContestVerdict {
  if (reason === 'severed_dead') return 'dead';
  if (reason === 'severed_silent') return 'silent';
  return 'old_ended';
}
