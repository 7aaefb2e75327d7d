import type { MachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import type { Emit } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';
import { type Duplicate, Guard, type GuardPorts, type Shown, type Turn } from './guard.ts';

export interface DuplicatesParts extends GuardPorts {
  readonly clock: Clock;
  readonly emit: Emit;
  /** How many streams of this key are open here. */
  openOf(machineKey: MachineKey): number;
  /** What was put off for this key is due. */
  moved(machineKey: MachineKey): void;
}

/** Which machine keys two machines have: what contests show goes to the guard, and what it finds is told. */
export class Duplicates {
  readonly #parts: DuplicatesParts;
  readonly #guard: Guard;

  constructor(parts: DuplicatesParts) {
    this.#parts = parts;
    this.#guard = new Guard(parts);
  }

  /** How many machine keys two machines have. */
  get count(): number {
    return this.#guard.found(this.#parts.clock.now());
  }

  restsUntil({ machineKey }: Stream): Instant | undefined {
    return this.#guard.restsUntil(machineKey, this.#parts.clock.now());
  }

  /** A stream was severed by rule 1. */
  died({ machineKey }: Stream): void {
    if (machineKey !== undefined) this.#shown(machineKey, this.#guard.died(machineKey));
  }

  /** A stream was severed by rule 2. @param loserAnswers undefined where its kernel cannot be asked. */
  severed(loser: Stream, winner: Stream, loserAnswers: boolean | undefined): void {
    if (loser.machineKey === undefined) return;
    this.severedElsewhere(loser.machineKey, { loser: loser.address, winner: winner.address, loserAnswers });
  }

  /** Another replica severed, by rule 2, a stream of this key. */
  severedElsewhere(machineKey: MachineKey, { loser, winner, loserAnswers }: Omit<Turn, 'at'>): void {
    const at = this.#parts.clock.now();
    this.#shown(machineKey, this.#guard.severed(machineKey, { at, loser, winner, loserAnswers }));
  }

  /** A stream's session has begun. */
  came({ machineKey, address, openedAt }: Stream): void {
    if (machineKey !== undefined) this.#came(machineKey, address, openedAt, 1);
  }

  /** A stream's session has begun at another replica. */
  cameElsewhere(machineKey: MachineKey, address: string, openedAgoMs: number): void {
    this.#came(machineKey, address, plus(this.#parts.clock.now(), -openedAgoMs), 0);
  }

  #came(machineKey: MachineKey, address: string, openedAt: Instant, ofThoseOpen: number): void {
    if (!this.suspects(machineKey)) return;
    const others = this.#parts.openOf(machineKey) - ofThoseOpen;
    const coming = { address, openedAt, others };
    this.#shown(machineKey, this.#guard.came(machineKey, coming, this.#parts.clock.now()));
  }

  /** Whether other replicas must hear of what comes of this key. */
  suspects(machineKey: MachineKey): boolean {
    return this.#guard.suspects(machineKey);
  }

  /** Both of two streams stay for now. */
  stay(old: Stream, newcomer: Stream): void {
    const { machineKey } = old;
    if (machineKey === undefined) return;
    this.#shown(machineKey, this.#guard.stay(machineKey, old, newcomer, this.#parts.clock.now()));
  }

  /** Another replica has found that two machines have this key. */
  foundElsewhere(machineKey: MachineKey, addresses: Duplicate['addresses']): void {
    this.#shown(machineKey, this.#guard.rest(machineKey, addresses, this.#parts.clock.now()));
  }

  #shown(machineKey: MachineKey, shown: Shown): void {
    if (shown === undefined) return;
    if (shown === 'moved') this.#parts.moved(machineKey);
    else this.#parts.emit({ kind: 'duplicate machine key', machineKey, ...shown });
  }
}
