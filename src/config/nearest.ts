/** The word of `known` that `word` is most likely a slip of; undefined when none is near. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const slip = word.toLowerCase().replaceAll('_', '-');
  // A long text is no slip of a short word, and would only cost time.
  if (slip.length > 40) return undefined;
  const near = known
    // Letters that only one of them can have are each a change: most words are out before they are compared.
    .filter((candidate) => Math.abs(candidate.length - slip.length) <= mostChanges(candidate))
    .map((candidate) => ({ candidate, distance: editDistance(slip, candidate) }))
    .filter(({ candidate, distance }) => distance <= mostChanges(candidate))
    .sort((a, b) => a.distance - b.distance);
  return near[0]?.candidate;
}

function mostChanges(word: string): number {
  return Math.max(1, Math.floor(word.length / 3));
}

/** How many letters must be put in, left out, changed or swapped with their neighbour to make `b` of `a`. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let best = Math.min(cell(last, j) + 1, cell(row, j - 1) + 1, cell(last, j - 1) + (same ? 0 : 1));
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) best = Math.min(best, cell(beforeLast, j - 2) + 1);
      row.push(best);
    }
    [beforeLast, last] = [last, row];
  }
  return cell(last, b.length);
}

function cell(row: readonly number[], index: number): number {
  return row[index] ?? Number.POSITIVE_INFINITY;
}
