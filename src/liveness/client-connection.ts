import type { Socket } from 'node:net';
import type { Instant } from '../lib/clock.ts';
import type { KernelEvidence } from '../streams/stream.ts';
import { isOutstanding, receivedAt } from './evidence.ts';
import type { Kernel, SocketTimeouts } from './kernel.ts';

/** What a stream's policy asks of its client's connection. In milliseconds; 0: nothing. */
export interface TcpTimeouts {
  /** Drop it once data has stayed unacknowledged, or probes unanswered, for so long. */
  readonly goneAfterMs: number;
  /** Ask the client's kernel for a sign of life after so much quiet, sooner than the standing keepalive; needs `goneAfterMs`. */
  readonly probeIdleMs: number;
}

/**
 * The standing keepalive. Headscale's own keepalive, every 50 to 59 s, is acknowledged by the client, so Linux counts anew
 * and never probes a healthy map stream. NATs forget a connection after five minutes or more.
 */
const KEEPALIVE_IDLE_MS = 75_000;
/** While a client waits for an answer nobody speaks, so nothing else keeps its NAT open: as often as Go's servers probe. */
const WAITING_IDLE_MS = 15_000;
const KEEPALIVE_EVERY_MS = 15_000;
/** Go's servers drop a connection after so many unanswered probes. */
const KEEPALIVE_PROBES = 9;
/** Where nothing may be dropped: sixteen minutes, after which Linux gives up on unacknowledged data as well. */
const PROBES_WITHOUT_DROP = 60;
/** So many probes must go unanswered at least: a network may lose one. */
const LEAST_PROBES = 3;
/** How often `probe-idle` probes again once a probe went unanswered: a connection is dropped within a second of its time. */
const PROBE_IDLE_EVERY_MS = 1000;
/**
 * Linux looks at a probed line once a second, and rounds each of its timers up. Told to wait so much less, it ends a line
 * within its time and not a second later.
 */
const ROUNDED_UP_MS = 1000;
/** What is heard within this time is heard now. */
const JUST_NOW_MS = 100;
/** However long a client was silent, what is sent to it now may take so long to be acknowledged. */
const SHORTEST_USER_TIMEOUT_MS = 1000;

/**
 * With a full receive window Linux asks again and again whether there is room, waiting twice as long each time. So a client
 * whose kernel answers was last heard within half of the user timeout before it ended, and a little, as we look now and then.
 */
const ANSWERED_WITHIN = 3 / 4;

/** What is at the other end of a connection that is no stream: a client that waits for an answer, or Headscale. */
export type OtherEnd = 'waiting client' | 'upstream';

/** Sets the keepalive of a connection that is no stream, or none yet. It is dropped when nine probes go unanswered. */
export function enableKeepAlive(kernel: Kernel | undefined, socket: Socket, other: OtherEnd): void {
  const idleMs = other === 'upstream' ? KEEPALIVE_IDLE_MS : WAITING_IDLE_MS;
  if (kernel === undefined) keepAliveByNode(socket, true);
  else
    kernel.applyTimeouts(socket, { userTimeoutMs: 0, idleMs, everyMs: KEEPALIVE_EVERY_MS, probes: KEEPALIVE_PROBES });
}

/** Where the kernel cannot be asked. Before Node 26 interval and count are Node's: ten probes, a second apart. */
function keepAliveByNode(socket: Socket, enable: boolean): void {
  const set: (enable: boolean, idleMs: number, everyMs: number, probes: number) => void = socket.setKeepAlive;
  set.call(socket, enable, KEEPALIVE_IDLE_MS, KEEPALIVE_EVERY_MS, KEEPALIVE_PROBES);
}

/** One client's connection, as far as its kernel is concerned: its TCP timeouts, which rest while it is being asked. */
export class ClientConnection {
  readonly #kernel: Kernel | undefined;
  readonly #socket: Socket;
  readonly #isDirect: boolean;
  #orders: TcpTimeouts | undefined;
  #waiting = false;
  #probing = false;
  #timeouts: SocketTimeouts | undefined;
  /** Something was sent, and has not been seen to have arrived. */
  #outstanding = false;
  /** When the client's kernel was last heard, as last seen while something was outstanding. */
  #heardAt: Instant | undefined;
  /** How the user timeout differs from the one ordered: see `sending` and `#adaptToQuiet`. */
  #userTimeout: 'as ordered' | 'shortened' | 'lengthened' = 'as ordered';

  /**
   * @param kernel undefined where it cannot be asked: then nothing is known, and Node's keepalive is all there is.
   * @param isDirect false behind a proxy: evidence would be about that, and so would `gone-after`. Its keepalive is ours to
   *   set all the same.
   */
  constructor(kernel: Kernel | undefined, socket: Socket, isDirect: boolean) {
    this.#kernel = kernel;
    this.#socket = socket;
    this.#isDirect = isDirect;
  }

  evidence(): KernelEvidence | undefined {
    return this.#isDirect ? this.#kernel?.evidenceOf(this.#socket) : undefined;
  }

