import type { Socket } from 'node:net';
import type { Checkup } from '../headscale/checkup.ts';
import { formatMachineKey } from '../identity/keys.ts';
import { atMost, type Clock, type Timer } from '../lib/clock.ts';
import { StartError } from '../lib/errors.ts';
import { type SocketHandle, socketFrom } from '../lib/handles.ts';
import { version } from '../lib/version.ts';
import type { Notifier } from '../notify/notifier.ts';
import { type Handed, readHanded } from '../pipeline/handed-stream.ts';
import type { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import type { Replicas } from '../replicas/replicas.ts';
import { Successor, type SuccessorCommand } from '../service/handover.ts';
import { type OldProcess, oldProcessEnded } from '../service/successor-process.ts';
import type { Emit } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import type { Stream, StreamId } from '../streams/stream.ts';
import type { HandedState } from './handover.ts';
import type { KeptHistory } from './history.ts';

export interface SuccessionOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  readonly registry: Registry;
  readonly acceptor: StreamAcceptor;
  readonly checkup: Checkup;
  readonly states: readonly HandedState[];
  /** Whether the settings name a Noise key that is not there. */
  isKeyMissing(): boolean;
  readonly replicas: Replicas | undefined;
  readonly kept: Pick<KeptHistory, 'goOn'>;
  readonly notifier: Pick<Notifier, 'goOn'>;
  /** Counts a client's connection, and watches both sockets of a stream. */
  connected(client: Socket, upstream: Socket | undefined): void;
}

/** A start need not wait longer for Headscale and Redis, which may be down. */
const CHECKED_WITHIN_MS = 5000;
/** A newcomer waits this long at most for the old streams of its node. */
const OTHERS_WITHIN_MS = 150;

/** Takes over from an old process. */
export class Succession {
  readonly #options: SuccessionOptions;
  readonly #old: OldProcess;
  readonly #machine: Successor<SocketHandle>;
  readonly #read = new Map<StreamId, Handed>();
  /** Newcomers that wait for the old streams of their node. */
  readonly #waiting = new Map<StreamId, { readonly timer: Timer; readonly admit: () => void }>();
  #streams = 0;
  #isAlone = false;
  #listen: () => void = () => {};
  #fail: (error: StartError) => void = () => {};

  constructor(old: OldProcess, options: SuccessionOptions) {
    this.#old = old;
    this.#options = options;
    options.registry.resume(old.hello.lastId);
    this.#machine = new Successor((record) => this.#understands(record));
  }

  /**
   * Says that this process is ready, and takes what the old one gives. Resolves when this process is to listen.
   *
   * @throws StartError when the Noise key is not Headscale's, or the old process has ended before it had given everything.
   */
  async takeOver(): Promise<void> {
    const { clock, checkup, replicas, acceptor, emit } = this.#options;
    await atMost(clock, CHECKED_WITHIN_MS, Promise.all([checkup.check(), replicas?.settled]));
    if (this.#options.isKeyMissing()) {
      throw new StartError(
        'HSW_NOISE_KEY_UNREADABLE',
        'the file of --noise-key is not there, so this process could not tell nodes apart: put it back',
      );
    }
    if (checkup.health.keyMatches === false) {
      throw new StartError(
        'HSW_NOISE_KEY_MISMATCH',
        "the Noise key is not Headscale's, so this process could not tell nodes apart: point --noise-key at the running Headscale's noise_private.key",
      );
    }
    const listen = new Promise<void>((resolve, reject) => {
      this.#listen = resolve;
      this.#fail = reject;
    });
    acceptor.divertNewcomers(this.#wait);
    void this.#old.say({ kind: 'ready', version });
    this.#old.listen({
      heard: (said, handle) => this.#do(this.#machine.heard(said, handle)),
      alone: () => this.#alone(),
    });
    await listen;
    this.#old.onMain(() => {
      this.#options.kept.goOn();
      this.#options.notifier.goOn();
    });
    emit({ kind: 'handover_received', streams: this.#streams });
  }

  /** This process listens. */
  listening(): void {
    void this.#old.say({ kind: 'listening' });
  }

  #alone(): void {
    this.#isAlone = true;
    this.#options.replicas?.alone();
    this.#options.acceptor.divertNewcomers(undefined);
    this.#do(this.#machine.alone());
    for (const id of [...this.#waiting.keys()]) this.#clear(id);
  }

  #understands(record: Parameters<typeof readHanded>[0]): boolean {
    const handed = readHanded(record, this.#options.clock.now());
    if (handed !== undefined) this.#read.set(handed.stream.id, handed);
    return handed !== undefined;
  }

  #do(commands: readonly SuccessorCommand<SocketHandle>[]): void {
    for (const command of commands) {
      switch (command.kind) {
        case 'say':
          void this.#old.say(command.says);
          break;
        case 'adopt':
          this.#adopt(command.id, command.handles);
          break;
        case 'close':
          for (const handle of command.handles) handle.close();
          break;
        case 'learn':
          this.#learn(command.part, command.state);
          break;
        case 'listen':
          this.#listen();
          break;
        case 'end':
          this.#fail(oldProcessEnded());
          break;
        case 'clear':
          this.#clear(command.id);
          break;
        default:
          command satisfies never;
      }
    }
  }

  #adopt(id: StreamId, handles: readonly SocketHandle[]): void {
    const handed = this.#read.get(id);
    this.#read.delete(id);
    const [client, upstream] = handles.map(socketFrom);
    if (handed === undefined || client === undefined) return;
    const { acceptor, connected, emit } = this.#options;
    try {
      connected(client, upstream);
      acceptor.adopt(handed, client, upstream);
      this.#streams += 1;
    } catch (error) {
      client.destroy();
      upstream?.destroy();
      emit({ kind: 'internal_error', during: 'taking over a stream', error });
    }
  }

  #learn(part: string, state: unknown): void {
    try {
      this.#options.states.find((each) => each.part === part)?.read(state);
    } catch (error) {
      this.#options.emit({ kind: 'internal_error', during: `taking over ${part}`, error });
    }
  }

  /** A newcomer's node may still have streams at the old process, which then come at once. */
  readonly #wait = (stream: Stream, admit: () => void): boolean => {
    const { id, machineKey } = stream;
    if (machineKey === undefined || this.#isAlone) return false;
    void this.#old.say({ kind: 'came', id, machineKey: formatMachineKey(machineKey) });
    const timer = this.#options.clock.after(OTHERS_WITHIN_MS, () => this.#clear(id));
    this.#waiting.set(id, { timer, admit });
    return true;
  };

  #clear(id: StreamId): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    waiting?.timer.cancel();
    waiting?.admit();
  }
}
