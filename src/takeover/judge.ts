import { type Instant, plus } from '../lib/clock.ts';
import type { Liveness } from '../liveness/evidence.ts';
import type { LossReason } from '../streams/stream.ts';

/** Everything that decides a contest between an old stream and the newcomer of its node. */
export interface Question {
  readonly now: Instant;
  /** What the kernel says about the old stream's client. */
  readonly kernel: Liveness;
  /** When the old stream's client last sent a byte. */
  readonly oldHeardAt: Instant;
  /** The node's `silent-after`, in milliseconds. */
  readonly silentAfterMs: number;
  /** Until when the guard suspends rule 2 for this node. Undefined: it does not. */
  readonly suspendedUntil: Instant | undefined;
  /** When the newcomer's first record reached its open session. Undefined before that. */
  readonly newcomerFirstRecordAt: Instant | undefined;
}

export type Verdict =
  | { readonly kind: 'sever'; readonly because: LossReason }
  /** Nothing changes before `until`. Undefined: nothing changes before the newcomer's first record. */
  | {
      readonly kind: 'wait';
      readonly waitingFor: 'silence' | 'settling' | 'guard';
      readonly until: Instant | undefined;
    };

/** A newcomer is settled this long after its first record. A replayed handshake never gets that far. */
const SETTLES_AFTER_MS = 1000;

/** Applies the takeover rules in their order: dead, silent, otherwise both streams stay. A pure function. */
export function judge(question: Question): Verdict {
  const { now, kernel, oldHeardAt, silentAfterMs, suspendedUntil, newcomerFirstRecordAt } = question;
  // Rule 1, dead: the client's kernel does not answer, or the client has left.
  if (kernel === 'dead' || kernel === 'left') return { kind: 'sever', because: kernel };
  // Rule 2, silent: the client sent nothing for the threshold, and the newcomer is settled.
  const silentAt = plus(oldHeardAt, silentAfterMs);
  if (now < silentAt) return { kind: 'wait', waitingFor: 'silence', until: silentAt };
  if (suspendedUntil !== undefined && now < suspendedUntil)
    return { kind: 'wait', waitingFor: 'guard', until: suspendedUntil };
  if (newcomerFirstRecordAt === undefined) return { kind: 'wait', waitingFor: 'settling', until: undefined };
  const settledAt = plus(newcomerFirstRecordAt, SETTLES_AFTER_MS);
  if (now < settledAt) return { kind: 'wait', waitingFor: 'settling', until: settledAt };
  return { kind: 'sever', because: 'silent' };
}
