/** A request's parameters that cannot be used: the message names the value and the cure. */
export class ParameterError extends Error {
  override readonly name = 'ParameterError';
}

/**
 * Reads a request's parameters; one that is not in `known` is told too, since a filter that is misspelt would filter nothing.
 *
 * @throws ParameterError
 */
export class Parameters {
  readonly #given: URLSearchParams;

  constructor(given: URLSearchParams, known: readonly string[]) {
    this.#given = given;
    for (const name of given.keys()) {
      if (known.includes(name)) continue;
      throw new ParameterError(`${quoted(name)} is no parameter here: there are ${known.join(', ')}.`);
    }
  }

  /** Undefined where it is not given, or empty. */
  text(name: string): string | undefined {
    return this.#given.get(name) || undefined;
  }

  /** One of `values`, or some of them between commas. */
  words<Word extends string>(name: string, values: readonly Word[]): ReadonlySet<Word> | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const words = text.split(',').map((word) => word.trim());
    for (const word of words) {
      if ((values as readonly string[]).includes(word)) continue;
      throw new ParameterError(`${name}=${quoted(word)} is unknown: write one of ${values.join(', ')}.`);
    }
    return new Set(words as Word[]);
  }

  /** A whole number from `least` to `most`. */
  number(name: string, least: number, most: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const number = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (number >= least && number <= most) return number;
    throw new ParameterError(`${name}=${quoted(text)} cannot be used: write a whole number from ${least} to ${most}.`);
  }
}

function quoted(text: string): string {
  return `'${text.slice(0, 80).replace(/[^\x20-\x7e]/g, '?')}'`;
}
