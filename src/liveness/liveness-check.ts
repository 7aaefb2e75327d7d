import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import type { KernelEvidence } from '../streams/stream.ts';
import {
  answerWaitMs,
  isDead,
  isDeadBehindProxy,
  type Liveness,
  QUIET_BEFORE_PROBE_MS,
  receivedAt,
  verdictBehindProxyWithinMs,
  verdictWithinMs,
} from './evidence.ts';

/** Finds out whether the client of one old stream is there. Contests and holds ask it. */
export interface LivenessCheck {
  /**
   * Starts to look, or starts again.
   *
   * @param eagerMs how long to look often. In doubt it lasts at least until a verdict is possible.
   * @returns in how many milliseconds there will be an answer or a verdict. Undefined if nothing suggests that there will be.
   */
  start(eagerMs: number, inDoubt: boolean): number | undefined;
  /** What rule 1 says now. */
  liveness(): Liveness;
  /** Whether the client's kernel has sent anything since `instant`: an answer to a probe, or any other segment. */
  answeredSince(instant: Instant): boolean;
  stop(): void;
}

/** A check that suits where the evidence comes from. @param onUpdate called after every look. It may stop the check. */
export function livenessCheck(clock: Clock, connection: CheckedConnection, onUpdate: () => void): LivenessCheck {
  return connection.behindProxy === undefined
    ? new ProbingCheck(clock, connection, onUpdate)
    : new WatchingCheck(clock, connection.behindProxy, onUpdate);
}

/** The connection whose client a liveness check looks for. */
export interface CheckedConnection {
  /** Undefined if the client connects to us directly. */
  readonly behindProxy?: ProxiedConnection | undefined;
  /** Current evidence. Undefined if there is none: not Linux, behind a proxy, or the connection is gone. */
  evidence(): KernelEvidence | undefined;
  /** Sends a keepalive probe. Linux waits until the connection has been quiet for one second. */
  probe(): void;
  stopProbing(): void;
}

/** A client's connection to a proxy on this machine. */
export interface ProxiedConnection {
  /** Whether `sockets` are the client's connection and no other. */
  readonly isExact: boolean;
  /** What Linux says now about every socket that may be the client's. Undefined if there is no evidence. */
  sockets(): readonly KernelEvidence[] | undefined;
}

const PROBE_EVERY_MS = 150;
const SLOW_PROBE_EVERY_MS = 1000;
const SLOW_FOR_MS = 10_000;
const LOOK_EVERY_MS = 50;
/** The kernel counts in jiffies of up to 10 ms. A smaller change of "last received" means nothing. */
const JIFFY_MS = 10;

/**
 * For a client that connects to us. It probes the client's kernel now and every 150 ms, until there is an answer or the hold
 * ends (in doubt, until a verdict is possible). Then it probes once a second for ten seconds. While a probe is unanswered, it
 * looks every 50 ms.
 */
class ProbingCheck implements LivenessCheck {
  readonly #clock: Clock;
  readonly #connection: CheckedConnection;
  readonly #onUpdate: () => void;
  #timer: Timer | undefined;
  #eagerUntil: Instant;
  #slowUntil: Instant;
  #nextProbeAt: Instant;
  #firstProbeAt: Instant | undefined;
  #receivedBefore: Instant | undefined;
  #answeredAt: Instant | undefined;
  #liveness: Liveness = 'unknown';
  /** Something suggests that the client is there: it answered a moment ago, or its address is in use. */
  #inDoubt = false;

  constructor(clock: Clock, connection: CheckedConnection, onUpdate: () => void) {
    const now = clock.now();
    this.#clock = clock;
    this.#connection = connection;
    this.#onUpdate = onUpdate;
    this.#eagerUntil = now;
    this.#slowUntil = now;
    this.#nextProbeAt = now;
  }

