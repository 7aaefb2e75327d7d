import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { NoiseKey } from '../identity/noise.ts';
import { isMessage, type Message } from './messages.ts';

const PURPOSE = 'headscale-watchdog: messages between replicas, 1';
/** 32 bytes in base64url. */
const MAC_LENGTH = 43;
/** How many messages of a sender may overtake another one. */
const MAX_OVERTAKEN = 1000;
/** Each process of a replica counts as a sender. */
const MAX_SENDERS = 1000;

interface Sender {
  latest: number;
  readonly heard: Set<number>;
}

/**
 * Signs the messages between replicas with a secret that is derived from the Noise key they share. Somebody who can only write
 * to Redis can then neither forge a message, nor repeat one, nor redirect it to another replica.
 */
export class MessageSigner {
  readonly #name: string;
  readonly #noiseKey: () => NoiseKey | undefined;
  readonly #secrets = new WeakMap<NoiseKey, Buffer>();
  readonly #senders = new Map<string, Sender>();
  /** Tells the processes of one replica apart: during a hand-over there are two, and each counts for itself. */
  readonly #run = randomBytes(6).toString('base64url');
  #last: number;

  /**
   * @param name the name of this replica.
   * @param noiseKey without a key, nothing is signed or accepted.
   * @param last replicas of earlier versions ignore a process whose numbers are not above those of the one before it.
   */
  constructor(name: string, noiseKey: () => NoiseKey | undefined, last = 0) {
    this.#last = last;
    this.#name = name;
    this.#noiseKey = noiseKey;
  }

  /** @param to the receiver; undefined means all replicas. @returns undefined without a key. */
  sign(message: Message, to: string | undefined): string | undefined {
    const text = JSON.stringify({ to, run: this.#run, number: ++this.#last, message });
    const mac = this.mac(text);
    return mac && mac.toString('base64url') + text;
  }

  /** @returns undefined if the message is for another replica, was received before, is of an unknown kind, or if there is no key. */
  verify(signed: string): Message | 'forged' | undefined {
    const text = signed.slice(MAC_LENGTH);
    const mac = this.mac(text);
    const given = Buffer.from(signed.slice(0, MAC_LENGTH), 'base64url');
    if (mac === undefined) return undefined;
    if (given.length !== mac.length || !timingSafeEqual(given, mac)) return 'forged';
    const { to, run, number, message } = JSON.parse(text) as {
      to?: string;
      run?: string;
      number: number;
      message: unknown;
    };
    if ((to !== undefined && to !== this.#name) || !isMessage(message) || message.from === this.#name) return undefined;
    return this.#isFirst(`${message.from} ${run ?? ''}`, number) ? message : undefined;
  }

  /** HMAC-SHA256, 32 bytes; undefined without a key. */
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
    if (number <= sender.latest - MAX_OVERTAKEN || sender.heard.has(number)) return false;
    // Moves this sender to the end, so that the one that has been quiet longest is dropped first.
    this.#senders.delete(from);
    this.#senders.set(from, sender);
    for (const oldest of this.#senders.keys()) {
      if (this.#senders.size <= MAX_SENDERS) break;
      this.#senders.delete(oldest);
    }
    sender.latest = Math.max(sender.latest, number);
    sender.heard.add(number);
    if (sender.heard.size > 2 * MAX_OVERTAKEN) {
      for (const each of sender.heard) if (each <= sender.latest - MAX_OVERTAKEN) sender.heard.delete(each);
    }
    return true;
  }
}
