import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import type { Stream } from '../streams/stream.ts';

/*
 * This file defines when Headscale "does not answer". Its machine accepts connections, but
 *  - no request gets an answer, neither ours nor a client's; or
 *  - it sends nothing on its control streams, where it normally sends a keepalive every 50 to 59 s.
 * `Checkup` keeps the state and emits the events.
 */

/** The time limit for a check. Headscale answers `/key` from memory, so it normally takes milliseconds. */
export const CHECK_TIMEOUT_MS = 4000;
/** Headscale is checked after this long without a sign of life. Silence is thus noticed within ten seconds. */
export const CHECK_AFTER_QUIET_MS = 5000;

/** A little more than twice the longest time between two keepalives. */
export const STREAM_SILENT_AFTER_MS = 125_000;

/** Whether Headscale has been silent on this control stream for longer than it ever is to a logged-in node. */
export function isStreamSilent({ kind, state, spokenAt }: Stream, now: Instant): boolean {
  return (
    kind === 'control' && state.kind === 'open' && spokenAt !== undefined && now - spokenAt >= STREAM_SILENT_AFTER_MS
  );
}

/** Whether so many silent streams mean that Headscale hangs. Single ones are normal: nodes that wait for their owner's login. */
export function areTooManySilent(silent: number, of: number): boolean {
  return silent > Math.max(1, 0.1 * of);
}

/** If a client's request is unanswered for this long, Headscale is checked. */
const SUSPECT_AFTER_MS = CHECK_TIMEOUT_MS;
/** Tailscale clients also give up an upgrade after ten seconds. By then Headscale has not answered our check either. */
const GIVE_UP_AFTER_QUIET_MS = 10_000;
/** Headscale itself drops a request that it has not answered within 30 s (its WriteTimeout). */
const GIVE_UP_AFTER_MS = 60_000;
/** A timer that is this late means that our process was held up. The answer may be waiting to be read. */
const LATE_MS = 1000;

/**
 * Clients' requests that Headscale has not answered. A slow answer is no reason to give up. A request is given up only while
 * Headscale answers nothing at all, or when Headscale would have dropped it.
 */
export class PendingAnswers {
  readonly #clock: Clock;
  readonly #suspect: () => void;
  #answeredAt: Instant | undefined;

  /** @param suspect checks whether Headscale answers. If it does, `answered` must be called. */
  constructor(clock: Clock, suspect: () => void) {
    this.#clock = clock;
    this.#suspect = suspect;
  }

  /** When Headscale last answered anything. */
  get answeredAt(): Instant | undefined {
    return this.#answeredAt;
  }

  /** Headscale has answered some request. */
  answered(): void {
    this.#answeredAt = this.#clock.now();
  }

  /** A request is being sent to Headscale. @param giveUp called if it will not be answered. */
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
