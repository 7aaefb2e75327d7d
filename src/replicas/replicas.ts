import type { MachineKey } from '../identity/keys.ts';
import type { Clock, Instant, Timer } from '../lib/clock.ts';
import { type Arrival, type Arriving, NOWHERE_ELSE, type StreamDirectory } from '../streams/directory.ts';
import type { Emit, WatchdogEvent } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import { isLive, type Stream, type StreamId } from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import { Announcements, CATCH_UP_EVERY_MS } from './announcements.ts';
import { type Link, RENEW_EVERY_MS } from './link.ts';
import { RollCall } from './members.ts';
import type { Message, ToldStream } from './messages.ts';
import { Ages, type Placed } from './order.ts';
import { Shadows } from './remote-newcomers.ts';

/** As long as its lease. */
const PEER_GONE_AFTER_MS = 3 * RENEW_EVERY_MS;
/** A node has one or two streams; only its newest can be newer than anybody's. */
const MOST_ANSWERED = 8;

export interface ReplicasParts {
  readonly clock: Clock;
  readonly name: string;
  readonly link: Link;
  readonly registry: Registry;
  readonly takeover: Takeover;
  readonly emit: Emit;
}

/** What others may see of us, and have done here. */
export interface Shown {
  views(): readonly object[];
  sever(id: StreamId): void;
}

/**
 * The streams of several watchdogs as one: each announces its own in Redis and asks there on a newcomer. A contest is
 * judged by the replica that has the old stream: it has the socket. Whatever Redis does, each goes on by itself.
 */
export class Replicas implements StreamDirectory {
  readonly #parts: ReplicasParts;
  readonly #announcements: Announcements;
  readonly #shadows: Shadows;
  readonly #rollCall: RollCall;
  readonly #ages: Ages;
  /** When each of the others was last heard of. */
  readonly #peers = new Map<string, Instant>();
  #shown: Shown = { views: () => [], sever() {} };
  #timers: readonly Timer[] = [];

