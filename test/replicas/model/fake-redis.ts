import type { MachineKey } from '../../../src/identity/keys.ts';
import { type Announced, type Link, type LinkEvents, RENEW_EVERY_MS } from '../../../src/replicas/link.ts';
import type { Message } from '../../../src/replicas/messages.ts';
import type { Order } from '../../../src/replicas/order.ts';
import type { StreamId } from '../../../src/streams/stream.ts';
import type { Machine, WorldTime } from './machine.ts';

const ANSWERS_WITHIN_MS = 250;

interface Node {
  epoch: string;
  last: number;
  readonly places: Map<string, number>;
}

interface Data {
  readonly nodes: Map<MachineKey, Node>;
  /** When they run out, by Redis' own calendar. */
  readonly leases: Map<string, number>;
  readonly handshakes: Set<string>;
}

const empty = (): Data => ({ nodes: new Map(), leases: new Map(), handshakes: new Set() });

/** Redis, as `RedisLink` uses it: its scripts, its calendar that may be set, its data that may be lost or fall back. */
export class FakeRedis {
  readonly time: WorldTime;
  readonly links = new Set<FakeLink>();
  calendarAheadMs = 0;
  /** How long messages are on their way. */
  messagesTakeMs = 1;
  losesMessages = false;
  isFrozen = false;
  #data = empty();
  #snapshot = empty();
  #history = 1;
  #words = 0;
  #frozen: (() => void)[] = [];

  constructor(time: WorldTime) {
    this.time = time;
  }

  /** What a replica of it has got so far, or its file. */
  copy(): void {
    this.#snapshot = structuredClone(this.#data);
  }

  /** @param isLost nothing is left; else it goes on from its copy, as after a failover. */
  restart(isLost: boolean): void {
    this.#data = isLost ? empty() : structuredClone(this.#snapshot);
    this.#history += 1;
    this.#frozen = [];
  }

  flush(): void {
    this.#data = empty();
  }