  start(eagerMs: number, inDoubt: boolean): number | undefined {
    const reading = this.#read();
    if (reading === undefined) return undefined;
    const { evidence, now } = reading;
    this.#inDoubt = inDoubt || (this.#inDoubt && this.#timer !== undefined);
    this.#timer?.cancel();
    if (this.#firstProbeAt === undefined) this.#receivedBefore = receivedAt(evidence, now);
    // A look and its timer may both be a little late.
    const withinMs = verdictWithinMs(evidence, this.#inDoubt) + 2 * LOOK_EVERY_MS;
    this.#eagerUntil = plus(now, inDoubt ? Math.max(eagerMs, withinMs) : eagerMs);
    this.#slowUntil = plus(this.#eagerUntil, SLOW_FOR_MS);
    this.#nextProbeAt = now;
    this.#step(evidence, now);
    return withinMs;
  }

  liveness(): Liveness {
    const evidence = this.#connection.evidence();
    if (evidence === undefined) return 'unknown';
    return isDead(evidence, this.#firstProbeAt, this.#clock.now(), this.#inDoubt) ? 'dead' : this.#liveness;
  }

  answeredSince(instant: Instant): boolean {
    return this.#answeredAt !== undefined && this.#answeredAt >= instant;
  }

  stop(): void {
    this.#timer?.cancel();
    if (this.#timer !== undefined) this.#connection.stopProbing();
    this.#timer = undefined;
    // Probes from before do not count after a restart.
    this.#firstProbeAt = undefined;
  }

  readonly #look = (): void => {
    const reading = this.#read();
    if (reading === undefined) {
      this.#liveness = 'unknown';
      this.stop();
    } else {
      this.#step(reading.evidence, reading.now);
    }
    this.#onUpdate();
  };

  /** Reads the evidence and its time. A pause between the two would make an old segment look new, so then it reads again. */
  #read(): { readonly evidence: KernelEvidence; readonly now: Instant } | undefined {
    for (;;) {
      const now = this.#clock.now();
      const evidence = this.#connection.evidence();
      if (evidence === undefined) return undefined;
      if (this.#clock.now() - now < JIFFY_MS / 2) return { evidence, now };
    }
  }

  #step(evidence: KernelEvidence, now: Instant): void {
    this.#noteAnswer(evidence, now);
    this.#speedUpIfOverdue(evidence, now);
    if (now >= this.#slowUntil) {
      this.stop();
      return;
    }
    if (now >= this.#nextProbeAt) this.#probe(evidence, now);
    const outstanding = this.#firstProbeAt !== undefined;
    const wakeAt = outstanding ? Math.min(now + LOOK_EVERY_MS, this.#nextProbeAt) : this.#nextProbeAt;
    this.#timer = this.#clock.after(wakeAt - now, this.#look);
  }

  #noteAnswer(evidence: KernelEvidence, now: Instant): void {
    const received = receivedAt(evidence, now);
    if (this.#receivedBefore === undefined || received - this.#receivedBefore <= JIFFY_MS) return;
    this.#receivedBefore = received;
    this.#firstProbeAt = undefined;
    this.#answeredAt = now;
    this.#liveness = 'answers';
    this.#inDoubt = true;
    // There is an answer, so slow down.
    if (now < this.#eagerUntil) {
      this.#eagerUntil = now;
      this.#slowUntil = plus(now, SLOW_FOR_MS);
      this.#nextProbeAt = plus(now, SLOW_PROBE_EVERY_MS);
    }
  }

  /** After a slow probe without an answer, probe eagerly until a verdict is possible. */
  #speedUpIfOverdue(evidence: KernelEvidence, now: Instant): void {
    if (now < this.#eagerUntil || this.#firstProbeAt === undefined) return;
    if (now - this.#firstProbeAt < answerWaitMs(evidence, false)) return;
    const verdictAt = plus(this.#firstProbeAt, answerWaitMs(evidence, this.#inDoubt) + LOOK_EVERY_MS);
    if (now >= verdictAt) return;
    this.#eagerUntil = verdictAt;
    this.#slowUntil = plus(now, Math.max(this.#slowUntil - now, verdictAt - now));
    this.#nextProbeAt = now;
  }

  #probe(evidence: KernelEvidence, now: Instant): void {
    this.#connection.probe();
    this.#nextProbeAt = plus(now, now < this.#eagerUntil ? PROBE_EVERY_MS : SLOW_PROBE_EVERY_MS);
    // Linux sends the probe only after one second of quiet, so that is when the first unanswered probe leaves.
    this.#firstProbeAt ??= plus(now, Math.max(0, QUIET_BEFORE_PROBE_MS - evidence.receivedAgoMs));
  }
}

const WATCH_OFTEN_MS = 250;
const WATCH_MS = 1000;

/**
 * For a client behind a proxy on this machine. Only the proxy can probe that client, so this looks at what its socket shows: every
 * 250 ms while a newcomer may be held, then every second, until the contests end.
 */
class WatchingCheck implements LivenessCheck {
  readonly #clock: Clock;
  readonly #connection: ProxiedConnection;
  readonly #onUpdate: () => void;
  #timer: Timer | undefined;
  #startedAt: Instant;
  #oftenUntil: Instant;
  #answeredAt: Instant | undefined;
  #inDoubt = false;

  constructor(clock: Clock, connection: ProxiedConnection, onUpdate: () => void) {
    this.#clock = clock;
    this.#connection = connection;
    this.#onUpdate = onUpdate;
    this.#startedAt = clock.now();
    this.#oftenUntil = this.#startedAt;
  }

  start(eagerMs: number, inDoubt: boolean): number | undefined {
    const now = this.#clock.now();
    this.#inDoubt = inDoubt || (this.#inDoubt && this.#timer !== undefined);
    this.#startedAt = now;
    this.#oftenUntil = plus(now, eagerMs);
    this.#schedule(now);
    const sockets = this.#connection.sockets() ?? [];
    const within = sockets.map((each) => verdictBehindProxyWithinMs(each, this.#inDoubt) ?? Number.POSITIVE_INFINITY);
    const longest = Math.max(...within);
    // A look may be a little late.
    return Number.isFinite(longest) ? longest + (longest > 0 ? WATCH_OFTEN_MS : 0) : undefined;
  }

  liveness(): Liveness {
    const sockets = this.#connection.sockets();
    if (sockets === undefined || sockets.length === 0) return 'unknown';
    if (sockets.every(({ ended }) => ended === true)) return 'left';
    if (sockets.every((each) => isDeadBehindProxy(each, this.#inDoubt))) return 'dead';
    return this.#answeredAt === undefined ? 'unknown' : 'answers';
  }

  answeredSince(instant: Instant): boolean {
    return this.#answeredAt !== undefined && this.#answeredAt >= instant;
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#answeredAt = undefined;
  }

  #schedule(now: Instant): void {
    this.#timer?.cancel();
    this.#timer = this.#clock.after(now < this.#oftenUntil ? WATCH_OFTEN_MS : WATCH_MS, this.#look);
  }

  readonly #look = (): void => {
    const now = this.#clock.now();
    this.#schedule(now);
    this.#noteAnswer(now);
    this.#onUpdate();
  };

  /** Any segment of the client's own connection, since the newcomer came, shows that the client is there. */
  #noteAnswer(now: Instant): void {
    const [socket] = this.#connection.isExact ? (this.#connection.sockets() ?? []) : [];
    if (socket === undefined || socket.ended) return;
    if (receivedAt(socket, now) - this.#startedAt <= JIFFY_MS) return;
    this.#answeredAt = now;
    this.#inDoubt = true;
  }
}
