import fc from 'fast-check';

/** Something that reads what strangers send, and what must be true of it whatever they send. */
export interface Target {
  readonly name: string;
  /** Its part of all cases. */
  readonly share: number;
  /** @returns how many cases it tried. @throws with the smallest case found that breaks the property. */
  run(cases: number, seed: number): Promise<number>;
}

/** A property of one case, which throws where it does not hold. */
export function target<T>(name: string, share: number, arbitrary: fc.Arbitrary<T>, holds: (value: T) => void): Target {
  return {
    ...{ name, share },
    run: async (cases, seed) => {
      fc.assert(fc.property(arbitrary, holds), { numRuns: cases, seed });
      return cases;
    },
  };
}

/** Any bytes, and those among them that a reader looks for. */
export const bytes = (maxLength: number): fc.Arbitrary<Buffer> =>
  fc.uint8Array({ maxLength }).map((array) => Buffer.from(array));

/** What may become of bytes on their way through strange hands. */
export function mutated(of: fc.Arbitrary<Buffer>): fc.Arbitrary<Buffer> {
  const change = fc.record({
    how: fc.constantFrom('set', 'cut', 'insert', 'repeat', 'none'),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    byte: fc.oneof(fc.integer({ min: 0, max: 255 }), fc.constantFrom(0, 0x0a, 0x0d, 0x20, 0x2c, 0x3a, 0x7f, 0xff)),
    more: bytes(8),
  });
  return fc.tuple(of, fc.array(change, { maxLength: 4 })).map(([original, changes]) => {
    let result = original;
    for (const { how, at, byte, more } of changes) {
      const index = Math.floor(at * result.length);
      const [head, tail] = [result.subarray(0, index), result.subarray(index)];
      if (how === 'set' && tail.length > 0) result = Buffer.concat([head, Buffer.of(byte), tail.subarray(1)]);
      else if (how === 'cut') result = head;
      else if (how === 'insert') result = Buffer.concat([head, Buffer.of(byte), more, tail]);
      else if (how === 'repeat') result = Buffer.concat([head, tail, tail]);
    }
    return result;
  });
}

/** `whole` in pieces, cut where `cuts` say (0 to 1). */
export function inPieces(whole: Buffer, cuts: readonly number[]): Buffer[] {
  const ends = [...cuts.map((cut) => Math.floor(cut * whole.length)), whole.length].sort((a, b) => a - b);
  return ends.map((end, i) => whole.subarray(ends[i - 1] ?? 0, end)).filter((piece) => piece.length > 0);
}

export const cuts = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 5 });
