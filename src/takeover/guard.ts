import { formatMachineKey, type MachineKey, parseMachineKey } from '../identity/keys.ts';
import { type Instant, plus } from '../lib/clock.ts';
import { fieldsOf, type JsonFields, stringOf } from '../lib/json.ts';
import type { Stream } from '../streams/stream.ts';

/** A severing by rule 2, as the guard sees it. Addresses have no ports. */
export interface SilentSevering {
  readonly at: Instant;
  /** The address of the old stream, which was severed. */
  readonly loser: string;
  /** The address of the newcomer. */
  readonly winner: string;
  /** Whether the loser's kernel answered a probe, so its machine is there. Undefined if it cannot be probed. */
  readonly loserAnswers: boolean | undefined;
}

/** A new stream of a node, when its session has begun. */
export interface NewSession {
  readonly address: string;
  readonly openedAt: Instant;
  /** How many other streams of its node are open, as far as this replica knows. */
  readonly others: number;
}

/** Two machines with one key: their addresses, and for how long rule 2 is suspended. */
export interface Duplicate {
  readonly addresses: readonly [string, string];
  readonly restMs: number;
}

const MINUTE_MS = 60_000;
const FIRST_SUSPENSION_MS = MINUTE_MS;
const LONGEST_SUSPENSION_MS = 15 * MINUTE_MS;
/** After this long without a new finding, the next suspension is one minute again. */
const PEACE_MS = 60 * MINUTE_MS;
/** A clone comes back within seconds. */
const BACK_WITHIN_MS = 10_000;
/** Nothing is delayed before this many prompt returns: a phone may move just as it is severed, once or twice. */
const RETURNS_BEFORE_TESTS = 2;
/** Further severings are delayed by one to two times these, in turn. No rhythm of a phone fits all three. */
const DELAYS_MS = [15_000, 30_000, 60_000] as const;
const LONGEST_DELAY_MS = 5 * MINUTE_MS;
/** Delays grow in proportion when returns take longer than this. */
const USUAL_RETURN_MS = 1250;
/** A return is prompt within this part of the quiet time before the severing: it came because it was severed. */
const PROMPT = 1 / 6;
/** Points per prompt return, and how many prove two machines: six returns, or two if the loser's kernel answers. */
const [POINTS, POINTS_WITH_KERNEL, ENOUGH_POINTS] = [2, 6, 12];
/** How many severings of one key may wait for a return at once. */
const MOST_PENDING = 4;
const FORGETS_EVERY_MS = 10_000;
const FORGOTTEN_AFTER_MS = 15 * MINUTE_MS;

/** A severing after which nobody has come back yet. */
interface Pending {
  readonly turn: SilentSevering;
  /** How long no new stream had come before it. */
  readonly quietMs: number;
  readonly until: Instant;
}

interface Suspect {
  pending: readonly Pending[];
  /** When the last stream of this key was opened. */
  cameAt: Instant;
  /** Prompt returns in a row. */
  returns: number;
  /** Since when severings are delayed, because there may be two machines. */
  since: Instant | undefined;
  /** How long the slowest of them took. */
  slowestMs: number;
  points: number;
  suspendedUntil: Instant | undefined;
  /** The length of the last suspension; 0 if there was no finding yet. */
  restMs: number;
  isFound: boolean;
  /** Two streams that both send, see `bothStay`. */
  speaking: { readonly old: Stream; readonly newcomer: Stream; readonly at: Instant } | undefined;
}

/** Two streams that both still send this long after the newcomer's first record, twice in a row, are two machines. */
const BOTH_SPEAK_AFTER_MS = 30_000;

/** What the guard needs from outside. */
export interface GuardEnvironment {
  /** A random number from 0 to 1, so that nobody can adapt to the delays. */
  random(): number;
  /** Whether the address identifies a machine. A NAT's or a gateway's address does not. */
  isTelling(address: string): boolean;
}

/**
 * Finds machine keys that two machines use, such as a cloned VM. Rule 2 would make them sever each other for ever. A phone that
 * moves between two networks must never be taken for two machines.
 *
 * A clone comes back because it was severed. A phone comes back when it moves. So after two prompt returns, the next
 * severings of the key are delayed by random times. If a stream comes during the delay, late, or from another address, one
 * machine has moved, and the count starts again. If a stream comes back promptly each time, there are two machines.
 */
