import type { Socket } from 'node:net';
import { type Instant, plus } from '../lib/clock.ts';
import type { EvidenceSource, KernelEvidence } from '../streams/stream.ts';
import { isOutstanding, liveliest, receivedAt } from './evidence.ts';
import type { Kernel, SocketTimeouts } from './kernel.ts';
import type { ProxiedClient } from './proxied-client.ts';

/** The TCP timeouts that a stream's policy asks for, in milliseconds. 0: off. */
export interface TcpTimeouts {
  /** `gone-after`: drop the connection when data or probes stay unanswered for this long. */
  readonly goneAfterMs: number;
  /** `probe-idle`: probe after this much quiet, sooner than the standard keepalive. Needs `goneAfterMs`. */
  readonly probeIdleMs: number;
}

/**
 * The standard keepalive. Headscale sends its own keepalive every 50 to 59 s, and the client acknowledges it. So Linux never
 * probes a healthy map stream. NATs forget a connection after five minutes or more.
 */
const KEEPALIVE_IDLE_MS = 75_000;
/** While a client waits for an answer, nothing else keeps its NAT open. Go's servers probe at the same interval. */
const WAITING_IDLE_MS = 15_000;
const KEEPALIVE_EVERY_MS = 15_000;
/** Go's servers drop a connection after the same number of unanswered probes. */
const KEEPALIVE_PROBES = 9;
/** Used when `gone-after` is off: sixteen minutes, which is when Linux also gives up on unacknowledged data. */
const PROBES_WITHOUT_DROP = 60;
/** At least this many probes must stay unanswered, because a network may lose one. */
const LEAST_PROBES = 3;
/** The interval of further `probe-idle` probes, so that a connection is dropped at most one second late. */
const PROBE_IDLE_EVERY_MS = 1000;
/**
 * Linux looks at a probed connection once a second and rounds its timers up. A user timeout that is shorter by this much makes
 * it drop the connection in time.
 */
const ROUNDED_UP_MS = 1000;
/** A segment that arrived within this time counts as just received. */
const JUST_NOW_MS = 100;
/** However long a client was silent, new data may take this long to be acknowledged. */
const SHORTEST_USER_TIMEOUT_MS = 1000;

/**
 * While the receive window is full, Linux sends window probes, each after twice the time. So a client whose kernel answers was
 * heard in the last half of the user timeout. The rest is for our own looks, which come only now and then.
 */
const ANSWERED_WITHIN = 3 / 4;

/** The other end of a connection that is not a stream: a client that waits for an answer, or Headscale. */
export type OtherEnd = 'waiting client' | 'upstream';

/** Sets the keepalive of a connection that is not a stream, or not yet. Nine unanswered probes drop it. */
export function enableKeepAlive(kernel: Kernel | undefined, socket: Socket, other: OtherEnd): void {
  const idleMs = other === 'upstream' ? KEEPALIVE_IDLE_MS : WAITING_IDLE_MS;
  if (kernel === undefined) keepAliveByNode(socket, true);
  else {
    const timeouts = shared({ userTimeoutMs: 0, idleMs, everyMs: KEEPALIVE_EVERY_MS, probes: KEEPALIVE_PROBES });
    // A client's connection may have served other requests before.
    kernel.applyTimeouts(socket, timeouts, other === 'upstream');
  }
}

const MOST_SHARED = 64;
const known = new Map<string, SocketTimeouts>();

/** Sockets with the same timeouts share one object: nearly all have the same. */
function shared(timeouts: SocketTimeouts): SocketTimeouts {
  const { userTimeoutMs, idleMs, everyMs, probes } = timeouts;
  const key = `${userTimeoutMs} ${idleMs} ${everyMs} ${probes}`;
  const found = known.get(key);
  if (found === undefined && known.size < MOST_SHARED) known.set(key, timeouts);
  return found ?? timeouts;
}

/** For systems without a `Kernel`. Before Node 26, Node sets interval and count itself: ten probes, one second apart. */
function keepAliveByNode(socket: Socket, enable: boolean): void {
  const set: (enable: boolean, idleMs: number, everyMs: number, probes: number) => void = socket.setKeepAlive;
  set.call(socket, enable, KEEPALIVE_IDLE_MS, KEEPALIVE_EVERY_MS, KEEPALIVE_PROBES);
}

