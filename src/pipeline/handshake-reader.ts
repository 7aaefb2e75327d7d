import type { MachineKey } from '../identity/keys.ts';
import { type Identity, identify, type NoiseKey } from '../identity/noise.ts';
import { ReplayMemory } from '../identity/replay-memory.ts';
import type { Emit } from '../streams/events.ts';

/** What the reader needs, and what it reports. */
export interface HandshakeReaderOptions {
  /** Undefined without a key. Then no client is identified. */
  noiseKey(): NoiseKey | undefined;
  readonly emit: Emit;
}

/** Who sent a handshake, or that it was seen before. */
export type Read = Identity | { readonly kind: 'replayed' };

/** Finds out which machine sent a handshake, and detects replays. Without a key, or after an internal error, no client is identified. */
export class HandshakeReader {
  readonly #options: HandshakeReaderOptions;
  readonly #replays = new ReplayMemory();

  constructor(options: HandshakeReaderOptions) {
    this.#options = options;
  }

  /** @param handshake the handshake that Headscale will read. */
  read(handshake: string | undefined): Read {
    const identity = this.#identify(handshake);
    // A handshake that was seen before may be copied from the network, so it proves nothing about its sender.
    return identity.kind === 'identified' && this.#replays.hasSeen(identity.ephemeral)
      ? { kind: 'replayed' }
      : identity;
  }

  /** The ephemeral keys of all handshakes that it remembers, for another process. */
  seen(): readonly string[] {
    return this.#replays.all().map((each) => each.toString('base64'));
  }

  /** Another process has seen these. */
  haveSeen(ephemerals: readonly string[]): void {
    for (const each of ephemerals) this.#replays.hasSeen(Buffer.from(each, 'base64'));
  }

  /** Forgets a handshake that Headscale never saw. A proxy in front of us may send it again after a 502. */
  forget(ephemeral: Buffer): void {
    this.#replays.forget(ephemeral);
  }

  /**
   * Reports the result of reading a handshake.
   *
   * @param replayedElsewhere whether another replica has seen the handshake before.
   * @returns the machine key, if the handshake proves it.
   */
  machineKeyOf(identity: Read, replayedElsewhere: boolean, remoteAddress: string): MachineKey | undefined {
    const result = replayedElsewhere ? 'replayed' : identity.kind;
    const why = identity.kind === 'unreadable' ? identity.why : undefined;
    this.#options.emit({ kind: 'handshake_checked', result, detail: why, remoteAddress });
    return identity.kind === 'identified' && !replayedElsewhere ? identity.machineKey : undefined;
  }

  #identify(handshake: string | undefined): Identity {
    const { emit } = this.#options;
    const noiseKey = this.#options.noiseKey();
    if (noiseKey === undefined) return { kind: 'unreadable', why: 'no Noise key' };
    try {
      return identify(noiseKey, handshake);
    } catch (error) {
      emit({ kind: 'internal_error', during: 'reading a handshake', error });
      return { kind: 'unreadable', why: 'internal_error' };
    }
  }
}
