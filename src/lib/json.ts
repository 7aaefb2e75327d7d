/** The fields of a JSON object that comes from outside. */
export type JsonFields = Readonly<Record<string, unknown>>;

/** Parses text that comes from outside. @returns undefined if it is not JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Whether a value has fields: an object or an array. */
export function hasFields(value: unknown): value is JsonFields {
  return typeof value === 'object' && value !== null;
}

/** The fields of a value; none if it has no fields. */
export function fieldsOf(value: unknown): JsonFields {
  return hasFields(value) ? value : {};
}

/** A value that should be a string; empty if it is something else. */
export function stringOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
