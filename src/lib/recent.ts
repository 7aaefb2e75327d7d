/**
 * The newest entries of a map: at least the last `least`, and at most twice as many. An entry that is set again is new again. Old ones
 * are forgotten together, so that it never takes long.
 */
export class Recent<Value> {
  readonly #least: number;
  #newer = new Map<string, Value>();
  #older = new Map<string, Value>();

  constructor(least: number) {
    this.#least = least;
  }

  get(key: string): Value | undefined {
    return this.#newer.get(key) ?? this.#older.get(key);
  }

  set(key: string, value: Value): void {
    this.#newer.set(key, value);
    if (this.#newer.size < this.#least) return;
    this.#older = this.#newer;
    this.#newer = new Map();
  }

  delete(key: string): void {
    this.#newer.delete(key);
    this.#older.delete(key);
  }

  /** Oldest first. A key may come twice. */
  keys(): readonly string[] {
    return [...this.#older.keys(), ...this.#newer.keys()];
  }
}
