import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import type { JsonFields } from '../lib/json.ts';
import type { Emit } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';
import { type Duplicate, Guard, type GuardEnvironment, type SilentSevering } from './guard.ts';

/** What `DuplicateKeys` needs from the rest of the watchdog. */
export interface DuplicateKeysOptions extends GuardEnvironment {
  readonly clock: Clock;
  readonly emit: Emit;
  /** How many streams of this key are open at this replica. */
  openOf(machineKey: MachineKey): number;
  /** Rule 2 is suspended for less long than it was, so severings of this key are due sooner. */
  shortened(machineKey: MachineKey): void;
}

/** Passes what contests show to the guard, and reports the machine keys that two machines use. */
export class DuplicateKeys {
  readonly #options: DuplicateKeysOptions;
  readonly #guard: Guard;

  constructor(options: DuplicateKeysOptions) {
    this.#options = options;
    this.#guard = new Guard(options);
  }

  /** How many machine keys two machines use. */
  get count(): number {
    return this.#guard.foundCount(this.#options.clock.now());
  }

  /** Whether two machines use this key. */
  has(machineKey: MachineKey): boolean {
    return this.#guard.isFound(machineKey, this.#options.clock.now());
  }

  /** Since when two machines may use this key. */
  suspectedSince(machineKey: MachineKey): Instant | undefined {
    return this.#guard.suspectedSince(machineKey, this.#options.clock.now());
  }

  /** What another process can go on with: see `Guard.remembered`. */
  remembered(): readonly JsonFields[] {
    return this.#guard.remembered(this.#options.clock.now());
  }

  remember(suspects: readonly unknown[]): void {
    this.#guard.remember(suspects, this.#options.clock.now());
  }

  suspendedUntil({ machineKey }: Stream): Instant | undefined {
    return this.#guard.suspendedUntil(machineKey, this.#options.clock.now());
  }

  /** A stream was severed by rule 1. */
  foundDead({ machineKey }: Stream): void {
    if (machineKey !== undefined) this.#tell(machineKey, () => void this.#guard.foundDead(machineKey));
  }

  /** A stream was severed by rule 2. @param loserAnswers undefined if the loser's kernel cannot be probed. */
  severed(loser: Stream, winner: Stream, loserAnswers: boolean | undefined): void {
    if (loser.machineKey === undefined) return;
    this.severedElsewhere(loser.machineKey, { loser: loser.address, winner: winner.address, loserAnswers });
  }

  /** Another replica severed a stream of this key by rule 2. */
  severedElsewhere(machineKey: MachineKey, { loser, winner, loserAnswers }: Omit<SilentSevering, 'at'>): void {
    this.#tell(machineKey, (at) => void this.#guard.severed(machineKey, { at, loser, winner, loserAnswers }));
  }

  /** The session of a stream has begun. */
  sessionBegan({ machineKey, address, openedAt }: Stream): void {
    if (machineKey !== undefined) this.#sessionBegan(machineKey, address, openedAt, 1);
  }

  /** The session of a stream has begun at another replica. */
  sessionBeganElsewhere(machineKey: MachineKey, address: string, openedAgoMs: number): void {
    this.#sessionBegan(machineKey, address, plus(this.#options.clock.now(), -openedAgoMs), 0);
  }

  #sessionBegan(machineKey: MachineKey, address: string, openedAt: Instant, ofThoseOpen: number): void {
    if (!this.isSuspect(machineKey)) return;
    const others = this.#options.openOf(machineKey) - ofThoseOpen;
    const coming = { address, openedAt, others };
    this.#tell(machineKey, (now) => this.#guard.sessionBegan(machineKey, coming, now));
  }

  /** Whether other replicas need to know about new sessions of this key. */
  isSuspect(machineKey: MachineKey): boolean {
    return this.#guard.isSuspect(machineKey);
  }

  /** Both streams stay for now. */
  bothStay(old: Stream, newcomer: Stream): void {
    const { machineKey } = old;
    if (machineKey === undefined) return;
    this.#tell(machineKey, (now) => this.#guard.bothStay(machineKey, old, newcomer, now));
  }

  /** Another replica has found that two machines use this key. */
  foundElsewhere(machineKey: MachineKey, addresses: Duplicate['addresses']): void {
    this.#tell(machineKey, (now) => this.#guard.suspend(machineKey, addresses, now));
  }

  /** Tells the guard something, reports what it finds, and has contests judged again if they are due sooner. */
  #tell(machineKey: MachineKey, about: (now: Instant) => Duplicate | undefined): void {
    const now = this.#options.clock.now();
    const before = this.#guard.suspendedUntil(machineKey, now);
    const found = about(now);
    if (found) this.#options.emit({ kind: 'machine_key_duplicated', machineKey, ...found });
    const until = this.#guard.suspendedUntil(machineKey, now);
    if (before !== undefined && (until === undefined || until < before)) this.#options.shortened(machineKey);
  }
}