  thaw(): void {
    this.isFrozen = false;
    for (const command of this.#frozen.splice(0)) command();
  }

  /** Carries a command out, now or when it is thawed. */
  take(command: () => void): void {
    if (this.isFrozen) this.#frozen.push(command);
    else command();
  }

  announce(key: MachineKey, field: string, before: Order | undefined): { readonly node: Node; readonly place: number } {
    const history = `${this.#history}.`;
    const node = this.#data.nodes.get(key) ?? { epoch: '', last: 0, places: new Map() };
    this.#data.nodes.set(key, node);
    if (!node.epoch.startsWith(history)) Object.assign(node, { epoch: `${history}${++this.#words}`, last: 0 });
    const place = before?.epoch === node.epoch ? before.place : ++node.last;
    node.places.set(field, place);
    return { node, place };
  }

  withdraw(key: MachineKey, isGone: (field: string) => boolean): void {
    const node = this.#data.nodes.get(key);
    if (node === undefined) return;
    for (const field of [...node.places.keys()]) if (isGone(field)) node.places.delete(field);
    if (node.places.size === 0) this.#data.nodes.delete(key);
  }

  hasSeen(handshake: string): boolean {
    const has = this.#data.handshakes.has(handshake);
    this.#data.handshakes.add(handshake);
    return has;
  }

  isAlive(name: string): boolean {
    return (this.#data.leases.get(name) ?? 0) > this.time.now() + this.calendarAheadMs;
  }

  renew(name: string): boolean {
    const ran = this.isAlive(name);
    this.#data.leases.set(name, this.time.now() + this.calendarAheadMs + 3 * RENEW_EVERY_MS);
    return ran;
  }
}

/** A replica's link to it, which can be cut. */
export class FakeLink implements Link {
  readonly #redis: FakeRedis;
  readonly #machine: Machine;
  readonly #name: string;
  readonly #ports: LinkEvents;
  readonly #waiting = new Set<(reason: Error) => void>();
  isUp = false;
  /** It cannot connect. */
  isCut = false;

  constructor(redis: FakeRedis, machine: Machine, name: string, ports: LinkEvents) {
    this.#redis = redis;
    this.#machine = machine;
    this.#name = name;
    this.#ports = ports;
    redis.links.add(this);
  }

  connect(): void {
    if (this.isUp || this.isCut || this.#redis.isFrozen || !this.#redis.links.has(this)) return;
    this.isUp = true;
    this.#machine.run(() => this.#ports.changed(true, undefined));
  }

  cut(): void {
    if (!this.isUp) return;
    this.isUp = false;
    for (const reject of [...this.#waiting]) reject(new Error('cut'));
    this.#machine.run(() => this.#ports.changed(false, 'cut'));
  }

  async announce(key: MachineKey, id: StreamId, when: 'arriving' | 'later', before?: Order): Promise<Announced> {
    return this.#ask(() => {
      const { node, place } = this.#redis.announce(key, `${this.#name}/${id}`, before);
      const isKept = before?.epoch === node.epoch;
      const order = { epoch: node.epoch, place, isExact: isKept ? before.isExact : when === 'arriving' };
      const replicas = [...node.places.keys()].map((field) => field.split('/')[0] ?? '');
      return { order, others: [...new Set(replicas)].filter((name) => name !== this.#name) };
    });
  }

  withdraw(key: MachineKey, id: StreamId): Promise<void> {
    return this.#ask(() => this.#redis.withdraw(key, (field) => field === `${this.#name}/${id}`));
  }

  forget(key: MachineKey, replica: string): Promise<void> {
    return this.#ask(() => this.#redis.withdraw(key, (field) => field.startsWith(`${replica}/`)));
  }

  hasSeen(ephemeral: Buffer): Promise<boolean> {
    return this.#ask(() => this.#redis.hasSeen(ephemeral.toString('hex')));
  }

  async forgetHandshake(): Promise<void> {}

  isAlive(replica: string): Promise<boolean> {
    return this.#ask(() => this.#redis.isAlive(replica));
  }

  renewLease(): Promise<boolean> {
    return this.#ask(() => this.#redis.renew(this.#name));
  }

  send(message: Message, to?: string): void {
    const { time, losesMessages, messagesTakeMs, links } = this.#redis;
    if (!this.isUp || losesMessages) return;
    // Through text, as on the wire.
    const text = JSON.stringify(message);
    time.after(messagesTakeMs, () => {
      this.#redis.take(() => {
        for (const link of links) {
          if (link !== this && link.isUp && (to === undefined || link.#name === to)) link.#hear(JSON.parse(text));
        }
      });
    });
  }

  async close(): Promise<void> {
    this.isUp = false;
    this.#redis.links.delete(this);
  }

  #tryAgain(): void {
    this.#redis.time.after(1000, () => {
      this.connect();
      if (!this.isUp && this.#redis.links.has(this)) this.#tryAgain();
    });
  }

  #hear(message: Message): void {
    this.#machine.run(() => this.#ports.heard(message));
  }

  /** There and back a millisecond each; whatever is cut or late may have been carried out. */
  #ask<T>(command: () => T): Promise<T> {
    const { time } = this.#redis;
    if (!this.isUp) return Promise.reject(new Error('not connected'));
    return new Promise((resolve, reject) => {
      const fail = (reason: Error): void => {
        this.#waiting.delete(fail);
        this.#machine.run(() => reject(reason));
      };
      this.#waiting.add(fail);
      time.after(1, () => {
        this.#redis.take(() => {
          if (!this.#redis.links.has(this)) return;
          const answer = command();
          time.after(1, () => {
            if (this.#waiting.delete(fail)) this.#machine.run(() => resolve(answer));
          });
        });
      });
      time.after(ANSWERS_WITHIN_MS, () => {
        if (!this.#waiting.has(fail)) return;
        fail(new Error('timed out'));
        this.cut();
        this.#tryAgain();
      });
    });
  }
}
