import { type MachineKey, parseMachineKey } from '../identity/keys.ts';
import { type Clock, type Instant, plus, type Timer } from '../lib/clock.ts';
import { descriptorOf, handleOf } from '../lib/handles.ts';
import type { Notifier } from '../notify/notifier.ts';
import { nextToGo } from '../pipeline/departures.ts';
import { writeHanded } from '../pipeline/handed-stream.ts';
import type { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import type { StaysBecause } from '../proxy/tunnel-parts.ts';
import type { Replicas } from '../replicas/replicas.ts';
import {
  type Failure,
  type ListeningSocket,
  type OldCommand,
  Predecessor,
  type SuccessorSays,
} from '../service/handover.ts';
import { type Program, type SuccessorProcess, startSuccessor } from '../service/successor-process.ts';
import type { Emit } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import type { Stream, StreamId } from '../streams/stream.ts';
import type { KeptHistory } from './history.ts';

/** The result of a hand-over. */
export type HandoverOutcome =
  | {
      readonly ok: true;
      /** The new process. */
      readonly pid: number;
      /** How many streams it has got. */
      readonly moved: number;
      /** How many stay with the old process until they end. */
      readonly stayed: number;
      readonly tookMs: number;
    }
  | { readonly ok: false; readonly code: 'HSW_HANDOVER_FAILED'; readonly problems: readonly string[] };

/** Something besides streams that the successor goes on with. */
export interface HandedState {
  readonly part: string;
  /** Whether it is sent again while the old process ends. */
  readonly isRepeated: boolean;
  /** In pieces, so that no message is long. @param isElsewhere whether the successor has the stream. */
  write(isElsewhere: (stream: Stream) => boolean): Promise<Iterable<unknown>>;
  /** What has come since, which this process leaves to the successor. It is sent as it comes. */
  later?(): Iterable<unknown>;
  read(state: unknown): void;
}

export interface HandoverOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  readonly registry: Registry;
  readonly acceptor: StreamAcceptor;
  readonly program: Program;
  /** The environment of the successor. */
  readonly env: NodeJS.ProcessEnv;
  /** The servers that listen, with the addresses that were configured. */
  listening(): readonly (Omit<ListeningSocket, 'fd'> & { readonly server: Parameters<typeof descriptorOf>[0] })[];
  /** How many of the sockets systemd has opened. */
  readonly fromManager: number;
  readonly states: readonly HandedState[];
  readonly replicas: Replicas | undefined;
  readonly kept: Pick<KeptHistory, 'pause' | 'goOn'>;
  readonly notifier: Pick<Notifier, 'pause' | 'goOn'>;
  /** The successor listens, so this process stops listening. */
  leave(successor: SuccessorProcess): void;
}

const LOOK_EVERY_MS = 10;
const LOOK_EVERY_WHILE_LEAVING_MS = 100;
/** What was read from one side has to be written to the other before the stream can go. */
const FLUSHED_WITHIN_MS = 200;
/** A stream whose other side does not read is tried again after this time. */
const TRY_AGAIN_AFTER_MS = 1000;
/** While many streams go, a newcomer waits this long at most before it is let in here. It follows later. */
const NEWCOMERS_WAIT_MS = 150;
/** Streams that may still come to this process, on connections that it has, get numbers in this range. */
const IDS_APART = 1000;

