import type { MachineKey } from '../../../src/identity/keys.ts';
import type { Instant } from '../../../src/lib/clock.ts';
import type { WatchdogEvent } from '../../../src/streams/events.ts';
import { isLive, type Stream } from '../../../src/streams/stream.ts';
import type { Bench, FakePeer } from '../takeover-bench.ts';

type Severed = Extract<WatchdogEvent, { readonly kind: 'stream_severed' }>;
type Duplicate = Extract<WatchdogEvent, { readonly kind: 'machine_key_duplicated' }>;

const MINUTE_MS = 60_000;
const SETTLES_MS = 1000;
/**
 * Rule 1 at its slowest, on the model's lines: a second of quiet before the first probe, 450 ms and four further chances
 * where there is doubt, and a look or two.
 */
const DEAD_WITHIN_MS = 1000 + 450 + 4 * 600 + 500;

/** On the model's lines: a second of quiet before the first probe, a round trip, and two looks. */
const ANSWERED_WITHIN_MS = 1000 + 20 + 100;

/** What the model knows of a stream by itself, told by those who act, not by the watchdog. */
export interface Known {
  heardAt: Instant;
  firstRecordAt: Instant | undefined;
  vanishedAt: Instant | undefined;
  /** Its kernel's evidence could not be had at some time since it vanished, or it had data on its way. */
  wasOdd: boolean;
}

interface Contested {
  readonly old: Stream;
  readonly newcomer: Stream;
  readonly openedAt: Instant;
  /** It was only watched for a while: what was due then need not come later. */
  wasObserved: boolean;
}

/** What is true of a client that is there, whatever else: nothing of what happens to it may be rule 1. */
function isThere(known: Known): boolean {
  return known.vanishedAt === undefined;
}

/** Holds everything that happens against the table of the rule; throws at what the table does not say. */
export class Observer {
  readonly #bench: Bench;
  readonly #peers: readonly FakePeer[];
  readonly known = new Map<Stream, Known>();
  /** How often a key's streams came within ten seconds of a severing by rule 2, one after the other. */
  readonly #returns = new Map<MachineKey, number>();
  readonly #silentAt = new Map<MachineKey, Instant>();
  readonly #found = new Set<MachineKey>();
  readonly #contests = new Map<string, Contested>();
  readonly #wrong: string[] = [];

  constructor(bench: Bench, peers: readonly FakePeer[]) {
    this.#bench = bench;
    this.#peers = peers;
    bench.heard = (event) => this.#heard(event);
  }

  /** @throws at anything that was wrong when it happened, or is now that nothing is due. */
  check(): void {
    for (const { stream, forwardedAt } of this.#peers) this.#checkStream(stream, forwardedAt);
    for (const contest of this.#contests.values()) this.#checkContest(contest);
    this.#checkProbes();
    if (this.#wrong.length > 0) throw new Error(this.#wrong.join('\n'));
  }

  #must(isTrue: boolean, what: string): void {
    if (!isTrue) this.#wrong.push(`${this.#bench.clock.now()}: ${what}`);
  }

  #heard(event: WatchdogEvent): void {
    switch (event.kind) {
      case 'contest_opened':
        this.#contests.set(nameOf(event), { ...event, openedAt: this.#bench.clock.now(), wasObserved: false });
        this.#must(event.old.machineKey !== undefined, 'a contest of nobody');
        this.#must(event.old.machineKey === event.newcomer.machineKey, 'a contest of two nodes');
        this.#must(event.old.id < event.newcomer.id, 'a contest of a newcomer that is older');
        return;
      case 'contest_ended':
        this.#contests.delete(nameOf(event));
        return;
      case 'stream_severed':
        this.#checkSevering(event);
        return;
      case 'stream_held':
        this.#must(!this.#bench.observeOnly, 'held where we only observe');
        this.#must(event.atMostMs <= this.#bench.holdMs, `held for ${event.atMostMs} ms`);
        return;
      case 'stream_released':
        this.#checkRelease(event.stream, event.reason);
        return;
      case 'machine_key_duplicated':
        this.#checkDuplicate(event);
        return;
      case 'internal_error':
        this.#must(false, `${event.during}: ${event.error}`);
        return;
      default:
    }
  }

  #checkSevering(event: Severed): void {
    const { stream, newcomer, reason } = event;
    this.#must(stream.machineKey !== undefined && stream.machineKey === newcomer.machineKey, 'severed by another node');
    this.#must(newcomer.id > stream.id, 'the newer one was severed');
    this.#must(isLive(newcomer), 'severed for a newcomer that has gone itself');
    this.#must(isLive(stream), 'severed twice');
    this.#must(!this.#bench.observeOnly, 'severed where we only observe');
    if (reason === 'dead') this.#checkDead(stream);
    else this.#checkSilent(stream, newcomer);
  }