/** The TCP side of one client's connection: evidence, probes and timeouts. The timeouts are suspended while it is probed. */
export class ClientConnection {
  readonly #kernel: Kernel | undefined;
  readonly #socket: Socket;
  /** Set for a client behind a proxy. The socket is then the proxy's: it shows and drops nothing of the client. */
  readonly behindProxy: ProxiedClient | undefined;
  #timeouts: TcpTimeouts | undefined;
  #waiting = false;
  #probing = false;
  #socketTimeouts: SocketTimeouts | undefined;
  /** Something was sent, and we have not seen its acknowledgement. */
  #outstanding = false;
  /** When the client's kernel was last heard while something was outstanding. */
  #heardAt: Instant | undefined;
  /** How the user timeout differs from the configured one: see `beforeSend` and `#adaptToQuiet`. */
  #userTimeout: 'as set' | 'shortened' | 'lengthened' = 'as set';
  #userTimeoutMs = 0;

  /**
   * @param kernel undefined on systems without one: then there is no evidence, and only Node's keepalive.
   * @param behindProxy undefined for a client that connects to us. Behind a proxy, only the keepalive is set.
   */
  constructor(kernel: Kernel | undefined, socket: Socket, behindProxy?: ProxiedClient) {
    this.#kernel = kernel;
    this.#socket = socket;
    this.behindProxy = behindProxy;
  }

  /** Where its evidence comes from. */
  get source(): EvidenceSource {
    if (this.behindProxy !== undefined) return this.behindProxy.source;
    return this.#kernel === undefined ? { kind: 'none', reason: 'kernel_unavailable' } : { kind: 'direct' };
  }

  /** What Linux says now. Of a proxy's connections that may all be the client's, the one that looks most alive. */
  evidence(): KernelEvidence | undefined {
    if (this.behindProxy === undefined) return this.#kernel?.evidenceOf(this.#socket);
    return liveliest(this.behindProxy.sockets() ?? []);
  }

  /** Evidence to show, which costs little: behind a proxy it may be some seconds old. */
  lastEvidence(): KernelEvidence | undefined {
    return this.behindProxy === undefined ? this.evidence() : this.behindProxy.lastEvidence;
  }

  /**
   * When the client's kernel last gave a sign of life, for a stream that ends. Call it before its connection is closed. Undefined if
   * that is not known, as for a client that has left its proxy.
   *
   * @param gaveUp whether Linux has given the connection up. Linux cannot be asked about it any more, but it had waited for the
   *   user timeout since that sign.
   */
  lastSignAt(now: Instant, gaveUp: boolean): Instant | undefined {
    const evidence = this.lastEvidence();
    if (evidence !== undefined) return evidence.ended ? undefined : receivedAt(evidence, now);
    if (!gaveUp || this.behindProxy !== undefined) return undefined;
    return this.#heardAt ?? (this.#userTimeoutMs > 0 ? plus(now, -this.#userTimeoutMs) : undefined);
  }

