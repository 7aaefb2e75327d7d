import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import type { Emit } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';

/** A severing by rule 2, as the guard sees it. Addresses are without ports. */
export interface SilentSevering {
  readonly at: Instant;
  /** Whose old stream was severed. */
  readonly loser: string;
  /** Whose newcomer it made room for. */
  readonly winner: string;
  /** Whether the loser's kernel has answered a probe, so that its machine is there; undefined where it cannot be asked. */
  readonly loserAnswers: boolean | undefined;
}

/** A stream that a node has opened, once its session has begun. */
export interface NewSession {
  readonly address: string;
  readonly openedAt: Instant;
  /** How many other streams of its node are open, as far as is known here. */
  readonly others: number;
}

export interface Duplicate {
  readonly addresses: readonly [string, string];
  readonly restMs: number;
}

/** What a coming has shown. `moved`: the node moves between networks, and whatever was put off is due. */
export type Finding = Duplicate | 'moved' | undefined;

const MINUTE_MS = 60_000;
const FIRST_REST_MS = MINUTE_MS;
const LONGEST_REST_MS = 15 * MINUTE_MS;
/** A key that was not found again for so long after its rest begins with a minute again. */
const PEACE_MS = 60 * MINUTE_MS;
/** A clone is back within seconds. */
const BACK_WITHIN_MS = 10_000;
/** Before so many prompt returns nothing is put off: a phone may well move as it is severed, once or twice. */
const RETURNS_BEFORE_TESTS = 2;
/** Each further severing is put off by one to two times as much, in turn: no rhythm of a phone's fits all three. */
const PUT_OFF_MS = [15_000, 30_000, 60_000] as const;
const LONGEST_PUT_OFF_MS = 5 * MINUTE_MS;
/** As long as returns take no longer than this; where they do, all the longer. */
const USUAL_RETURN_MS = 1250;
/** It came because it was severed: within a sixth of the time for which it did not come before. */
const PROMPT = 1 / 6;
/** What a passed test counts, and how much it takes: six, or two where the loser's kernel answers. */
const [POINTS, POINTS_WITH_KERNEL, ENOUGH_POINTS] = [2, 6, 12];
/** Severings of one key that wait for a return at once. */
const MOST_PENDING = 4;
const FORGETS_EVERY_MS = 10_000;
const FORGOTTEN_AFTER_MS = 15 * MINUTE_MS;

/** A severing that nobody has come back from yet. */
interface Pending {
  readonly turn: SilentSevering;
  /** For how long nobody had come before it. */
  readonly quietMs: number;
  readonly until: Instant;
}

interface Suspect {
  pending: readonly Pending[];
  /** When its last stream was opened. */
  cameAt: Instant;
  /** Prompt returns, one after the other. */
  returns: number;
  /** What the slowest of them took. */
  slowestMs: number;
  points: number;
  restsUntil: Instant | undefined;
  /** How long it rested when it was found last; 0: it was not. */
  restMs: number;
  isFound: boolean;
  /** Two streams that have both been heard, see `stay`. */
  speaking: { readonly old: Stream; readonly newcomer: Stream; readonly at: Instant } | undefined;
}

/** How long past the newcomer's first record both streams must still be heard to be two machines', and then once more. */
const BOTH_SPEAK_AFTER_MS = 30_000;

export interface GuardEnvironment {
  /** From 0 to 1. Nobody can adapt to when the next test begins. */
  random(): number;
  /** Whether the address says anything about the machine behind it. */
  isTelling(address: string): boolean;
}

/**
 * Two machines with one key (a cloned VM) would sever each other for ever by rule 2; a phone that moves between two networks
 * must never be taken for two. A clone comes back because it was severed, a phone when it moves. So once a key's streams
 * have come back promptly twice, its next severings are put off, each by another random time: whoever comes meanwhile, comes
 * late or comes from elsewhere has moved, and all counts from nothing; who comes back at once each time is two machines.
 */
