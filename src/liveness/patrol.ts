import type { NodePolicy } from '../config/types.ts';
import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { type Emit, reportWouldSever } from '../streams/events.ts';
import type { KernelEvidence, Stream } from '../streams/stream.ts';
import { isOutstanding } from './evidence.ts';

const EVERY_MS = 4000;
/** If a round is this late, our process was blocked, and data that arrived meanwhile has not been read yet. */
const LATE_MS = 2000;

/** What the patrol looks at and calls. */
export interface PatrolOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  streams(): Iterable<Stream>;
  /** Updates the TCP timeouts of a stream, see `ClientConnection.refresh`. */
  refresh(stream: Stream): void;
  evidenceOf(stream: Stream): KernelEvidence | undefined;
  policyOf(stream: Stream): Pick<NodePolicy, 'goneAfterMs' | 'observeOnly'>;
  /** Whether Headscale has sent nothing on this stream for too long. */
  isSilent(stream: Stream): boolean;
  /** Reports on how many of the open control streams Headscale is silent. */
  silent(silent: number, of: number): void;
  /** Whether to sever streams on which Headscale is silent. */
  seversUpstreamSilent(): boolean;
  sever(stream: Stream): void;
}

/**
 * Looks at every stream every four seconds, for what causes no event: Headscale has fallen silent, or an observe-only stream
 * would have been closed as gone.
 */
export class Patrol {
  readonly #options: PatrolOptions;
  #timer: Timer | undefined;
  #closed = false;
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
    const streams = [...this.#options.streams()];
    for (const stream of streams) this.#options.refresh(stream);
    if (isLate) return;
    const control = streams.filter(({ kind, state }) => kind === 'control' && state.kind === 'open');
    this.#options.silent(control.filter((stream) => this.#options.isSilent(stream)).length, control.length);
    for (const stream of streams) this.#look(stream);
  }

  #look(stream: Stream): void {
    const now = this.#options.clock.now();
    if (this.#options.isSilent(stream)) this.#upstreamSilent(stream);
    const { goneAfterMs, observeOnly } = this.#options.policyOf(stream);
    // All other streams are closed by Linux itself, with TCP_USER_TIMEOUT.
    if (!observeOnly || goneAfterMs === 0 || stream.state.kind !== 'open') return;
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