export class Guard {
  readonly #ports: GuardEnvironment;
  /** Keys with a severing by rule 2 in the last minutes, or with a finding in the last hour. */
  readonly #suspects = new Map<MachineKey, Suspect>();
  #forgetsAt: Instant | undefined;

  constructor(ports: GuardEnvironment) {
    this.#ports = ports;
  }

  /** Notes a severing by rule 2. */
  severed(key: MachineKey, turn: SilentSevering): void {
    this.#forget(turn.at);
    const suspect = this.#suspect(key, turn.at);
    if (turn.loserAnswers === false && this.#ports.isTelling(turn.loser)) {
      acquit(suspect);
      return;
    }
    if (suspect.pending.some(({ until }) => until < turn.at)) acquit(suspect);
    const quietMs = turn.at - suspect.cameAt;
    const isTest = suspect.returns >= RETURNS_BEFORE_TESTS;
    const withinMs = isTest ? quietMs * PROMPT : BACK_WITHIN_MS;
    const until = plus(turn.at, suspect.isFound ? Math.max(withinMs, BACK_WITHIN_MS) : withinMs);
    suspect.pending = [...suspect.pending, { turn, quietMs, until }].slice(-MOST_PENDING);
  }

  /** A stream of this key was found dead: its machine is gone. */
  foundDead(key: MachineKey): void {
    const suspect = this.#suspects.get(key);
    if (suspect !== undefined) acquit(suspect);
  }

