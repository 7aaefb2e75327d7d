import type { Socket } from 'node:net';
import type { KernelEvidence } from './evidence.ts';
import type { Kernel, StandingOrders } from './kernel.ts';

const NO_ORDERS: StandingOrders = { goneAfterMs: 0, probeIdleMs: 0 };
/**
 * Linux looks at a probed line once a second, and rounds each of its timers up. Told to wait so much less, it ends a line
 * within its time and not a second later.
 */
const ROUNDED_UP_MS = 1000;
/** What is heard within this time is heard now. */
const JUST_NOW_MS = 100;
/** However long a client was silent, what is sent to it now may take so long to be acknowledged. */
const SHORTEST_USER_TIMEOUT_MS = 1000;

/** One client's connection, as far as its kernel is concerned: standing orders, which rest while it is being asked. */
export class Line {
  readonly #kernel: Kernel | undefined;
  readonly #socket: Socket;
  #orders = NO_ORDERS;
  /** As ordered, less what Linux adds. */
  #userTimeoutMs = 0;
  #probing = false;
  /** How the user timeout differs from the one ordered, until the client has been heard: see `sending` and `#giveOrders`. */
  #userTimeout: 'as ordered' | 'shortened' | 'lengthened' = 'as ordered';

  /** @param kernel undefined where it cannot be asked: then nothing is known, and nothing happens. */
  constructor(kernel: Kernel | undefined, socket: Socket) {
    this.#kernel = kernel;
    this.#socket = socket;
  }

  evidence(): KernelEvidence | undefined {
    return this.#kernel?.evidenceOf(this.#socket);
  }

  /** Gives new standing orders; while probes are out they take effect afterwards. */
  order(orders: StandingOrders): void {
    const { goneAfterMs, probeIdleMs } = this.#orders;
    if (orders.goneAfterMs === goneAfterMs && orders.probeIdleMs === probeIdleMs) return;
    this.#orders = orders;
    this.#userTimeoutMs = orders.goneAfterMs - (orders.probeIdleMs > 0 ? ROUNDED_UP_MS : 0);
    if (!this.#probing) this.#giveOrders();
  }

  /**
   * To be called before something is sent to the client. With data on its way Linux stops probing, and counts the user
   * timeout from that data: a client that vanished just before would get all of it once more. So, where idle connections
   * are probed and the client's silence means something, the time that it has been silent is taken off.
   */
  sending(): void {
    if (this.#orders.probeIdleMs === 0 || this.#probing) return;
    const evidence = this.evidence();
    if (evidence === undefined) return;
    const { receivedAgoMs, unackedSegments } = evidence;
    if (receivedAgoMs < JUST_NOW_MS) this.#restore();
    // What is on its way already is what Linux counts from: it has its timeout.
    else if (unackedSegments === 0 && this.#userTimeout !== 'lengthened') {
      this.#adapt('shortened', Math.max(SHORTEST_USER_TIMEOUT_MS, this.#userTimeoutMs - receivedAgoMs));
    }
  }

  /** To be called now and then, more often than idle connections are probed: once the client was heard, all is as ordered. */
  tend(): void {
    if (this.#userTimeout === 'as ordered' || this.#probing) return;
    const evidence = this.evidence();
    if (evidence?.unackedSegments === 0 && evidence.receivedAgoMs < this.#orders.probeIdleMs) this.#restore();
  }

  probe(): void {
    this.#probing = true;
    this.#kernel?.probe(this.#socket);
  }

  endProbes(): void {
    if (!this.#probing) return;
    this.#probing = false;
    this.#giveOrders();
  }

  #giveOrders(): void {
    this.#userTimeout = 'as ordered';
    const { probeIdleMs } = this.#orders;
    this.#kernel?.order(this.#socket, { goneAfterMs: this.#userTimeoutMs, probeIdleMs });
    if (probeIdleMs === 0) return;
    // Linux probes after so much quiet from now on, but counts the quiet from when it began: a line that was quiet for long
    // before would be dropped at its first unanswered probe. So what was before does not count.
    const silentMs = this.evidence()?.receivedAgoMs ?? 0;
    if (silentMs > JUST_NOW_MS) this.#adapt('lengthened', silentMs + this.#userTimeoutMs);
  }

  #adapt(how: 'shortened' | 'lengthened', userTimeoutMs: number): void {
    this.#userTimeout = how;
    this.#kernel?.setUserTimeout(this.#socket, Math.round(userTimeoutMs));
  }

  #restore(): void {
    if (this.#userTimeout === 'as ordered') return;
    this.#userTimeout = 'as ordered';
    this.#kernel?.setUserTimeout(this.#socket, this.#userTimeoutMs);
  }
}