  #checkDead(stream: Stream): void {
    const known = this.known.get(stream);
    const line = this.#peers.find((peer) => peer.stream === stream)?.line;
    this.#must(known !== undefined, 'called dead, and unknown');
    if (known === undefined || line === undefined) return;
    this.#must(!isThere(known), 'called dead, and is there');
    this.#must(line.evidenceIsThere, 'called dead without evidence');
    const retransmitted = line.unackedSegments > 0 && line.retransmits >= 2;
    const { unansweredProbes = 0 } = line.evidence() ?? {};
    const sinceFirst = this.#bench.clock.now() - (line.firstUnansweredAt ?? this.#bench.clock.now());
    const waitMs = Math.max(450, 3 * (line.rttMs + 4 * line.rttvarMs));
    // The 50 ms of a look: the rule counts from when a probe was due, the line from when it left.
    const probed = unansweredProbes >= 3 && sinceFirst >= waitMs - 50;
    this.#must(retransmitted || probed, `called dead after ${unansweredProbes} probes, ${sinceFirst} ms`);
  }

  #checkSilent(stream: Stream, newcomer: Stream): void {
    const { machineKey } = stream;
    const now = this.#bench.clock.now();
    this.#must(this.#isSilent(stream), 'called silent, and was heard');
    this.#must(this.#isSettled(newcomer), 'called silent for a newcomer that has not settled');
    if (machineKey === undefined) return;
    this.#must(this.#suspendedUntil(stream) === undefined, 'called silent while rule 2 rests');
    this.#silentAt.set(machineKey, now);
  }

  /** What the guard says; whether it may is checked here: a rest needs returns, or two that have been shown to be there. */
  #suspendedUntil(stream: Stream): Instant | undefined {
    const { machineKey } = stream;
    const until = this.#bench.takeover.duplicates.suspendedUntil(stream);
    if (machineKey === undefined || until === undefined) return undefined;
    const isFound = this.#found.has(machineKey);
    this.#must(isFound || (this.#returns.get(machineKey) ?? 0) >= 2, 'rule 2 rests without a reason');
    const longestMs = isFound ? 15 * MINUTE_MS : 5 * MINUTE_MS;
    this.#must(until - this.#bench.clock.now() <= longestMs, 'rule 2 rests for too long');
    return until;
  }

  /** Counts what may be a clone that is back; each of its streams once. */
  came({ machineKey, openedAt }: Stream): void {
    if (machineKey === undefined) return;
    const silentAt = this.#silentAt.get(machineKey);
    // A prompt return may take a sixth of the time before it, which is five minutes at most, and its session may begin late.
    if (silentAt !== undefined && openedAt >= silentAt && openedAt - silentAt <= MINUTE_MS) {
      this.#returns.set(machineKey, (this.#returns.get(machineKey) ?? 0) + 1);
    }
  }

  #checkDuplicate({ machineKey, addresses }: Duplicate): void {
    const bothSpeak = [...this.#contests.values()].some(({ old, newcomer }) => {
      if (old.machineKey !== machineKey || old.address === newcomer.address) return false;
      const since = this.known.get(newcomer)?.firstRecordAt;
      const heard = [old, newcomer].map((each) => this.known.get(each)?.heardAt ?? 0);
      return since !== undefined && heard.every((at) => at >= since + 30_000);
    });
    this.#must(bothSpeak || (this.#returns.get(machineKey) ?? 0) >= 4, `a duplicate without a reason: ${addresses}`);
    this.#found.add(machineKey);
  }

  #checkRelease(stream: Stream, why: string): void {
    this.#must(isLive(stream), 'forwarded after it has left');
    if (why !== 'old_streams_ended' && why !== 'old_streams_answered') return;
    const severed = this.#peers.filter(
      (peer) =>
        peer.stream.machineKey === stream.machineKey && peer.stream.id < stream.id && peer.severedBecause === 'dead',
    );
    for (const peer of severed) {
      const isLate = peer.severedAt !== undefined && peer.severedAt >= stream.openedAt;
      if (isLate)
        this.#must(!this.#bench.closing.has(peer.stream), 'forwarded before what was severed for it had closed');
    }
  }

  #isSilent(stream: Stream): boolean {
    const heardAt = this.known.get(stream)?.heardAt ?? stream.openedAt;
    return this.#bench.clock.now() - heardAt >= this.#bench.silentAfterMs;
  }

  #isSettled(newcomer: Stream): boolean {
    const firstRecordAt = this.known.get(newcomer)?.firstRecordAt;
    return firstRecordAt !== undefined && this.#bench.clock.now() - firstRecordAt >= SETTLES_MS;
  }

  #checkStream(stream: Stream, forwardedAt: Instant | undefined): void {
    const now = this.#bench.clock.now();
    if (stream.state.kind === 'held') {
      this.#must(now < stream.state.until, 'held for longer than it said');
      this.#checkHeld(stream, now - stream.state.since);
    } else if (isLive(stream)) {
      this.#must(forwardedAt !== undefined, 'neither held nor forwarded');
    }
    if (!isLive(stream))
      this.#must(this.#bench.takeover.contestsOf(stream).length === 0, 'a contest outlives its stream');
  }

  /** Whoever is held is held for somebody, who is not there, or has not been able to answer yet. */
  #checkHeld(stream: Stream, heldMs: number): void {
    const { registry, closing } = this.#bench;
    const older = registry.ofMachineKey(stream.machineKey as MachineKey).filter(({ id }) => id < stream.id);
    this.#must(older.length > 0, 'held, and there is nobody to wait for');
    const mayBeAwaited = older.some((old) => {
      const known = this.known.get(old);
      return known === undefined || !isThere(known) || known.wasOdd || closing.has(old);
    });
    this.#must(mayBeAwaited || heldMs < ANSWERED_WITHIN_MS, 'held, and all old streams have answered');
  }

  /** What the rule asks for has happened, now that nothing is due. */
  #checkContest(contest: Contested): void {
    const { old, newcomer, openedAt } = contest;
    contest.wasObserved ||= this.#bench.observeOnly;
    const now = this.#bench.clock.now();
    this.#must(isLive(old) && isLive(newcomer), 'a contest with one that has gone');
    if (this.#bench.observeOnly) return;
    const rests = this.#suspendedUntil(old) !== undefined;
    const isDue = this.#isSilent(old) && this.#isSettled(newcomer) && !rests;
    this.#must(!isDue, `${old.id} is silent, ${newcomer.id} has settled, and nobody was severed`);
    const known = this.known.get(old);
    if (known?.vanishedAt === undefined || known.wasOdd || contest.wasObserved || known.vanishedAt > openedAt) return;
    this.#must(now - openedAt < DEAD_WITHIN_MS, `${old.id} vanished long ago, and was not severed`);
  }

  #checkProbes(): void {
    const asked = new Set([...this.#contests.values()].map(({ old }) => old));
    for (const { stream, line } of this.#peers) {
      if (!asked.has(stream)) this.#must(!line.probing, `${stream.id} is probed without a contest`);
    }
  }
}

function nameOf({ old, newcomer }: { readonly old: Stream; readonly newcomer: Stream }): string {
  return `${old.id} ${newcomer.id}`;
}