/** Hands everything over to a new process: starts the program that is on disk, and does what `Predecessor` decides. */
export class Handover {
  readonly #options: HandoverOptions;
  readonly #startedAt: Instant;
  readonly #machine: Predecessor;
  readonly #successor: SuccessorProcess;
  /** Streams that rest until everything that was read is written, and until when. */
  readonly #flushing = new Map<StreamId, Instant>();
  readonly #notBefore = new Map<StreamId, Instant>();
  /** Newcomers that the takeover has not seen here, and until when they may wait for their turn. */
  readonly #admitHere = new Map<StreamId, { readonly admit: () => void; readonly until: Instant }>();
  /** They stay in the registry until the successor shows them. */
  readonly #moved = new Set<Stream>();
  readonly #urgent = new Set<MachineKey>();
  /** The successor's newcomers that wait for the old streams of their node, by its machine key. */
  readonly #waiting = new Map<MachineKey, StreamId>();
  readonly #done: (outcome: HandoverOutcome) => void;
  readonly outcome: Promise<HandoverOutcome>;
  /** The streams that can go, in the order in which they should. */
  #able: readonly Stream[] = [];
  #timer: Timer | undefined;

  constructor(options: HandoverOptions) {
    const { clock, emit, registry, acceptor, program, env, fromManager } = options;
    this.#options = options;
    this.#startedAt = clock.now();
    this.#machine = new Predecessor(this.#startedAt);
    let done = (_outcome: HandoverOutcome): void => {};
    this.outcome = new Promise((resolve) => {
      done = resolve;
    });
    this.#done = done;
    emit({ kind: 'handover_started', streams: acceptor.size });
    const sockets = options.listening().flatMap(({ server, ...socket }) => {
      const fd = descriptorOf(server);
      return fd === undefined ? [] : [{ ...socket, fd }];
    });
    const replica = options.replicas && { replica: options.replicas.name };
    const hello = { fromManager, lastId: registry.lastId + IDS_APART, ...replica };
    this.#successor = startSuccessor(program, env, sockets, hello, {
      heard: (said) => this.#heard(said),
      ended: (how) => this.#do(this.#machine.ended(how)),
    });
    this.#look();
  }

  /** Ends the successor, unless it has everything already. Call it when this process is to stop. */
  cancel(): void {
    this.#do(this.#machine.cancel());
  }

  /** Whether another hand-over can begin. */
  get isOver(): boolean {
    return this.#machine.phase === 'over';
  }

  /** Stops handing over what may still become free. */
  close(): void {
    this.#timer?.cancel();
    this.#options.acceptor.divertNewcomers(undefined);
  }

  #look(): void {
    const { clock } = this.#options;
    this.#next(true);
    const { phase } = this.#machine;
    if (phase === 'over') return;
    if (phase === 'leaving') this.#sayLater();
    this.#timer = clock.after(phase === 'leaving' ? LOOK_EVERY_WHILE_LEAVING_MS : LOOK_EVERY_MS, () => this.#look());
  }

  /** @param isLook whether to look at every stream, and not only at those that were found able to go at the last look. */
  #next(isLook = false): void {
    const { clock, registry, acceptor } = this.#options;
    const now = clock.now();
    for (const [id, until] of [...this.#flushing]) this.#sendWhenFlushed(id, now >= until);
    const staysBecause = (stream: Stream): StaysBecause | undefined => {
      if (this.#moved.has(stream)) return 'ending';
      if (now < (this.#notBefore.get(stream.id) ?? now)) return 'unwritten';
      const tunnel = acceptor.tunnelOf(stream);
      return tunnel === undefined ? 'ending' : tunnel.staysBecause;
    };
    if (!this.#machine.isMoving) this.#able = [];
    else if (!isLook) this.#able = this.#able.filter((stream) => staysBecause(stream) === undefined);
    else this.#able = nextToGo(registry.all(), staysBecause, ({ id, machineKey }) => this.#isUrgent(id, machineKey));
    const ids = this.#able.map(({ id }) => id);
    this.#do(this.#machine.next(ids, now));
    for (const [id, { until }] of [...this.#admitHere]) {
      if (now >= until && !this.#machine.isInTransit(id)) this.#admit(id);
    }
    this.#clear();
  }

  #isUrgent(id: StreamId, machineKey: MachineKey | undefined): boolean {
    return this.#admitHere.has(id) || (machineKey !== undefined && this.#urgent.has(machineKey));
  }

  #heard(said: SuccessorSays): void {
    const { clock } = this.#options;
    if (said.kind === 'ready') this.#options.acceptor.divertNewcomers(this.#divert);
    if (said.kind === 'came') this.#came(said.id, said.machineKey);
    this.#do(this.#machine.heard(said, clock.now()));
    // The next one need not wait for a look.
    if (said.kind === 'taken') this.#next();
    else if (said.kind === 'ready') this.#next(true);
  }

  readonly #divert = (stream: Stream, admitHere: () => void): boolean => {
    const { acceptor } = this.#options;
    if (!this.#machine.isMoving || acceptor.tunnelOf(stream)?.staysBecause !== undefined) return false;
    const until = plus(this.#options.clock.now(), NEWCOMERS_WAIT_MS);
    this.#admitHere.set(stream.id, { admit: admitHere, until });
    if (stream.machineKey !== undefined) this.#urgent.add(stream.machineKey);
    this.#next(true);
    return true;
  };

  #do(commands: readonly OldCommand[]): void {
    for (const command of commands) {
      switch (command.kind) {
        case 'offer':
          this.#offer(command.id);
          break;
        case 'settle':
          this.#settle(command.id);
          break;
        case 'take_back':
          this.#takeBack(command.id);
          break;
        case 'switch':
          void this.#switch();
          break;
        case 'leave':
          this.#leave();
          break;
        case 'give_up':
          this.#giveUp(command.why);
          break;
        default:
          command satisfies never;
      }
    }
  }

  #offer(id: StreamId): void {
    this.#flushing.set(id, plus(this.#options.clock.now(), FLUSHED_WITHIN_MS));
    this.#sendWhenFlushed(id, false);
  }

  #sendWhenFlushed(id: StreamId, isLate: boolean): void {
    const { clock, registry, acceptor } = this.#options;
    const stream = registry.get(id);
    const tunnel = stream && acceptor.tunnelOf(stream);
    const isFlushed = tunnel?.rest() === true;
    if (!isFlushed && !isLate && tunnel !== undefined) return;
    this.#flushing.delete(id);
    const handed = stream && acceptor.handed(stream);
    const handles = tunnel?.sockets.map((socket) => socket && handleOf(socket)) ?? [];
    if (!isFlushed || handed === undefined || handles.includes(undefined)) {
      this.#machine.notOffered(id);
      this.#notBefore.set(id, plus(clock.now(), TRY_AGAIN_AFTER_MS));
      this.#wake(id);
      return;
    }
    for (const [i, handle] of handles.entries()) {
      const record = i === 0 ? { record: writeHanded(handed, clock.now()) } : {};
      this.#successor.say({ kind: 'stream', id, sockets: handles.length, ...record }, handle);
    }
  }

  #settle(id: StreamId): void {
    const { registry, acceptor } = this.#options;
    const stream = registry.get(id);
    this.#successor.say({ kind: 'yours', id });
    this.#admitHere.delete(id);
    if (stream === undefined) return;
    acceptor.release(stream);
    this.#moved.add(stream);
    if (this.#machine.phase === 'leaving') registry.remove(stream);
  }

  #takeBack(id: StreamId): void {
    this.#successor.say({ kind: 'back', id });
    this.#flushing.delete(id);
    this.#wake(id);
  }

  #wake(id: StreamId): void {
    const { registry, acceptor } = this.#options;
    const stream = registry.get(id);
    if (stream !== undefined) acceptor.tunnelOf(stream)?.wake();
    this.#admit(id);
  }

  #admit(id: StreamId): void {
    const newcomer = this.#admitHere.get(id);
    this.#admitHere.delete(id);
    newcomer?.admit();
  }

  /** From here on the successor numbers the events, writes to the history file and notifies, unless this process has to go on. */
  async #switch(): Promise<void> {
    // Before the history pauses: the successor must not hear later what has been noted of messages that it has then delivered.
    await this.#options.notifier.pause();
    await this.#options.kept.pause();
    await this.#sayState(this.#options.states);
    this.#successor.say({ kind: 'listen' });
  }

  async #sayState(states: readonly HandedState[]): Promise<void> {
    for (const { part, write } of states) {
      try {
        for (const state of await write((stream) => this.#moved.has(stream)))
          this.#successor.say({ kind: 'state', part, state });
      } catch (error) {
        this.#options.emit({ kind: 'internal_error', during: `handing over ${part}`, error });
      }
    }
  }

  /** Sends what has been counted and noted here since, while the last streams end. */
  async sayLast(): Promise<void> {
    this.#sayLater();
    await this.#sayState(this.#options.states.filter(({ isRepeated }) => isRepeated));
  }

  #sayLater(): void {
    for (const { part, later } of this.#options.states) {
      for (const state of later?.() ?? []) this.#successor.say({ kind: 'state', part, state });
    }
  }

  #leave(): void {
    const { clock, emit, registry, acceptor, leave } = this.#options;
    for (const stream of this.#moved) registry.remove(stream);
    const { pid = 0 } = this.#successor;
    const { moved } = this.#machine;
    const [stayed, tookMs] = [acceptor.size, clock.now() - this.#startedAt];
    emit({ kind: 'handover_ended', pid, moved, stayed, tookMs });
    this.#done({ ok: true, pid, moved, stayed, tookMs });
    leave(this.#successor);
  }

  #giveUp(why: Failure): void {
    const { clock, emit, registry, acceptor } = this.#options;
    acceptor.divertNewcomers(undefined);
    this.#successor.kill();
    for (const id of [...this.#admitHere.keys()]) this.#admit(id);
    // What had been handed over has ended with the successor.
    for (const stream of this.#moved) {
      registry.remove(stream);
      acceptor.lost(stream);
      emit({ kind: 'stream_closed', stream, reason: 'handover_failed', lifetimeMs: clock.now() - stream.openedAt });
    }
    this.#options.kept.goOn();
    this.#options.notifier.goOn();
    const problems = problemsOf(why);
    emit({ kind: 'handover_failed', problems, lost: this.#moved.size });
    this.#done({ ok: false, code: 'HSW_HANDOVER_FAILED', problems });
  }

  #came(id: StreamId, key: string): void {
    const machineKey = parseMachineKey(key);
    if (machineKey === undefined) return;
    this.#urgent.add(machineKey);
    this.#waiting.set(machineKey, id);
    const { registry, acceptor } = this.#options;
    // The node has come back, and these would end with this process.
    for (const stream of registry.ofMachineKey(machineKey)) {
      if (acceptor.tunnelOf(stream)?.staysBecause === 'tls') acceptor.sever(stream, 'not_handed_over');
    }
    this.#next(true);
  }

  /** Lets the successor's newcomers go on whose nodes have no stream here any more. */
  #clear(): void {
    for (const [machineKey, id] of [...this.#waiting]) {
      if (this.#options.registry.ofMachineKey(machineKey).length > 0) continue;
      this.#waiting.delete(machineKey);
      this.#successor.say({ kind: 'clear', id });
    }
  }
}

const MISSED: Readonly<Record<Extract<Failure, { kind: 'late' }>['missed'], string>> = {
  ready: 'was not ready after',
  answer: 'has not answered for',
  listen: 'did not listen within',
};

function problemsOf(why: Failure): readonly string[] {
  switch (why.kind) {
    case 'refused':
      return why.problems.map((problem) => `${problem} [${why.code}]`);
    case 'ended':
      return [`the new process ${why.how}`];
    case 'late':
      return [`the new process ${MISSED[why.missed]} ${Math.round(why.afterMs / 1000)} s`];
    case 'stopping':
      return ['the watchdog is stopping'];
    default:
      return why satisfies never;
  }
}
