import { type Instant, plus } from '../lib/clock.ts';
import type { Liveness } from '../liveness/evidence.ts';

/** All that a contest between an old stream and its node's newcomer turns on. */
export interface Question {
  readonly now: Instant;
  /** What the kernel says of the old stream's client. */
  readonly kernel: Liveness;
  /** When the old stream's client last sent a byte. */
  readonly oldHeardAt: Instant;
  /** The node's threshold, in milliseconds. */
  readonly silentAfterMs: number;
  /** Until when the guard lets rule 2 rest for the node; undefined: it does not rest. */
  readonly restsUntil: Instant | undefined;
  /** When the newcomer's first record reached its open session; undefined while it has not. */
  readonly newcomerFirstRecordAt: Instant | undefined;
}

export type Verdict =
  | { readonly kind: 'sever'; readonly because: 'dead' | 'silent' }
  /** Nothing can change before `until`; undefined: not before the newcomer's first record. */
  | {
      readonly kind: 'wait';
      readonly waitingFor: 'silence' | 'settling' | 'guard';
      readonly until: Instant | undefined;
    };

/** A newcomer is settled when its session has lasted this long past its first record: a replayed handshake never does. */
const SETTLES_AFTER_MS = 1000;

/** The rule, in the order of its numbers: dead, silent, otherwise both stay. */
export function judge(question: Question): Verdict {
  const { now, kernel, oldHeardAt, silentAfterMs, restsUntil, newcomerFirstRecordAt } = question;
  // 1. Dead: nobody answers.
  if (kernel === 'dead') return { kind: 'sever', because: 'dead' };
  // 2. Silent: not heard for the threshold, and the newcomer is settled.
  const silentAt = plus(oldHeardAt, silentAfterMs);
  if (now < silentAt) return { kind: 'wait', waitingFor: 'silence', until: silentAt };
  if (restsUntil !== undefined && now < restsUntil) return { kind: 'wait', waitingFor: 'guard', until: restsUntil };
  if (newcomerFirstRecordAt === undefined) return { kind: 'wait', waitingFor: 'settling', until: undefined };
  const settledAt = plus(newcomerFirstRecordAt, SETTLES_AFTER_MS);
  if (now < settledAt) return { kind: 'wait', waitingFor: 'settling', until: settledAt };
  return { kind: 'sever', because: 'silent' };
}
