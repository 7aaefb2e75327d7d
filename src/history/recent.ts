import type { Happening } from './history.ts';

/** The newest happenings, oldest first, no more than `most`. */
export class Recent {
  readonly #most: number;
  #kept: Happening[] = [];
  /** How many at the beginning of `#kept` are forgotten already: they go together, since to shift each costs the length. */
  #forgotten = 0;

  constructor(most: number) {
    this.#most = most;
  }

  get size(): number {
    return this.#kept.length - this.#forgotten;
  }

  add(happening: Happening): void {
    this.#kept.push(happening);
    if (this.size > this.#most) this.#forgotten += 1;
    this.#tidy();
  }

  all(): readonly Happening[] {
    return this.#forgotten === 0 ? this.#kept : this.#kept.slice(this.#forgotten);
  }

  forgetBefore(at: number): void {
    while (this.#forgotten < this.#kept.length && (this.#kept[this.#forgotten]?.at ?? at) < at) this.#forgotten += 1;
    this.#tidy();
  }

  #tidy(): void {
    if (this.#forgotten < 1 + this.#most / 10 && this.size > 0) return;
    this.#kept = this.#kept.slice(this.#forgotten);
    this.#forgotten = 0;
  }
}