  constructor(parts: ReplicasParts) {
    this.#parts = parts;
    const { clock, takeover, link, registry, name } = parts;
    this.#ages = new Ages(clock);
    this.#announcements = new Announcements({
      ...{ clock, link, registry },
      meet: (machineKey, replica) => this.#ask(machineKey, replica, true),
    });
    this.#shadows = new Shadows({
      ...{ clock, takeover, registry },
      placeOf: (stream) => this.#placeOf(stream),
      ask: (machineKey, replica) => this.#ask(machineKey, replica, false),
      say: (message, to) => link.send({ ...message, from: name } as Message, to),
    });
    this.#rollCall = new RollCall({ clock, name, send: (message, to) => link.send(message, to) });
  }

  start(): void {
    this.#every(RENEW_EVERY_MS, () => this.#renew());
    this.#every(CATCH_UP_EVERY_MS, () => this.#announcements.catchUp());
  }

  close(): Promise<void> {
    for (const timer of this.#timers) timer.cancel();
    this.#shadows.close();
    this.#rollCall.close();
    return this.#parts.link.close();
  }

  arrive(newcomer: Arriving): Promise<Arrival> | undefined {
    const { link } = this.#parts;
    return link.isUp ? this.#announcements.ask(newcomer).catch(() => NOWHERE_ELSE) : undefined;
  }

  contest(newcomer: Stream, elsewhere: readonly string[]): void {
    for (const replica of elsewhere) this.#challenge(newcomer, replica);
  }

  recorded(stream: Stream): void {
    this.#tellJudges(stream);
    const { link, name: from, takeover, clock } = this.#parts;
    const { machineKey, address, openedAt } = stream;
    if (machineKey === undefined || !takeover.duplicates.suspects(machineKey)) return;
    link.send({ kind: 'came', from, machineKey, address, openedAgoMs: clock.now() - openedAt });
  }

  left({ id, machineKey }: Arriving | Stream): void {
    if (machineKey === undefined) return;
    const { link, name } = this.#parts;
    for (const judge of this.#announcements.withdraw(machineKey, id))
      link.send({ kind: 'left', from: name, id }, judge);
  }

  forgetHandshake(ephemeral: Buffer): void {
    const { link } = this.#parts;
    // Where Redis is away the same handshake gives no identity for a while; it passes nevertheless.
    if (link.isUp) link.forgetHandshake(ephemeral).catch(() => {});
  }

  /** What of our own events others must hear. */
  readonly listen = (event: WatchdogEvent): void => {
    const { link, name: from } = this.#parts;
    if (event.kind === 'stream_severed' && event.because === 'silent' && event.stream.machineKey !== undefined) {
      const { machineKey, address: loser } = event.stream;
      const { address: winner } = event.newcomer;
      const isAsked = event.kernel !== undefined;
      link.send({ kind: 'turn', from, machineKey, loser, winner, loserAnswers: event.answers, isAsked });
    } else if (event.kind === 'machine_key_duplicated') {
      const { machineKey, addresses } = event;
      link.send({ kind: 'duplicate', from, machineKey, addresses });
    } else if (event.kind === 'contest_ended') {
      this.#shadows.contestEnded(event.newcomer);
    }
  };

  heard(message: Message): void {
    const { takeover, registry, clock } = this.#parts;
    this.#peers.set(message.from, clock.now());
    switch (message.kind) {
      case 'contest':
      case 'left':
        this.#shadows.heard(message);
        return;
      case 'clear': {
        const stream = registry.get(message.id);
        if (stream !== undefined) takeover.judgedElsewhere(stream, message.from, message.verdict);
        return;
      }
      case 'over':
        this.#announcements.of(message.id)?.judges.delete(message.from);
        return;
      case 'ask':
        this.#answer(message);
        return;
      case 'turn':
        takeover.duplicates.severedElsewhere(message.machineKey, {
          ...message,
          loserAnswers: message.isAsked === true ? message.loserAnswers : undefined,
        });
        return;
      case 'came':
        takeover.duplicates.cameElsewhere(message.machineKey, message.address, message.openedAgoMs);
        return;
      case 'duplicate':
        takeover.duplicates.foundElsewhere(message.machineKey, message.addresses);
        return;
      case 'show':
        this.#rollCall.answer(message.from, message.request, this.#shown.views());
        return;
      case 'shown':
        this.#rollCall.heard(message);
        return;
      case 'sever':
        this.#shown.sever(message.id);
        return;
      case 'here':
        return;
      default:
        message satisfies never;
    }
  }

  get name(): string {
    return this.#parts.name;
  }

  /** Lets others see our streams, and sever them. */
  show(shown: Shown): void {
    this.#shown = shown;
  }

  /** The streams of all others that answer, as they show them. */
  othersStreams(): Promise<readonly object[]> {
    return this.#rollCall.call(this.#parts.link.isUp ? [...this.#peers.keys()] : []);
  }

  /** Asks another replica to sever a stream of its own. @returns whether it is there. */
  sever(replica: string, id: StreamId): boolean {
    if (!this.#peers.has(replica)) return false;
    this.#parts.link.send({ kind: 'sever', from: this.#parts.name, id }, replica);
    return true;
  }

  get isUp(): boolean {
    return this.#parts.link.isUp;
  }

  /** Redis is there, or there again, and may know nothing of us. */
  joined(): void {
    const { link, name } = this.#parts;
    link.renewLease().catch(() => {});
    link.send({ kind: 'here', from: name });
    this.#announcements.beginAnew();
  }

  /** @param askedAt of the question it answers. */
  #challenge(newcomer: Stream, replica: string, askedAt?: number): void {
    const told = this.#tell(newcomer);
    if (told === undefined || !isLive(newcomer)) return;
    this.#announcements.of(newcomer.id)?.judges.add(replica);
    this.#parts.link.send({ kind: 'contest', from: this.#parts.name, newcomer: told, askedAt }, replica);
  }

  #ask(machineKey: MachineKey, replica: string, inTurn: boolean): void {
    const { link, clock, name: from } = this.#parts;
    link.send({ kind: 'ask', from, machineKey, askedAt: clock.now(), inTurn }, replica);
  }

  #answer({ from, machineKey, askedAt, inTurn }: Extract<Message, { readonly kind: 'ask' }>): void {
    const newest = this.#parts.registry.ofMachineKey(machineKey).filter(isLive).slice(-MOST_ANSWERED);
    for (const stream of newest) this.#challenge(stream, from, askedAt);
    if (inTurn && newest.length > 0) this.#ask(machineKey, from, false);
  }

  #tellJudges(stream: Stream): void {
    for (const judge of this.#announcements.of(stream.id)?.judges ?? []) this.#challenge(stream, judge);
  }

  #tell(stream: Stream): ToldStream | undefined {
    const { id, machineKey, address, remoteAddress, heardAt, firstRecordAt } = stream;
    const { order, ...age } = this.#placeOf(stream);
    if (order === undefined || machineKey === undefined) return undefined;
    const now = this.#parts.clock.now();
    return {
      ...{ id, machineKey, address, remoteAddress, order, ...age, heardAgoMs: now - heardAt },
      firstRecordAgoMs: firstRecordAt === undefined ? undefined : now - firstRecordAt,
    };
  }

  #placeOf(stream: Stream): Placed {
    const announcement = this.#announcements.of(stream.id);
    return { order: announcement?.order, ...this.#ages.of(stream, announcement?.beganAt) };
  }

  async #renew(): Promise<void> {
    const { link, registry, clock, name } = this.#parts;
    this.#ages.look();
    this.#shadows.forgetStale();
    for (const [peer, at] of this.#peers) if (clock.now() - at > PEER_GONE_AFTER_MS) this.#peers.delete(peer);
    link.send({ kind: 'here', from: name });
    for (const id of this.#announcements.judged()) {
      const stream = registry.get(id);
      if (stream !== undefined) this.#tellJudges(stream);
    }
    this.#announcements.renewOld();
    if (link.isUp && !(await link.renewLease())) this.joined();
  }

  /** Again and again, until it is closed; an error is one of Redis', which `changed` tells of. */
  #every(ms: number, act: () => Promise<void>): void {
    const slot = this.#timers.length;
    const again = (): void => {
      const timers = [...this.#timers];
      timers[slot] = this.#parts.clock.after(ms, () => {
        again();
        act().catch(() => {});
      });
      this.#timers = timers;
    };
    again();
  }
}
