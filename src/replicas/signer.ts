import { createHmac, timingSafeEqual } from 'node:crypto';
import type { NoiseKey } from '../identity/machine-key.ts';
import { isMessage, type Message } from './messages.ts';

const PURPOSE = 'headscale-watchdog: messages between replicas, 1';
/** In base64url. */
const SEAL_LENGTH = 43;
/** Messages may overtake each other by so many. */
const OVERTAKEN_BY = 1000;
/** Each start of a replica is a sender of its own. */
const MOST_SENDERS = 1000;

interface Sender {
  latest: number;
  readonly heard: Set<number>;
}

/**
 * Signs what replicas say to each other with a secret that follows from the Noise key they all read. Who can write to Redis
 * alone can then neither make a message up, nor send one again, nor send it to another replica than it was for.
 */
export class MessageSigner {
  readonly #name: string;
  readonly #noiseKey: () => NoiseKey | undefined;
  readonly #secrets = new WeakMap<NoiseKey, Buffer>();
  readonly #senders = new Map<string, Sender>();
  #last = 0;

  /** @param name of this replica. @param noiseKey without one nothing can be said, and nothing is believed. */
  constructor(name: string, noiseKey: () => NoiseKey | undefined) {
    this.#name = name;
    this.#noiseKey = noiseKey;
  }

  /** @param to a replica; undefined: all. @returns undefined without a key. */
  sign(message: Message, to: string | undefined): string | undefined {
    const text = JSON.stringify({ to, number: ++this.#last, message });
    const mac = this.mac(text);
    return mac && mac.toString('base64url') + text;
  }

  /** @returns undefined where it is not for us, was heard before, or says nothing; or where we have no key. */
  verify(signed: string): Message | 'forged' | undefined {
    const text = signed.slice(SEAL_LENGTH);
    const mac = this.mac(text);
    const given = Buffer.from(signed.slice(0, SEAL_LENGTH), 'base64url');
    if (mac === undefined) return undefined;
    if (given.length !== mac.length || !timingSafeEqual(given, mac)) return 'forged';
    const { to, number, message } = JSON.parse(text) as { to?: string; number: number; message: unknown };
    if ((to !== undefined && to !== this.#name) || !isMessage(message) || message.from === this.#name) return undefined;
    return this.#isFirst(message.from, number) ? message : undefined;
  }

  /** Of 32 bytes; undefined without a key. */
  mac(text: string | Buffer): Buffer | undefined {
    const key = this.#noiseKey();
    return key && createHmac('sha256', this.#secretOf(key)).update(text).digest();
  }

  #secretOf(key: NoiseKey): Buffer {
    const known = this.#secrets.get(key);
    if (known !== undefined) return known;
    const { d = '' } = key.privateKey.export({ format: 'jwk' });
    const secret = createHmac('sha256', Buffer.from(d, 'base64url')).update(PURPOSE).digest();
    this.#secrets.set(key, secret);
    return secret;
  }

  #isFirst(from: string, number: number): boolean {
    const sender = this.#senders.get(from) ?? { latest: 0, heard: new Set() };
    if (number <= sender.latest - OVERTAKEN_BY || sender.heard.has(number)) return false;
    // The one longest unheard goes first.
    this.#senders.delete(from);
    this.#senders.set(from, sender);
    for (const oldest of this.#senders.keys()) {
      if (this.#senders.size <= MOST_SENDERS) break;
      this.#senders.delete(oldest);
    }
    sender.latest = Math.max(sender.latest, number);
    sender.heard.add(number);
    if (sender.heard.size > 2 * OVERTAKEN_BY) {
      for (const each of sender.heard) if (each <= sender.latest - OVERTAKEN_BY) sender.heard.delete(each);
    }
    return true;
  }
}
