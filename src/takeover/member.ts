import type { Witness } from '../liveness/liveness-check.ts';
import type { Stream } from '../streams/stream.ts';

/** A stream as takeover sees it: something that can be asked about, severed, and let through to Headscale. */
export interface Member extends Witness {
  readonly stream: Stream;
  /** Ends it: the upstream connection first, then the client's. */
  sever(because: 'dead' | 'silent'): void;
  /** Shows it to Headscale. Called once at most. */
  forward(): void;
  /** Of a newcomer that another replica has: whether it is known to be there at this moment. Once it is, it is judged anew. */
  isThere?(): boolean;
}

/** What may differ from node to node; asked anew each time it matters. Durations are in milliseconds. */
export interface TakeoverTerms {
  /** How long a client may say nothing before rule 2 calls it silent. */
  readonly silentAfterMs: number;
  /** How long a newcomer is held at most; 0: never. Whose verdict takes longer is not held for it at all. */
  readonly holdMs: number;
  /** How long it is held where no verdict takes longer. */
  readonly holdUsuallyMs: number;
  /** Tell what would have been severed, sever nothing, hold nobody. */
  readonly observeOnly: boolean;
}

/** How many newcomers are held at once. */
export interface HoldBound {
  most(): number;
  reached(stream: Stream): void;
}
