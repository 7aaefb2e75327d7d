import type { NodePolicy } from '../config/types.ts';
import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { type Emit, reportWouldSever } from '../streams/events.ts';
import type { KernelEvidence, Stream } from '../streams/stream.ts';
import { isGoneBehindProxy, isOutstanding } from './evidence.ts';
import type { ProxiedClient } from './proxied-client.ts';

const EVERY_MS = 4000;
/** Memory is given back after this many new streams, as when all nodes come back: it takes some milliseconds. */
const TRIM_AFTER = 100;
/** And not while nodes are coming back: when at least this many did in one round. */
const BUSY = 10;
/** If a round is this late, our process was blocked, and data that arrived meanwhile has not been read yet. */
const LATE_MS = 2000;

/** What the patrol looks at and calls. */
export interface PatrolOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  streams(): Iterable<Stream>;
  /** Updates the TCP timeouts of a stream, see `ClientConnection.refresh`. */
  refresh(stream: Stream, now: Instant): void;
  evidenceOf(stream: Stream): KernelEvidence | undefined;
  /** Looks at the connections of all clients behind proxies. */
  surveyProxies(): Promise<void>;
  /** Undefined for a client that connects to us. */
  behindProxy(stream: Stream): ProxiedClient | undefined;
  severGone(stream: Stream): void;
  policyOf(stream: Stream): Pick<NodePolicy, 'goneAfterMs' | 'observeOnly'>;
  /** Whether Headscale has sent nothing on this stream for too long. */
  isSilent(stream: Stream, now: Instant): boolean;
  /** Reports on how many of the open control streams Headscale is silent. */
  silent(silent: number, of: number): void;
  /** Whether to sever streams on which Headscale is silent. */
  seversUpstreamSilent(): boolean;
  sever(stream: Stream): void;
  /** Gives back buffers that were not needed since the last round. */
  releaseBuffers(): void;
  /** The number of the newest stream. Each has the next one. */
  lastId(): number;
  /** Gives the memory that is free inside the process back to Linux. */
  trimMemory(): void;
}

/**
 * Looks at every stream every four seconds, for what causes no event: Headscale has fallen silent, a client behind a proxy is
 * gone, or an observe-only stream would have been closed as gone. Memory that nobody needs any more is given back then, too.
 */
export class Patrol {
  readonly #options: PatrolOptions;
  #timer: Timer | undefined;
  #closed = false;
  /** The newest stream at the last round, and when memory was given back. */
  #lastIdBefore = 0;
  #lastIdAtTrim = 0;
  /** Since when a client has acknowledged no further byte, although data was waiting. */
  readonly #unacknowledged = new WeakMap<Stream, { readonly ackedBytes: number; readonly since: Instant }>();

  constructor(options: PatrolOptions) {
    this.#options = options;
    this.#schedule();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  #schedule(): void {
    if (this.#closed) return;
    const { clock, emit } = this.#options;
    const dueAt = plus(clock.now(), EVERY_MS);
    this.#timer = clock.after(EVERY_MS, () => {
      try {
        this.#round(clock.now() - dueAt > LATE_MS);
      } catch (error) {
        emit({ kind: 'internal_error', during: 'looking at every stream', error });
      }
      this.#schedule();
    });
  }

  #round(isLate: boolean): void {
    this.#releaseMemory();
    const now = this.#options.clock.now();
    const silent: Stream[] = [];
    let control = 0;
    for (const stream of this.#options.streams()) {
      this.#options.refresh(stream, now);
      if (isLate || stream.state.kind !== 'open') continue;
      if (stream.kind === 'control') control += 1;
      if (this.#options.isSilent(stream, now)) silent.push(stream);
      else this.#observe(stream, now);
    }
    if (isLate) return;
    this.#options.silent(silent.length, control);
    for (const stream of silent) {
      this.#upstreamSilent(stream);
      this.#observe(stream, now);
    }
    void this.#options.surveyProxies().then(() => this.#endGoneBehindProxies());
  }

  #releaseMemory(): void {
    this.#options.releaseBuffers();
    const lastId = this.#options.lastId();
    const isBusy = lastId - this.#lastIdBefore >= BUSY;
    this.#lastIdBefore = lastId;
    if (isBusy || lastId - this.#lastIdAtTrim < TRIM_AFTER) return;
    this.#lastIdAtTrim = lastId;
    this.#options.trimMemory();
  }

  #endGoneBehindProxies(): void {
    if (this.#closed) return;
    const { emit, behindProxy, policyOf, severGone } = this.#options;
    for (const stream of this.#options.streams()) {
      const client = behindProxy(stream);
      if (client === undefined || stream.state.kind !== 'open') continue;
      const { goneAfterMs, observeOnly } = policyOf(stream);
      if (goneAfterMs === 0 || !isGone(client, goneAfterMs)) continue;
      if (observeOnly) reportWouldSever(stream, 'gone', emit);
      else severGone(stream);
    }
  }

  #observe(stream: Stream, now: Instant): void {
    const { goneAfterMs, observeOnly } = this.#options.policyOf(stream);
    // Linux itself closes the others, with TCP_USER_TIMEOUT, or a survey shows them.
    if (!observeOnly || goneAfterMs === 0 || stream.state.kind !== 'open') return;
    if (this.#options.behindProxy(stream) !== undefined) return;
    if (this.#unacknowledgedForMs(stream, now) >= goneAfterMs) reportWouldSever(stream, 'gone', this.#options.emit);
  }

  #upstreamSilent(stream: Stream): void {
    if (!this.#options.seversUpstreamSilent()) return;
    if (this.#options.policyOf(stream).observeOnly) reportWouldSever(stream, 'upstream_silent', this.#options.emit);
    else this.#options.sever(stream);
  }

  /** How long a client has acknowledged nothing. Measured from look to look, so up to four seconds too short. */
  #unacknowledgedForMs(stream: Stream, now: Instant): number {
    const evidence = this.#options.evidenceOf(stream);
    const before = this.#unacknowledged.get(stream);
    if (evidence === undefined || !isOutstanding(evidence)) {
      this.#unacknowledged.delete(stream);
      return 0;
    }
    const { ackedBytes } = evidence;
    if (before?.ackedBytes === ackedBytes) return now - before.since;
    this.#unacknowledged.set(stream, { ackedBytes, since: now });
    return 0;
  }
}

/** Whether every connection that may be the client's shows that it is gone, in the survey and now. */
function isGone(client: ProxiedClient, goneAfterMs: number): boolean {
  const { surveyed } = client;
  if (surveyed.length === 0 || !surveyed.every((socket) => isGoneBehindProxy(socket, goneAfterMs))) return false;
  const now = client.sockets();
  return now?.every((evidence) => evidence.ended || evidence.receivedAgoMs >= goneAfterMs) ?? false;
}