  /** Gives new standing orders; while probes are out they take effect afterwards. */
  applyTimeouts(orders: TcpTimeouts): void {
    const before = this.#orders;
    if (before?.goneAfterMs === orders.goneAfterMs && before.probeIdleMs === orders.probeIdleMs) return;
    this.#orders = orders;
    if (!this.#probing) this.#giveOrders();
  }

  /**
   * To be called before something is sent to the client. With data on its way Linux stops probing, and counts the user
   * timeout from that data: a client that vanished just before would get all of it once more. So, where idle connections
   * are probed and the client's silence means something, the time that it has been silent is taken off.
   */
  beforeSend(): void {
    this.#outstanding = true;
    if (this.#probing || this.#timeouts === undefined) return;
    if (!this.#probesIdle) {
      this.#restore();
      return;
    }
    const evidence = this.evidence();
    if (evidence === undefined) return;
    const { receivedAgoMs, unackedSegments } = evidence;
    if (receivedAgoMs < JUST_NOW_MS) this.#restore();
    // What is on its way already is what Linux counts from: it has its timeout.
    else if (unackedSegments === 0 && this.#userTimeout !== 'lengthened') {
      this.#adapt('shortened', Math.max(SHORTEST_USER_TIMEOUT_MS, this.#timeouts.userTimeoutMs - receivedAgoMs));
    }
  }

  /**
   * To be called now and then, more often than idle connections are probed: once the client was heard, all is as ordered.
   *
   * @param waiting whether the client waits for an answer.
   */
  refresh(waiting: boolean, now: Instant): void {
    this.#noteHeard(now);
    const isNews = waiting !== this.#waiting;
    this.#waiting = waiting;
    if (this.#probing) return;
    if (isNews) this.#giveOrders();
    else if (!this.#probesIdle) this.#adaptToQuiet();
    else if (this.#userTimeout !== 'as ordered') {
      const evidence = this.evidence();
      const idleMs = this.#timeouts?.idleMs ?? 0;
      if (evidence?.unackedSegments === 0 && evidence.receivedAgoMs < idleMs) this.#restore();
    }
  }

  /**
   * To be asked when Linux has given the connection up: whether the client's kernel answered all the while, so that the
   * machine is there, and what was sent to it was not read.
   */
  isNotReading(now: Instant): boolean {
    const { goneAfterMs = 0 } = this.#orders ?? {};
    return this.#heardAt !== undefined && now - this.#heardAt < ANSWERED_WITHIN * goneAfterMs;
  }

  #noteHeard(now: Instant): void {
    if (!this.#outstanding) return;
    const evidence = this.evidence();
    if (evidence === undefined) return;
    this.#outstanding = isOutstanding(evidence);
    this.#heardAt = this.#outstanding ? receivedAt(evidence, now) : undefined;
  }

  probe(): void {
    if (!this.#isDirect) return;
    this.#probing = true;
    this.#kernel?.probe(this.#socket);
  }

  stopProbing(): void {
    if (!this.#probing) return;
    this.#probing = false;
    this.#giveOrders();
  }

  /** `probe-idle` is on, and sooner than the standing keepalive. */
  get #probesIdle(): boolean {
    const { probeIdleMs = 0 } = this.#orders ?? {};
    return this.#isDirect && probeIdleMs > 0 && probeIdleMs < KEEPALIVE_IDLE_MS;
  }

  #giveOrders(): void {
    if (this.#orders === undefined) return;
    const { goneAfterMs, probeIdleMs } = this.#orders;
    if (this.#kernel === undefined) {
      keepAliveByNode(this.#socket, goneAfterMs > 0);
      return;
    }
    const standingMs = this.#waiting ? WAITING_IDLE_MS : KEEPALIVE_IDLE_MS;
    const probesIdle = this.#probesIdle;
    this.#userTimeout = 'as ordered';
    this.#timeouts = {
      userTimeoutMs: this.#isDirect ? goneAfterMs - (probesIdle ? ROUNDED_UP_MS : 0) : 0,
      idleMs: probesIdle ? Math.min(probeIdleMs, standingMs) : standingMs,
      everyMs: probesIdle ? PROBE_IDLE_EVERY_MS : KEEPALIVE_EVERY_MS,
      probes: goneAfterMs > 0 ? KEEPALIVE_PROBES : PROBES_WITHOUT_DROP,
    };
    this.#kernel.applyTimeouts(this.#socket, this.#timeouts);
    if (!probesIdle) {
      this.#adaptToQuiet();
      return;
    }
    // Linux counts the quiet from when it began: a line that was quiet for long before would be dropped at its first
    // unanswered probe. So what was before does not count.
    const silentMs = this.evidence()?.receivedAgoMs ?? 0;
    if (silentMs > JUST_NOW_MS) this.#adapt('lengthened', silentMs + this.#timeouts.userTimeoutMs);
  }

  /**
   * On a quiet line Linux takes the user timeout for the time that probes may go unanswered, and one shorter than the
   * keepalive would end it at the first that a network loses. So, while nothing is on its way, it is long enough for three.
   */
  #adaptToQuiet(): void {
    const { userTimeoutMs, idleMs, everyMs } = this.#timeouts ?? { userTimeoutMs: 0, idleMs: 0, everyMs: 0 };
    if (userTimeoutMs === 0 || userTimeoutMs >= idleMs + LEAST_PROBES * everyMs) return;
    if (this.#userTimeout === 'lengthened') return;
    const evidence = this.evidence();
    if (evidence === undefined || evidence.unackedSegments > 0) return;
    this.#adapt('lengthened', Math.max(idleMs, evidence.receivedAgoMs) + LEAST_PROBES * everyMs);
  }

  #adapt(how: 'shortened' | 'lengthened', userTimeoutMs: number): void {
    this.#userTimeout = how;
    this.#kernel?.setUserTimeout(this.#socket, Math.round(userTimeoutMs));
  }

  #restore(): void {
    if (this.#userTimeout === 'as ordered' || this.#timeouts === undefined) return;
    this.#userTimeout = 'as ordered';
    this.#kernel?.setUserTimeout(this.#socket, this.#timeouts.userTimeoutMs);
  }
}
