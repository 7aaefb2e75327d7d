import type { Clock, Instant } from '../clock.ts';
import type { Emit } from '../events.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { Stream } from '../streams/stream.ts';
import { bothSpeak, type Duplicate, Guard, type Turn } from './guard.ts';

/** Which machine keys two machines have: what contests show goes to the guard, and what it finds is told. */
export class Duplicates {
  readonly #clock: Clock;
  readonly #emit: Emit;
  readonly #guard = new Guard();

  constructor(clock: Clock, emit: Emit) {
    this.#clock = clock;
    this.#emit = emit;
  }

  /** For how many machine keys rule 2 rests. */
  get count(): number {
    return this.#guard.resting(this.#clock.now());
  }

  restsUntil({ machineKey }: Stream): Instant | undefined {
    return this.#guard.restsUntil(machineKey, this.#clock.now());
  }

  /** A stream was severed by rule 2. */
  severed(loser: Stream, winner: Stream, loserAnswers: boolean): void {
    if (loser.machineKey === undefined) return;
    this.severedElsewhere(loser.machineKey, { loser: loser.address, winner: winner.address, loserAnswers });
  }

  /** Another replica severed, by rule 2, a stream of this key. */
  severedElsewhere(machineKey: MachineKey, turn: Omit<Turn, 'at'>): void {
    this.#tell(machineKey, this.#guard.note(machineKey, { ...turn, at: this.#clock.now() }));
  }

  /** Both of two streams stay for now. */
  stay(old: Stream, newcomer: Stream): void {
    if (old.machineKey !== undefined && bothSpeak(old, newcomer)) {
      this.foundElsewhere(old.machineKey, [old.address, newcomer.address]);
    }
  }

  /** Another replica has found that two machines have this key. */
  foundElsewhere(machineKey: MachineKey, addresses: Duplicate['addresses']): void {
    this.#tell(machineKey, this.#guard.rest(machineKey, addresses, this.#clock.now()));
  }

  #tell(machineKey: MachineKey, duplicate: Duplicate | undefined): void {
    if (duplicate !== undefined) this.#emit({ kind: 'duplicate machine key', machineKey, ...duplicate });
  }
}
