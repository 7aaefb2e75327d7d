/** A mistake of the operator's: the message names what was tried, the value, and the cure. */
export class StartError extends Error {
  override readonly name = 'StartError';
}

/** Flags or a file that make no configuration: every mistake at once. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join('\n'));
    this.problems = problems;
  }
}

/** A connection was accepted, and then nothing was said on it in time. */
export class NoAnswerError extends Error {
  override readonly name = 'NoAnswerError';
}

/** The short reason of a socket or file error, for a log line: its code where it has one. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // An AggregateError (every address of a name refused) says nothing itself.
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  return error.message;
}

/** The `code` of a Node error (`ECONNREFUSED`, …), if it has one. */
export function codeOf(error: unknown): string | undefined {
  if (error instanceof AggregateError && error.errors.length > 0) return codeOf(error.errors[0]);
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}
