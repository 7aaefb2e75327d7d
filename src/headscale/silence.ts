import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import type { Stream } from '../streams/stream.ts';

/*
 * What "Headscale does not answer" means, in one place. Its machine accepts connections, and
 *  - no request gets an answer, neither ours nor a client's, or
 *  - it says nothing on its control streams, on which it otherwise speaks every 50 to 59 s.
 * `Checkup` keeps the state and tells of it.
 */

/** Headscale answers `/key` from memory. After this long without an answer it does not answer. */
export const ANSWERS_WITHIN_MS = 4000;
/** After this long without a sign of life it is asked: with the answer's own time, silence is noticed within ten seconds. */
export const ASK_AFTER_QUIET_MS = 5000;

/** After twice the time between two keepalives, and a little, something is wrong. */
export const STREAM_SILENT_AFTER_MS = 125_000;

/** Whether Headscale has said nothing on this control stream for longer than it ever is silent to a node that is logged in. */
export function isStreamSilent({ kind, state, spokenAt }: Stream, now: Instant): boolean {
  return (
    kind === 'control' && state.kind === 'open' && spokenAt !== undefined && now - spokenAt >= STREAM_SILENT_AFTER_MS
  );
}

/** Whether that many silent streams are Headscale's fault. It says nothing to a node that waits for its owner's login either. */
export function areTooManySilent(silent: number, of: number): boolean {
  return silent > Math.max(1, 0.1 * of);
}

/** A client's request wants an answer that is this late to be looked into. */
const SUSPECT_AFTER_MS = ANSWERS_WITHIN_MS;
/** Tailscale's clients give up an upgrade after ten seconds themselves. By then Headscale has not answered us either. */
const GIVE_UP_AFTER_QUIET_MS = 10_000;
/** Headscale itself cuts every request that it has not answered within 30 s (its WriteTimeout). */
const GIVE_UP_AFTER_MS = 60_000;
/** A timer that is this late was held up with everything else here, and the answer may have come meanwhile. */
const LATE_MS = 1000;

/**
 * Clients' requests that Headscale has not answered. Nobody is given up because an answer takes long: only while Headscale
 * answers nothing at all, or when it would have cut the request itself.
 */
export class PendingAnswers {
  readonly #clock: Clock;
  readonly #suspect: () => void;
  #answeredAt: Instant | undefined;

  /** @param suspect asks Headscale whether it answers; its answer counts, see `answered`. */
  constructor(clock: Clock, suspect: () => void) {
    this.#clock = clock;
    this.#suspect = suspect;
  }

  /** When Headscale last answered anything. */
  get answeredAt(): Instant | undefined {
    return this.#answeredAt;
  }

  /** Headscale has answered something: it is there. */
  answered(): void {
    this.#answeredAt = this.#clock.now();
  }

  /** A request goes to Headscale. @param giveUp is called when it will not be answered. */
  begin(giveUp: () => void): { sent(): void; answered(): void; ended(): void } {
    const beganAt = this.#clock.now();
    let sentAt: Instant | undefined;
    let timer: Timer | undefined;
    const end = (): void => {
      timer?.cancel();
      timer = undefined;
    };
    const wakeAt = (at: Instant): void => {
      timer = this.#clock.after(at - this.#clock.now(), () => look(at));
    };
    const look = (dueAt: Instant): void => {
      const now = this.#clock.now();
      if (now - dueAt > LATE_MS) {
        wakeAt(plus(now, LATE_MS));
        return;
      }
      const quietAt = Math.max(beganAt, this.#answeredAt ?? beganAt) as Instant;
      const atLast = sentAt === undefined ? Number.POSITIVE_INFINITY : sentAt + GIVE_UP_AFTER_MS;
      const quietMs = now - quietAt;
      if (quietMs >= GIVE_UP_AFTER_QUIET_MS || now >= atLast) {
        end();
        giveUp();
        return;
      }
      if (quietMs >= SUSPECT_AFTER_MS) this.#suspect();
      const next = quietMs >= SUSPECT_AFTER_MS ? GIVE_UP_AFTER_QUIET_MS : SUSPECT_AFTER_MS;
      wakeAt(Math.min(quietAt + next, atLast) as Instant);
    };
    wakeAt(plus(beganAt, SUSPECT_AFTER_MS));
    return {
      sent: () => {
        sentAt ??= this.#clock.now();
      },
      answered: () => {
        end();
        this.answered();
      },
      ended: end,
    };
  }
}