export class Guard {
  readonly #ports: GuardEnvironment;
  /** Only keys with a severing by rule 2 within the last minutes, and those that were found within the last hour. */
  readonly #suspects = new Map<MachineKey, Suspect>();
  #forgetsAt: Instant | undefined;

  constructor(ports: GuardEnvironment) {
    this.#ports = ports;
  }

  /** Notes a severing by rule 2. @returns `moved`: nobody was there, so what was put off is due. */
  severed(key: MachineKey, turn: SilentSevering): Finding {
    this.#forget(turn.at);
    const suspect = this.#suspect(key, turn.at);
    if (turn.loserAnswers === false && this.#ports.isTelling(turn.loser)) return acquit(suspect);
    if (suspect.pending.some(({ until }) => until < turn.at)) acquit(suspect);
    const quietMs = turn.at - suspect.cameAt;
    const isTest = suspect.returns >= RETURNS_BEFORE_TESTS;
    const withinMs = isTest ? quietMs * PROMPT : BACK_WITHIN_MS;
    const until = plus(turn.at, suspect.isFound ? Math.max(withinMs, BACK_WITHIN_MS) : withinMs);
    suspect.pending = [...suspect.pending, { turn, quietMs, until }].slice(-MOST_PENDING);
    return undefined;
  }

  /** A stream of this key was found dead: nobody is there. */
  foundDead(key: MachineKey): Finding {
    const suspect = this.#suspects.get(key);
    return suspect && acquit(suspect);
  }

  /** Notes that a stream of this key has come. */
  sessionBegan(key: MachineKey, coming: NewSession, now: Instant): Finding {
    const suspect = this.#suspects.get(key);
    if (suspect === undefined) return undefined;
    const cause = suspect.pending.find((pending) => this.#explains(pending, coming));
    suspect.cameAt = coming.openedAt;
    if (cause !== undefined) return this.#returned(key, suspect, cause, coming, now);
    // Of a key that was found the rest goes on, whatever comes.
    if (this.#rests(suspect, now) && suspect.isFound) return undefined;
    return acquit(suspect);
  }

  /** Both of two streams stay for now: a machine uses one, and what it left behind falls silent. */
  bothStay(key: MachineKey, old: Stream, newcomer: Stream, now: Instant): Duplicate | undefined {
    if (newcomer.firstRecordAt === undefined || old.address === newcomer.address) return undefined;
    if (!bothSpeak(old, newcomer, newcomer.firstRecordAt)) return undefined;
    if (![old.address, newcomer.address].every((address) => this.#ports.isTelling(address))) return undefined;
    const suspect = this.#suspect(key, newcomer.openedAt);
    const { speaking } = suspect;
    if (speaking?.old !== old || speaking.newcomer !== newcomer) {
      // What a phone sent as it left may arrive when it is back. That happens once.
      suspect.speaking = { old, newcomer, at: now };
      return undefined;
    }
    return bothSpeak(old, newcomer, speaking.at) ? this.rest(key, [old.address, newcomer.address], now) : undefined;
  }

  /** Lets rule 2 rest for a key that two machines have been shown to have; undefined when it rests for that already. */
  rest(key: MachineKey, addresses: Duplicate['addresses'], now: Instant): Duplicate | undefined {
    const suspect = this.#suspect(key, now);
    if (suspect.isFound && this.#rests(suspect, now)) return undefined;
    suspect.restMs = suspect.restMs === 0 ? FIRST_REST_MS : Math.min(2 * suspect.restMs, LONGEST_REST_MS);
    suspect.restsUntil = plus(now, suspect.restMs);
    suspect.isFound = true;
    suspect.speaking = undefined;
    return { addresses, restMs: suspect.restMs };
  }

  /** Until when rule 2 rests for `key`; undefined when it does not. */
  restsUntil(key: MachineKey | undefined, now: Instant): Instant | undefined {
    const suspect = key === undefined ? undefined : this.#suspects.get(key);
    return suspect !== undefined && this.#rests(suspect, now) ? suspect.restsUntil : undefined;
  }

  /** Whether what comes of this key matters. */
  isSuspect(key: MachineKey): boolean {
    return this.#suspects.has(key);
  }

  /** How many keys two machines have been shown to have: while rule 2 rests for them, and until a return is due after it. */
  foundCount(now: Instant): number {
    this.#forget(now);
    let found = 0;
    for (const { isFound, restsUntil } of this.#suspects.values()) {
      if (isFound && restsUntil !== undefined && now < restsUntil + MINUTE_MS) found += 1;
    }
    return found;
  }

  #returned(key: MachineKey, suspect: Suspect, cause: Pending, coming: NewSession, now: Instant): Finding {
    suspect.pending = suspect.pending.filter((each) => each !== cause);
    const { turn } = cause;
    const addresses = [turn.loser, turn.winner] as const;
    if (suspect.isFound) return this.rest(key, addresses, now);
    suspect.returns += 1;
    suspect.slowestMs = Math.max(suspect.slowestMs, coming.openedAt - turn.at);
    if (suspect.returns > RETURNS_BEFORE_TESTS) {
      const hasKernel = turn.loserAnswers === true && this.#ports.isTelling(turn.loser);
      suspect.points += (hasKernel ? POINTS_WITH_KERNEL : POINTS) * (isCrowd(coming) ? 0.5 : 1);
      if (suspect.points >= ENOUGH_POINTS) return this.rest(key, addresses, now);
    }
    if (suspect.returns >= RETURNS_BEFORE_TESTS) this.#putOff(suspect, coming);
    return undefined;
  }

  #putOff(suspect: Suspect, coming: NewSession): void {
    const [shortestMs] = PUT_OFF_MS;
    const inTurnMs = PUT_OFF_MS[(suspect.returns - RETURNS_BEFORE_TESTS) % PUT_OFF_MS.length] ?? shortestMs;
    const neededMs = inTurnMs * Math.max(1, suspect.slowestMs / USUAL_RETURN_MS);
    const ms = (isCrowd(coming) ? shortestMs : neededMs) * (1 + this.#ports.random());
    suspect.restsUntil = plus(coming.openedAt, Math.min(ms, LONGEST_PUT_OFF_MS));
  }

  #explains({ turn, until }: Pending, { address, openedAt }: NewSession): boolean {
    if (openedAt < turn.at || openedAt > until) return false;
    if (address === turn.loser) return true;
    // Nobody else is there where nobody else can be told.
    return !this.#ports.isTelling(address) && !this.#ports.isTelling(turn.loser);
  }

  #rests({ restsUntil }: Suspect, now: Instant): boolean {
    return restsUntil !== undefined && now < restsUntil;
  }

  #suspect(key: MachineKey, cameAt: Instant): Suspect {
    const known = this.#suspects.get(key);
    if (known !== undefined) return known;
    const suspect: Suspect = {
      ...{ pending: [], cameAt, returns: 0, slowestMs: 0, points: 0 },
      ...{ restsUntil: undefined, restMs: 0, isFound: false, speaking: undefined },
    };
    this.#suspects.set(key, suspect);
    return suspect;
  }

  #forget(now: Instant): void {
    if (this.#forgetsAt !== undefined && now < this.#forgetsAt) return;
    this.#forgetsAt = plus(now, FORGETS_EVERY_MS);
    for (const [key, { pending, cameAt, restsUntil, restMs, speaking }] of this.#suspects) {
      const lastAt = Math.max(cameAt, restsUntil ?? 0, speaking?.at ?? 0, ...pending.map(({ turn }) => turn.at));
      if (now - lastAt > (restMs > 0 ? PEACE_MS : FORGOTTEN_AFTER_MS)) this.#suspects.delete(key);
    }
  }
}

/** More than two streams are more often a phone's than three machines': they are not to stay for long. */
function isCrowd({ others }: NewSession): boolean {
  return others > 1;
}

function bothSpeak(old: Stream, newcomer: Stream, begin: Instant): boolean {
  const since = plus(begin, BOTH_SPEAK_AFTER_MS);
  return old.heardAt >= since && newcomer.heardAt >= since;
}

/** Nothing speaks for two machines any more. How long it last rested is remembered for a while. */
function acquit(suspect: Suspect): 'moved' | undefined {
  const wasPutOff = suspect.restsUntil !== undefined;
  Object.assign(suspect, { pending: [], returns: 0, slowestMs: 0, points: 0, restsUntil: undefined, isFound: false });
  suspect.speaking = undefined;
  return wasPutOff ? 'moved' : undefined;
}

export interface DuplicateKeysOptions extends GuardEnvironment {
  readonly clock: Clock;
  readonly emit: Emit;
  /** How many streams of this key are open here. */
  openOf(machineKey: MachineKey): number;
  /** What was put off for this key is due. */
  moved(machineKey: MachineKey): void;
}

/** Which machine keys two machines have: what contests show goes to the guard, and what it finds is told. */
export class DuplicateKeys {
  readonly #parts: DuplicateKeysOptions;
  readonly #guard: Guard;

  constructor(parts: DuplicateKeysOptions) {
    this.#parts = parts;
    this.#guard = new Guard(parts);
  }

  /** How many machine keys two machines have. */
  get count(): number {
    return this.#guard.foundCount(this.#parts.clock.now());
  }

  restsUntil({ machineKey }: Stream): Instant | undefined {
    return this.#guard.restsUntil(machineKey, this.#parts.clock.now());
  }

  /** A stream was severed by rule 1. */
  foundDead({ machineKey }: Stream): void {
    if (machineKey !== undefined) this.#report(machineKey, this.#guard.foundDead(machineKey));
  }

  /** A stream was severed by rule 2. @param loserAnswers undefined where its kernel cannot be asked. */
  severed(loser: Stream, winner: Stream, loserAnswers: boolean | undefined): void {
    if (loser.machineKey === undefined) return;
    this.severedElsewhere(loser.machineKey, { loser: loser.address, winner: winner.address, loserAnswers });
  }

  /** Another replica severed, by rule 2, a stream of this key. */
  severedElsewhere(machineKey: MachineKey, { loser, winner, loserAnswers }: Omit<SilentSevering, 'at'>): void {
    const at = this.#parts.clock.now();
    this.#report(machineKey, this.#guard.severed(machineKey, { at, loser, winner, loserAnswers }));
  }

  /** A stream's session has begun. */
  sessionBegan({ machineKey, address, openedAt }: Stream): void {
    if (machineKey !== undefined) this.#sessionBegan(machineKey, address, openedAt, 1);
  }

  /** A stream's session has begun at another replica. */
  sessionBeganElsewhere(machineKey: MachineKey, address: string, openedAgoMs: number): void {
    this.#sessionBegan(machineKey, address, plus(this.#parts.clock.now(), -openedAgoMs), 0);
  }

  #sessionBegan(machineKey: MachineKey, address: string, openedAt: Instant, ofThoseOpen: number): void {
    if (!this.isSuspect(machineKey)) return;
    const others = this.#parts.openOf(machineKey) - ofThoseOpen;
    const coming = { address, openedAt, others };
    this.#report(machineKey, this.#guard.sessionBegan(machineKey, coming, this.#parts.clock.now()));
  }

  /** Whether other replicas must hear of what comes of this key. */
  isSuspect(machineKey: MachineKey): boolean {
    return this.#guard.isSuspect(machineKey);
  }

  /** Both of two streams stay for now. */
  bothStay(old: Stream, newcomer: Stream): void {
    const { machineKey } = old;
    if (machineKey === undefined) return;
    this.#report(machineKey, this.#guard.bothStay(machineKey, old, newcomer, this.#parts.clock.now()));
  }

  /** Another replica has found that two machines have this key. */
  foundElsewhere(machineKey: MachineKey, addresses: Duplicate['addresses']): void {
    this.#report(machineKey, this.#guard.rest(machineKey, addresses, this.#parts.clock.now()));
  }

  #report(machineKey: MachineKey, shown: Finding): void {
    if (shown === undefined) return;
    if (shown === 'moved') this.#parts.moved(machineKey);
    else this.#parts.emit({ kind: 'machine_key_duplicated', machineKey, ...shown });
  }
}
