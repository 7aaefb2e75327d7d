import type { NodePolicy } from '../config/types.ts';
import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { type Emit, reportWouldSever } from '../streams/events.ts';
import type { KernelEvidence, Stream } from '../streams/stream.ts';
import { isOutstanding } from './evidence.ts';

const EVERY_MS = 4000;
/** A round this late comes after we were held up ourselves, and what was said meanwhile has not been read yet. */
const LATE_MS = 2000;

export interface PatrolOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  streams(): Iterable<Stream>;
  /** Whatever else has to be done for a stream now and then. */
  refresh(stream: Stream): void;
  evidenceOf(stream: Stream): KernelEvidence | undefined;
  policyOf(stream: Stream): Pick<NodePolicy, 'goneAfterMs' | 'observeOnly'>;
  /** Whether Headscale has said nothing on it for too long. */
  isSilent(stream: Stream): boolean;
  /** On how many of the open control streams that is so. */
  silent(silent: number, of: number): void;
  /** Whether streams on which Headscale says nothing are to be severed. */
  seversUpstreamSilent(): boolean;
  sever(stream: Stream): void;
}

/**
 * Looks at every stream once in four seconds, for what no event tells: that Headscale has fallen silent, and that a
 * stream which is only observed would have been gone.
 */
export class Patrol {
  readonly #ports: PatrolOptions;
  #timer: Timer | undefined;
  #closed = false;
  /** Since when a client has acknowledged no byte more, although there were some for it. */
  readonly #stuck = new WeakMap<Stream, { readonly ackedBytes: number; readonly since: Instant }>();

  constructor(ports: PatrolOptions) {
    this.#ports = ports;
    this.#schedule();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  #schedule(): void {
    if (this.#closed) return;
    const { clock, emit } = this.#ports;
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
    const streams = [...this.#ports.streams()];
    for (const stream of streams) this.#ports.refresh(stream);
    if (isLate) return;
    const control = streams.filter(({ kind, state }) => kind === 'control' && state.kind === 'open');
    this.#ports.silent(control.filter((stream) => this.#ports.isSilent(stream)).length, control.length);
    for (const stream of streams) this.#look(stream);
  }

  #look(stream: Stream): void {
    const now = this.#ports.clock.now();
    if (this.#ports.isSilent(stream)) this.#upstreamSilent(stream);
    const { goneAfterMs, observeOnly } = this.#ports.policyOf(stream);
    // Of a stream that is not only observed, Linux itself takes care.
    if (!observeOnly || goneAfterMs === 0 || stream.state.kind !== 'open') return;
    if (this.#stuckForMs(stream, now) >= goneAfterMs) reportWouldSever(stream, 'gone', this.#ports.emit);
  }

  #upstreamSilent(stream: Stream): void {
    if (!this.#ports.seversUpstreamSilent()) return;
    if (this.#ports.policyOf(stream).observeOnly) reportWouldSever(stream, 'upstream_silent', this.#ports.emit);
    else this.#ports.sever(stream);
  }

  /** As seen from one look to the next: up to four seconds less than it is. */
  #stuckForMs(stream: Stream, now: Instant): number {
    const evidence = this.#ports.evidenceOf(stream);
    const before = this.#stuck.get(stream);
    if (evidence === undefined || !isOutstanding(evidence)) {
      this.#stuck.delete(stream);
      return 0;
    }
    const { ackedBytes } = evidence;
    if (before?.ackedBytes === ackedBytes) return now - before.since;
    this.#stuck.set(stream, { ackedBytes, since: now });
    return 0;
  }
}