  /** Notes a new session of this key. */
  sessionBegan(key: MachineKey, coming: NewSession, now: Instant): Duplicate | undefined {
    const suspect = this.#suspects.get(key);
    if (suspect === undefined) return undefined;
    const cause = suspect.pending.find((pending) => this.#explains(pending, coming));
    suspect.cameAt = coming.openedAt;
    if (cause !== undefined) return this.#returned(key, suspect, cause, coming, now);
    // After a finding, the suspension runs to its end.
    if (!(this.#isSuspended(suspect, now) && suspect.isFound)) acquit(suspect);
    return undefined;
  }

  /** Both streams stay for now. One machine uses only one stream, and the one that it left falls silent. */
  bothStay(key: MachineKey, old: Stream, newcomer: Stream, now: Instant): Duplicate | undefined {
    if (newcomer.firstRecordAt === undefined || old.address === newcomer.address) return undefined;
    if (!bothSpeak(old, newcomer, newcomer.firstRecordAt)) return undefined;
    if (![old.address, newcomer.address].every((address) => this.#ports.isTelling(address))) return undefined;
    const suspect = this.#suspect(key, newcomer.openedAt);
    const { speaking } = suspect;
    if (speaking?.old !== old || speaking.newcomer !== newcomer) {
      // The last bytes of a phone may arrive after it is back. That happens only once.
      suspect.speaking = { old, newcomer, at: now };
      return undefined;
    }
    return bothSpeak(old, newcomer, speaking.at) ? this.suspend(key, [old.address, newcomer.address], now) : undefined;
  }

  /** Suspends rule 2 for a key that two machines use. @returns undefined if it is suspended for that already. */
  suspend(key: MachineKey, addresses: Duplicate['addresses'], now: Instant): Duplicate | undefined {
    const suspect = this.#suspect(key, now);
    if (suspect.isFound && this.#isSuspended(suspect, now)) return undefined;
    suspect.restMs = suspect.restMs === 0 ? FIRST_SUSPENSION_MS : Math.min(2 * suspect.restMs, LONGEST_SUSPENSION_MS);
    suspect.suspendedUntil = plus(now, suspect.restMs);
    suspect.isFound = true;
    suspect.speaking = undefined;
    return { addresses, restMs: suspect.restMs };
  }

  /** Until when rule 2 is suspended for `key`. Undefined if it is not. */
  suspendedUntil(key: MachineKey | undefined, now: Instant): Instant | undefined {
    const suspect = key === undefined ? undefined : this.#suspects.get(key);
    return suspect !== undefined && this.#isSuspended(suspect, now) ? suspect.suspendedUntil : undefined;
  }

  /** Whether new sessions of this key matter. */
  isSuspect(key: MachineKey): boolean {
    return this.#suspects.has(key);
  }

  /** What another process can go on with, see `remember`. @param now when it is sent: only durations travel. */
  remembered(now: Instant): readonly JsonFields[] {
    const ago = (at: Instant | undefined): number | undefined => (at === undefined ? undefined : now - at);
    return [...this.#suspects].map(([key, { pending, cameAt, since, suspendedUntil, speaking: _, ...counts }]) => ({
      ...{ machineKey: formatMachineKey(key), ...counts },
      ...{ cameAgoMs: ago(cameAt), sinceAgoMs: ago(since), suspendedForMs: suspendedUntil && suspendedUntil - now },
      pending: pending.map(({ turn, quietMs, until }) => ({
        ...{ ...turn, at: undefined, severedAgoMs: ago(turn.at), quietMs, forMs: until - now },
      })),
    }));
  }

  /** Takes what another process knew. What this version does not understand is left out: then the count starts again. */
  remember(suspects: readonly unknown[], now: Instant): void {
    for (const each of suspects) {
      const read = readSuspect(fieldsOf(each), now);
      if (read !== undefined && !this.#suspects.has(read.key)) this.#suspects.set(read.key, read.suspect);
    }
  }

  /** How many keys have a finding. */
  foundCount(now: Instant): number {
    this.#forget(now);
    let found = 0;
    for (const key of this.#suspects.keys()) if (this.isFound(key, now)) found += 1;
    return found;
  }

  /**
   * Since when two machines may use this key: while its severings are delayed, and one minute longer. Undefined if nothing points to
   * it, and once it is a finding.
   */
  suspectedSince(key: MachineKey, now: Instant): Instant | undefined {
    const { isFound, since, suspendedUntil } = this.#suspects.get(key) ?? {};
    return !isFound && suspendedUntil !== undefined && now < suspendedUntil + MINUTE_MS ? since : undefined;
  }

  /** Whether a key has a finding: while rule 2 is suspended, and one minute longer, until a return shows whether it still holds. */
  isFound(key: MachineKey, now: Instant): boolean {
    const { isFound, suspendedUntil } = this.#suspects.get(key) ?? {};
    return isFound === true && suspendedUntil !== undefined && now < suspendedUntil + MINUTE_MS;
  }

  #returned(
    key: MachineKey,
    suspect: Suspect,
    cause: Pending,
    coming: NewSession,
    now: Instant,
  ): Duplicate | undefined {
    suspect.pending = suspect.pending.filter((each) => each !== cause);
    const { turn } = cause;
    const addresses = [turn.loser, turn.winner] as const;
    if (suspect.isFound) return this.suspend(key, addresses, now);
    suspect.returns += 1;
    suspect.slowestMs = Math.max(suspect.slowestMs, coming.openedAt - turn.at);
    if (suspect.returns > RETURNS_BEFORE_TESTS) {
      const hasKernel = turn.loserAnswers === true && this.#ports.isTelling(turn.loser);
      suspect.points += (hasKernel ? POINTS_WITH_KERNEL : POINTS) * (isCrowd(coming) ? 0.5 : 1);
      if (suspect.points >= ENOUGH_POINTS) return this.suspend(key, addresses, now);
    }
    if (suspect.returns >= RETURNS_BEFORE_TESTS) {
      suspect.since ??= now;
      this.#delay(suspect, coming);
    }
    return undefined;
  }

  #delay(suspect: Suspect, coming: NewSession): void {
    const [shortestMs] = DELAYS_MS;
    const inTurnMs = DELAYS_MS[(suspect.returns - RETURNS_BEFORE_TESTS) % DELAYS_MS.length] ?? shortestMs;
    const neededMs = inTurnMs * Math.max(1, suspect.slowestMs / USUAL_RETURN_MS);
    const ms = (isCrowd(coming) ? shortestMs : neededMs) * (1 + this.#ports.random());
    suspect.suspendedUntil = plus(coming.openedAt, Math.min(ms, LONGEST_DELAY_MS));
  }

  #explains({ turn, until }: Pending, { address, openedAt }: NewSession): boolean {
    if (openedAt < turn.at || openedAt > until) return false;
    if (address === turn.loser) return true;
    // Two addresses that identify no machine may belong to the same machine.
    return !this.#ports.isTelling(address) && !this.#ports.isTelling(turn.loser);
  }

  #isSuspended({ suspendedUntil }: Suspect, now: Instant): boolean {
    return suspendedUntil !== undefined && now < suspendedUntil;
  }

  #suspect(key: MachineKey, cameAt: Instant): Suspect {
    const known = this.#suspects.get(key);
    if (known !== undefined) return known;
    const suspect: Suspect = {
      ...{ pending: [], cameAt, returns: 0, since: undefined, slowestMs: 0, points: 0 },
      ...{ suspendedUntil: undefined, restMs: 0, isFound: false, speaking: undefined },
    };
    this.#suspects.set(key, suspect);
    return suspect;
  }

  #forget(now: Instant): void {
    if (this.#forgetsAt !== undefined && now < this.#forgetsAt) return;
    this.#forgetsAt = plus(now, FORGETS_EVERY_MS);
    for (const [key, { pending, cameAt, suspendedUntil, restMs, speaking }] of this.#suspects) {
      const lastAt = Math.max(cameAt, suspendedUntil ?? 0, speaking?.at ?? 0, ...pending.map(({ turn }) => turn.at));
      if (now - lastAt > (restMs > 0 ? PEACE_MS : FORGOTTEN_AFTER_MS)) this.#suspects.delete(key);
    }
  }
}

/** More than two streams usually belong to one phone, not to three machines. They should not stay for long. */
function isCrowd({ others }: NewSession): boolean {
  return others > 1;
}

function bothSpeak(old: Stream, newcomer: Stream, begin: Instant): boolean {
  const since = plus(begin, BOTH_SPEAK_AFTER_MS);
  return old.heardAt >= since && newcomer.heardAt >= since;
}

/** Clears the suspicion. The length of the last suspension is remembered for a while. */
function acquit(suspect: Suspect): void {
  Object.assign(suspect, {
    pending: [],
    returns: 0,
    since: undefined,
    slowestMs: 0,
    points: 0,
    suspendedUntil: undefined,
    isFound: false,
    speaking: undefined,
  });
}

function readSuspect(fields: JsonFields, now: Instant): { key: MachineKey; suspect: Suspect } | undefined {
  const key = parseMachineKey(stringOf(fields.machineKey));
  const { cameAgoMs, sinceAgoMs, suspendedForMs, returns, slowestMs, points, restMs, isFound, pending } = fields;
  const numbers = [cameAgoMs, returns, slowestMs, points, restMs];
  if (key === undefined || !numbers.every(Number.isFinite) || !Array.isArray(pending)) return undefined;
  const at = (ago: unknown): Instant => plus(now, -Number(ago));
  const maybe = (ago: unknown): Instant | undefined => (Number.isFinite(ago) ? at(ago) : undefined);
  const suspect: Suspect = {
    ...{ returns: Number(returns), slowestMs: Number(slowestMs), points: Number(points), restMs: Number(restMs) },
    ...{ cameAt: at(cameAgoMs), since: maybe(sinceAgoMs), isFound: isFound === true, speaking: undefined },
    suspendedUntil: Number.isFinite(suspendedForMs) ? plus(now, Number(suspendedForMs)) : undefined,
    pending: pending.map(fieldsOf).flatMap(({ severedAgoMs, loser, winner, loserAnswers, quietMs, forMs }) => {
      if (![severedAgoMs, quietMs, forMs].every(Number.isFinite)) return [];
      const answers = typeof loserAnswers === 'boolean' ? loserAnswers : undefined;
      const turn = { at: at(severedAgoMs), loser: stringOf(loser), winner: stringOf(winner), loserAnswers: answers };
      return [{ turn, quietMs: Number(quietMs), until: plus(now, Number(forMs)) }];
    }),
  };
  return { key, suspect };
}
