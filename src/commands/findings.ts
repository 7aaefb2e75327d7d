import { type CheckErrorCode, type ErrorCode, StartError, UsageError } from '../lib/errors.ts';

/** One line of the output of `check`. */
export interface Finding {
  readonly level: 'ok' | 'warn' | 'fail';
  /** Null where there is nothing to do. */
  readonly code: ErrorCode | null;
  readonly text: string;
}

export const ok = (text: string): Finding => ({ level: 'ok', code: null, text });
export const warn = (code: CheckErrorCode | null, text: string): Finding => ({ level: 'warn', code, text });
export const fail = (code: CheckErrorCode, text: string): Finding => ({ level: 'fail', code, text });

/** The operator's mistakes in an error. @throws every other error. */
export function problemsOf(error: unknown): readonly Finding[] {
  if (!(error instanceof UsageError || error instanceof StartError)) throw error;
  const problems = error instanceof UsageError ? error.problems : [error.message];
  return problems.map((text) => ({ level: 'fail', code: error.code, text }));
}
