import type { Clock, Instant, Timer } from '../clock.ts';
import type { NodePolicy } from '../config/schema.ts';
import { type Emit, spare } from '../events.ts';
import type { Stream } from '../streams/stream.ts';
import { isOutstanding, type KernelEvidence } from './evidence.ts';

const EVERY_MS = 4000;
/** Headscale speaks every 50 to 59 s; after twice that, and a little, something is wrong with it. */
const UPSTREAM_SILENT_AFTER_MS = 125_000;

/** Whether Headscale has said nothing on this control stream for longer than it ever is silent. */
export function isUpstreamSilent(stream: Stream, now: Instant): boolean {
  const { kind, state, spokenAt } = stream;
  return (
    kind === 'control' && state.kind === 'open' && spokenAt !== undefined && now - spokenAt >= UPSTREAM_SILENT_AFTER_MS
  );
}

export interface PatrolPorts {
  readonly clock: Clock;
  readonly emit: Emit;
  streams(): Iterable<Stream>;
  /** Whatever else has to be done for a stream now and then. */
  tend(stream: Stream): void;
  evidenceOf(stream: Stream): KernelEvidence | undefined;
  policyOf(stream: Stream): Pick<NodePolicy, 'goneAfterMs' | 'observeOnly'>;
  /** Whether streams on which Headscale says nothing are to be severed. */
  seversUpstreamSilent(): boolean;
  sever(stream: Stream): void;
}

/**
 * Looks at every stream once in four seconds, for what no event tells: that Headscale has fallen silent, and that a
 * stream which is only observed would have been gone.
 */
export class Patrol {
  readonly #ports: PatrolPorts;
  #timer: Timer | undefined;
  #closed = false;
  readonly #silent = new WeakSet<Stream>();
  /** Since when a client has acknowledged no byte more, although there were some for it. */
  readonly #stuck = new WeakMap<Stream, { readonly ackedBytes: number; readonly since: Instant }>();

  constructor(ports: PatrolPorts) {
    this.#ports = ports;
    this.#schedule();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  #schedule(): void {
    if (this.#closed) return;
    this.#timer = this.#ports.clock.after(EVERY_MS, () => {
      try {
        for (const stream of [...this.#ports.streams()]) this.#look(stream);
      } catch (error) {
        this.#ports.emit({ kind: 'internal error', during: 'looking at every stream', error });
      }
      this.#schedule();
    });
  }

  #look(stream: Stream): void {
    const now = this.#ports.clock.now();
    this.#ports.tend(stream);
    if (isUpstreamSilent(stream, now)) this.#upstreamSilent(stream, now);
    else this.#silent.delete(stream);
    const { goneAfterMs, observeOnly } = this.#ports.policyOf(stream);
    // Of a stream that is not only observed, Linux itself takes care.
    if (!observeOnly || goneAfterMs === 0 || stream.state.kind !== 'open') return;
    if (this.#stuckForMs(stream, now) >= goneAfterMs) spare(stream, 'gone', this.#ports.emit);
  }

  #upstreamSilent(stream: Stream, now: Instant): void {
    if (!this.#silent.has(stream)) {
      this.#silent.add(stream);
      this.#ports.emit({ kind: 'upstream silent', stream, silentMs: now - (stream.spokenAt ?? now) });
    }
    if (!this.#ports.seversUpstreamSilent()) return;
    if (this.#ports.policyOf(stream).observeOnly) spare(stream, 'upstream_silent', this.#ports.emit);
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
