import { type Instant, plus } from '../lib/clock.ts';
import type { JsonFields } from '../lib/json.ts';
import type { StreamId } from '../streams/stream.ts';

/*
 * The hand-over of live streams from an old process to its successor, as two state machines without sockets or clocks.
 *
 *   old                                 successor
 *   starts it ───── hello ────────────▶ reads its configuration and its keys, builds everything
 *             ◀──── ready or failed ───
 *   for each stream, several at once:
 *   rests it  ───── stream (twice) ───▶ keeps both sockets, reads nothing
 *             ◀──── taken or refused ──
 *   closes    ───── yours ────────────▶ goes on with it
 *   the rest: ───── state, listen ────▶ listens on the same sockets
 *             ◀──── listening ─────────
 *   stops listening, gives what becomes free, ends
 *
 * `taken` is the point of no return of a stream: before it the old process goes on with the stream whatever happens, after it
 * the successor does. The successor reads nothing before `yours`, or before the old process has died. So no byte is ever read
 * by both, and none is lost.
 *
 * `listen` is the point of no return of the watchdog: if the old process dies before it, the successor ends, because whoever
 * started the old one starts it again, and nobody knows the successor. After it, the successor is the watchdog.
 */

/** What the old process says. Unknown kinds are ignored. */
export type OldSays =
  | {
      readonly kind: 'hello';
      /** The sockets that listen already, with the addresses that they were configured with. */
      readonly listening: readonly ListeningSocket[];
      /** How many of them systemd has opened. */
      readonly fromManager: number;
      /** New streams get numbers above this one. */
      readonly lastId: number;
      /** The name by which other replicas know this watchdog. */
      readonly replica?: string;
    }
  /** One socket of a stream comes with it: the client's first, and then Headscale's if there is one. */
  | { readonly kind: 'stream'; readonly id: StreamId; readonly sockets: number; readonly record?: JsonFields }
  | { readonly kind: 'yours' | 'back'; readonly id: StreamId }
  /** A part of what the process knows besides its streams. It may come in several pieces, and again later. */
  | { readonly kind: 'state'; readonly part: string; readonly state: unknown }
  | { readonly kind: 'listen' }
  /** The service manager knows that the successor is the main process now. */
  | { readonly kind: 'main' }
  /** A node's old streams are all handed over or ended: its newcomer need not wait for them. */
  | { readonly kind: 'clear'; readonly id: StreamId };

export type SuccessorSays =
  | { readonly kind: 'ready'; readonly version: string }
  | { readonly kind: 'failed'; readonly code: string; readonly problems: readonly string[] }
  /** `refused`: this version does not understand the stream, and the old process keeps it. */
  | { readonly kind: 'taken' | 'refused'; readonly id: StreamId }
  | { readonly kind: 'listening' }
  /** A newcomer of a node has come, whose old streams may still be with the old process. */
  | { readonly kind: 'came'; readonly id: StreamId; readonly machineKey: string };

export interface ListeningSocket {
  /** The descriptor in the successor. */
  readonly fd: number;
  readonly use: 'clients' | 'admin';
  readonly host: string;
  readonly port: number;
}

/** What the old process does next. */
export type OldCommand =
  /** Rest the stream, and send it. */
  | { readonly kind: 'offer'; readonly id: StreamId }
  /** It is the successor's: close our side, and say `yours`. */
  | { readonly kind: 'settle'; readonly id: StreamId }
  /** Say `back`, and go on with it. */
  | { readonly kind: 'take_back'; readonly id: StreamId }
  /** Send what else is known, and say `listen`. */
  | { readonly kind: 'switch' }
  /** The successor listens: stop listening. */
  | { readonly kind: 'leave' }
  /** The hand-over has failed, and the old process goes on. */
  | { readonly kind: 'give_up'; readonly why: Failure };

export type Failure =
  | { readonly kind: 'refused'; readonly code: string; readonly problems: readonly string[] }
  | { readonly kind: 'ended'; readonly how: string }
  /** It has not done this in time. */
  | { readonly kind: 'late'; readonly missed: 'ready' | 'answer' | 'listen'; readonly afterMs: number }
  | { readonly kind: 'stopping' };

/** A start takes a quarter of a second, and then the successor may wait for Headscale for five seconds. */
const READY_WITHIN_MS = 30_000;
/** A busy successor needs milliseconds. */
const TAKEN_WITHIN_MS = 5000;
const LISTENING_WITHIN_MS = 10_000;
/** So many streams are on their way at once. Each rests for as long as all of them take. */
const IN_TRANSIT = 8;

