import type { Given, Problem } from './problem.ts';

/** Reads one value: what the schema's library gives for each setting. */
interface Reader<Value> {
  safeParse(
    value: unknown,
  ):
    | { readonly success: true; readonly data: Value }
    | { readonly success: false; readonly error: { readonly issues: readonly { readonly message: string }[] } };
}

export type Readers<Values> = { readonly [Name in keyof Values]-?: Reader<Values[Name]> };

/** Reads each setting by itself, so that a mistake in one hides none in another. A value with a mistake is left out. */
export function readEach<Values>(
  readers: Readers<Values>,
  given: ReadonlyMap<string, Given>,
): { readonly values: Partial<Values>; readonly problems: readonly Problem[] } {
  const values: Partial<Values> = {};
  const problems: Problem[] = [];
  for (const name of Object.keys(readers) as (keyof Values & string)[]) {
    const source = given.get(name);
    const read = readers[name].safeParse(source?.value);
    if (read.success) values[name] = read.data;
    else for (const { message } of read.error.issues) problems.push({ at: source?.at ?? 'flag', name, text: message });
  }
  return { values, problems };
}