  /** Sets new timeouts. While the connection is probed, they take effect afterwards. */
  applyTimeouts(timeouts: TcpTimeouts): void {
    const before = this.#timeouts;
    if (before?.goneAfterMs === timeouts.goneAfterMs && before.probeIdleMs === timeouts.probeIdleMs) return;
    this.#timeouts = timeouts;
    if (!this.#probing) this.#apply();
  }

  /**
   * Call this before sending to the client. With data in flight, Linux stops probing and counts the user timeout from that
   * data, so a client that had vanished just before would get the whole time again. When idle connections are probed, the
   * time of silence is therefore subtracted.
   */
  beforeSend(): void {
    this.#outstanding = true;
    if (this.#probing || this.#socketTimeouts === undefined) return;
    if (!this.#probesIdle) {
      this.#restore();
      return;
    }
    const evidence = this.evidence();
    if (evidence === undefined) return;
    const { receivedAgoMs, unackedSegments } = evidence;
    if (receivedAgoMs < JUST_NOW_MS) this.#restore();
    // With data in flight already, Linux counts from that data.
    else if (unackedSegments === 0 && this.#userTimeout !== 'lengthened') {
      this.#adapt('shortened', Math.max(SHORTEST_USER_TIMEOUT_MS, this.#socketTimeouts.userTimeoutMs - receivedAgoMs));
    }
  }

  /**
   * Call this now and then, more often than idle connections are probed. Once the client was heard, it restores the timeouts.
   *
   * @param waiting whether the client waits for an answer from Headscale.
   */
  refresh(waiting: boolean, now: Instant): void {
    this.#noteHeard(now);
    const isNews = waiting !== this.#waiting;
    this.#waiting = waiting;
    if (this.#probing) return;
    if (isNews) this.#apply();
    else if (!this.#probesIdle) this.#adaptToQuiet();
    else if (this.#userTimeout !== 'as set') {
      const evidence = this.evidence();
      const idleMs = this.#socketTimeouts?.idleMs ?? 0;
      if (evidence?.unackedSegments === 0 && evidence.receivedAgoMs < idleMs) this.#restore();
    }
  }

  /**
   * Call this when Linux has given the connection up.
   *
   * @returns whether the client's kernel answered all the time: the machine is there, but its program does not read.
   */
  isNotReading(now: Instant): boolean {
    const { goneAfterMs = 0 } = this.#timeouts ?? {};
    return this.#heardAt !== undefined && now - this.#heardAt < ANSWERED_WITHIN * goneAfterMs;
  }

  #noteHeard(now: Instant): void {
    if (!this.#outstanding || this.behindProxy !== undefined) return;
    const evidence = this.evidence();
    if (evidence === undefined) return;
    this.#outstanding = isOutstanding(evidence);
    this.#heardAt = this.#outstanding ? receivedAt(evidence, now) : undefined;
  }

  probe(): void {
    if (this.behindProxy !== undefined) return;
    this.#probing = true;
    this.#kernel?.probe(this.#socket);
  }

  stopProbing(): void {
    if (!this.#probing) return;
    this.#probing = false;
    this.#apply();
  }

  /** Whether `probe-idle` is on and sooner than the standard keepalive. */
  get #probesIdle(): boolean {
    const { probeIdleMs = 0 } = this.#timeouts ?? {};
    return this.behindProxy === undefined && probeIdleMs > 0 && probeIdleMs < KEEPALIVE_IDLE_MS;
  }

  #apply(): void {
    if (this.#timeouts === undefined) return;
    const { goneAfterMs, probeIdleMs } = this.#timeouts;
    if (this.#kernel === undefined) {
      keepAliveByNode(this.#socket, goneAfterMs > 0);
      return;
    }
    const standingMs = this.#waiting ? WAITING_IDLE_MS : KEEPALIVE_IDLE_MS;
    const probesIdle = this.#probesIdle;
    this.#socketTimeouts = shared({
      userTimeoutMs: this.behindProxy === undefined ? goneAfterMs - (probesIdle ? ROUNDED_UP_MS : 0) : 0,
      idleMs: probesIdle ? Math.min(probeIdleMs, standingMs) : standingMs,
      everyMs: probesIdle ? PROBE_IDLE_EVERY_MS : KEEPALIVE_EVERY_MS,
      probes: goneAfterMs > 0 ? KEEPALIVE_PROBES : PROBES_WITHOUT_DROP,
    });
    this.#userTimeout = 'as set';
    this.#userTimeoutMs = this.#socketTimeouts.userTimeoutMs;
    this.#kernel.applyTimeouts(this.#socket, this.#socketTimeouts);
    if (!probesIdle) {
      this.#adaptToQuiet();
      return;
    }
    // Linux counts quiet from its beginning, so it would drop a connection that was quiet for long at its first unanswered
    // probe. The quiet before now must not count.
    const silentMs = this.evidence()?.receivedAgoMs ?? 0;
    if (silentMs > JUST_NOW_MS) this.#adapt('lengthened', silentMs + this.#socketTimeouts.userTimeoutMs);
  }

  /**
   * On a quiet connection, Linux uses the user timeout as the time for which probes may stay unanswered. If it were shorter
   * than the keepalive, one lost probe would end the connection. So while nothing is in flight, it allows three probes.
   */
  #adaptToQuiet(): void {
    const { userTimeoutMs, idleMs, everyMs } = this.#socketTimeouts ?? { userTimeoutMs: 0, idleMs: 0, everyMs: 0 };
    if (userTimeoutMs === 0 || userTimeoutMs >= idleMs + LEAST_PROBES * everyMs) return;
    if (this.#userTimeout === 'lengthened') return;
    const evidence = this.evidence();
    if (evidence === undefined || evidence.unackedSegments > 0) return;
    this.#adapt('lengthened', Math.max(idleMs, evidence.receivedAgoMs) + LEAST_PROBES * everyMs);
  }

  #adapt(how: 'shortened' | 'lengthened', userTimeoutMs: number): void {
    this.#userTimeout = how;
    this.#userTimeoutMs = Math.round(userTimeoutMs);
    this.#kernel?.setUserTimeout(this.#socket, this.#userTimeoutMs);
  }

  #restore(): void {
    if (this.#userTimeout === 'as set' || this.#socketTimeouts === undefined) return;
    this.#userTimeout = 'as set';
    this.#userTimeoutMs = this.#socketTimeouts.userTimeoutMs;
    this.#kernel?.setUserTimeout(this.#socket, this.#userTimeoutMs);
  }
}