/** The old process's side. */
export class Predecessor {
  #phase: 'starting' | 'moving' | 'switching' | 'leaving' | 'over' = 'starting';
  #until: Instant;
  readonly #startedAt: Instant;
  #heardAt: Instant;
  readonly #inTransit = new Map<StreamId, Instant>();
  /** Streams that the successor does not understand, or did not answer for. */
  readonly #kept = new Set<StreamId>();
  /** The streams to move before the successor listens. */
  #first: ReadonlySet<StreamId> | undefined;
  #moved = 0;

  constructor(now: Instant) {
    this.#startedAt = now;
    this.#heardAt = now;
    this.#until = plus(now, READY_WITHIN_MS);
  }

  get phase(): 'starting' | 'moving' | 'switching' | 'leaving' | 'over' {
    return this.#phase;
  }

  get moved(): number {
    return this.#moved;
  }

  /** Whether streams are handed over now. Newcomers go the same way. */
  get isMoving(): boolean {
    return this.#phase === 'moving' || this.#phase === 'switching' || this.#phase === 'leaving';
  }

  heard(said: SuccessorSays, now: Instant): readonly OldCommand[] {
    this.#heardAt = now;
    switch (said.kind) {
      case 'ready':
        if (this.#phase === 'starting') this.#phase = 'moving';
        return [];
      case 'failed':
        if (this.#phase !== 'starting') return [];
        return this.#giveUp({ kind: 'refused', code: said.code, problems: said.problems });
      case 'taken':
        if (!this.#inTransit.delete(said.id)) return [];
        this.#moved += 1;
        return [{ kind: 'settle', id: said.id }];
      case 'refused':
        return this.#keep(said.id);
      case 'listening':
        if (this.#phase !== 'switching') return [];
        this.#phase = 'leaving';
        this.#until = now;
        return [{ kind: 'leave' }];
      default:
        return [];
    }
  }

  /** The successor's process has ended, or it cannot be started. */
  ended(how: string): readonly OldCommand[] {
    if (this.#phase === 'over') return [];
    const back = this.#allBack();
    // It listens and had everything: whoever started us starts it again.
    if (this.#phase === 'leaving') {
      this.#phase = 'over';
      return back;
    }
    return [...back, ...this.#giveUp({ kind: 'ended', how })];
  }

  /** This process is to stop, and the successor with it, unless that listens already. */
  cancel(): readonly OldCommand[] {
    if (this.#phase === 'leaving' || this.#phase === 'over') return [];
    return [...this.#allBack(), ...this.#giveUp({ kind: 'stopping' })];
  }

  /**
   * To be called often, and whenever streams may have become able to go.
   *
   * @param able the streams that can go now, in the order in which they should.
   */
  next(able: readonly StreamId[], now: Instant): readonly OldCommand[] {
    if (this.#phase === 'starting') {
      return now < this.#until ? [] : this.#late('ready', now - this.#startedAt);
    }
    if (!this.isMoving) return [];
    const silentMs = now - this.#heardAt;
    const late = [...this.#inTransit].filter(([, until]) => now >= until).map(([id]) => id);
    if (this.#phase === 'moving' && late.length > 0 && silentMs >= TAKEN_WITHIN_MS)
      return this.#late('answer', silentMs);
    const kept = late.flatMap((id) => this.#keep(id));
    this.#first ??= new Set(able);
    const offered: StreamId[] = [];
    let isFirstLeft = [...this.#inTransit.keys()].some((id) => this.#first?.has(id));
    for (const id of able) {
      const hasRoom = this.#inTransit.size < IN_TRANSIT;
      if (isFirstLeft && !hasRoom) break;
      if (this.#inTransit.has(id) || this.#kept.has(id)) continue;
      isFirstLeft ||= this.#first.has(id);
      if (!hasRoom) continue;
      this.#inTransit.set(id, plus(now, TAKEN_WITHIN_MS));
      offered.push(id);
    }
    return [...kept, ...offered.map((id) => ({ kind: 'offer', id }) as const), ...this.#switch(!isFirstLeft, now)];
  }

  isInTransit(id: StreamId): boolean {
    return this.#inTransit.has(id);
  }

  /** It cannot go after all, because what was read cannot be written now. It may be offered again. */
  notOffered(id: StreamId): void {
    this.#inTransit.delete(id);
  }

  #switch(isDue: boolean, now: Instant): readonly OldCommand[] {
    if (this.#phase === 'switching' && now >= this.#until) {
      return this.#late('listen', LISTENING_WITHIN_MS);
    }
    if (this.#phase !== 'moving' || !isDue) return [];
    this.#phase = 'switching';
    this.#until = plus(now, LISTENING_WITHIN_MS);
    return [{ kind: 'switch' }];
  }

  #keep(id: StreamId): readonly OldCommand[] {
    if (!this.#inTransit.delete(id)) return [];
    this.#kept.add(id);
    return [{ kind: 'take_back', id }];
  }

  #allBack(): readonly OldCommand[] {
    return [...this.#inTransit.keys()].flatMap((id) => this.#keep(id));
  }

  #late(missed: Extract<Failure, { kind: 'late' }>['missed'], afterMs: number): readonly OldCommand[] {
    return [...this.#allBack(), ...this.#giveUp({ kind: 'late', missed, afterMs })];
  }

  #giveUp(why: Failure): readonly OldCommand[] {
    this.#phase = 'over';
    return [{ kind: 'give_up', why }];
  }
}

/** What the successor does next. `Handle` is a socket on its way. */
export type SuccessorCommand<Handle> =
  | { readonly kind: 'say'; readonly says: SuccessorSays }
  | { readonly kind: 'adopt'; readonly id: StreamId; readonly record: JsonFields; readonly handles: readonly Handle[] }
  /** The old process goes on with these. */
  | { readonly kind: 'close'; readonly handles: readonly Handle[] }
  | { readonly kind: 'learn'; readonly part: string; readonly state: unknown }
  | { readonly kind: 'listen' }
  /** The old process has ended too early: this one ends, too. */
  | { readonly kind: 'end' }
  | { readonly kind: 'clear'; readonly id: StreamId };

interface Arriving<Handle> {
  readonly sockets: number;
  readonly record: JsonFields;
  readonly handles: Handle[];
  isTaken: boolean;
}

/** The successor's side, from `ready` on. */
export class Successor<Handle> {
  readonly #arriving = new Map<StreamId, Arriving<Handle>>();
  readonly #understands: (record: JsonFields) => boolean;
  #isListening = false;

  /** @param understands whether this version can go on with such a stream. */
  constructor(understands: (record: JsonFields) => boolean) {
    this.#understands = understands;
  }

  heard(said: OldSays, handle: Handle | undefined): readonly SuccessorCommand<Handle>[] {
    switch (said.kind) {
      case 'stream':
        return this.#arrived(said, handle);
      case 'yours':
        return this.#adopt(said.id);
      case 'back': {
        const arriving = this.#arriving.get(said.id);
        this.#arriving.delete(said.id);
        return arriving === undefined ? [] : [{ kind: 'close', handles: arriving.handles }];
      }
      case 'state':
        return [{ kind: 'learn', part: said.part, state: said.state }];
      case 'listen':
        this.#isListening = true;
        return [{ kind: 'listen' }];
      case 'clear':
        return [{ kind: 'clear', id: said.id }];
      default:
        return handle === undefined ? [] : [{ kind: 'close', handles: [handle] }];
    }
  }

  /** The old process has ended, as it does when everything is handed over, or by a crash. What was taken is ours, if we listen. */
  alone(): readonly SuccessorCommand<Handle>[] {
    if (!this.#isListening) {
      const all = [...this.#arriving.values()].map(({ handles }) => ({ kind: 'close', handles }) as const);
      this.#arriving.clear();
      return [...all, { kind: 'end' }];
    }
    const taken = [...this.#arriving].filter(([, { isTaken }]) => isTaken).flatMap(([id]) => this.#adopt(id));
    const rest = [...this.#arriving.values()].map(({ handles }) => ({ kind: 'close', handles }) as const);
    this.#arriving.clear();
    return [...taken, ...rest];
  }

  #arrived(
    { id, sockets, record }: Extract<OldSays, { kind: 'stream' }>,
    handle: Handle | undefined,
  ): readonly SuccessorCommand<Handle>[] {
    const arriving = this.#arriving.get(id) ?? { sockets, record: record ?? {}, handles: [], isTaken: false };
    this.#arriving.set(id, arriving);
    if (handle !== undefined) arriving.handles.push(handle);
    const isComplete = arriving.handles.length === arriving.sockets;
    // Without its handle, the socket has closed on its way.
    if (handle !== undefined && !isComplete) return [];
    if (isComplete && this.#understands(arriving.record)) {
      arriving.isTaken = true;
      return [{ kind: 'say', says: { kind: 'taken', id } }];
    }
    this.#arriving.delete(id);
    return [
      { kind: 'close', handles: arriving.handles },
      { kind: 'say', says: { kind: 'refused', id } },
    ];
  }

  #adopt(id: StreamId): readonly SuccessorCommand<Handle>[] {
    const arriving = this.#arriving.get(id);
    this.#arriving.delete(id);
    if (arriving === undefined) return [];
    return [{ kind: 'adopt', id, record: arriving.record, handles: arriving.handles }];
  }
}
