/** The fields of a JSON object from outside. Nothing about them has been checked. */
export type JsonFields = Readonly<Record<string, unknown>>;

/** Parses text from outside. @returns undefined if it is not JSON. */
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

/** The fields of a value; `{}` if it has no fields. */
export function fieldsOf(value: unknown): JsonFields {
  return hasFields(value) ? value : {};
}

/** The value if it is a string; otherwise the empty string. */
export function stringOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
