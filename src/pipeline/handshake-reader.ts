import type { MachineKey } from '../identity/keys.ts';
import { type Identity, identify, type NoiseKey } from '../identity/noise.ts';
import { ReplayMemory } from '../identity/replay-memory.ts';
import type { Emit } from '../streams/events.ts';

export interface HandshakeReaderOptions {
  /** Undefined without a key: nobody is identified then. */
  noiseKey(): NoiseKey | undefined;
  readonly emit: Emit;
}

/** What a handshake says of its sender, to one who remembers those he has seen. */
export type Read = Identity | { readonly kind: 'replayed' };

/** Who an upgrade comes from. An error of ours, or no key: nobody in particular. */
export class HandshakeReader {
  readonly #parts: HandshakeReaderOptions;
  readonly #replays = new ReplayMemory();

  constructor(parts: HandshakeReaderOptions) {
    this.#parts = parts;
  }

  /** @param handshake the one that Headscale is going to read. */
  read(handshake: string | undefined): Read {
    const identity = this.#identify(handshake);
    // Whoever sends a handshake that was seen before has it from the wire: that says nothing about the node.
    return identity.kind === 'identified' && this.#replays.hasSeen(identity.ephemeral)
      ? { kind: 'replayed' }
      : identity;
  }

  /** Headscale has never seen this handshake and its client may send it again, as a proxy before us does after a 502. */
  forget(ephemeral: Buffer): void {
    this.#replays.forget(ephemeral);
  }

  /** The last word on what was read, which is told. @param replayedElsewhere another replica has seen the handshake. */
  machineKeyOf(identity: Read, replayedElsewhere: boolean, remoteAddress: string): MachineKey | undefined {
    const result = replayedElsewhere ? 'replayed' : identity.kind;
    const why = identity.kind === 'unreadable' ? identity.why : undefined;
    this.#parts.emit({ kind: 'handshake_checked', result, detail: why, remoteAddress });
    return identity.kind === 'identified' && !replayedElsewhere ? identity.machineKey : undefined;
  }

  #identify(handshake: string | undefined): Identity {
    const { emit } = this.#parts;
    const noiseKey = this.#parts.noiseKey();
    if (noiseKey === undefined) return { kind: 'unreadable', why: 'no noise key' };
    try {
      return identify(noiseKey, handshake);
    } catch (error) {
      emit({ kind: 'internal_error', during: 'reading a handshake', error });
      return { kind: 'unreadable', why: 'internal_error' };
    }
  }
}
