import { Replicas } from '../../../src/replicas/replicas.ts';
import { NOWHERE_ELSE } from '../../../src/streams/directory.ts';
import { Events, type WatchdogEvent } from '../../../src/streams/events.ts';
import { Registry } from '../../../src/streams/registry.ts';
import {
  CLOSES_WITH,
  type CloseReason,
  isLive,
  type KernelEvidence,
  type LossReason,
  type Stream,
  type StreamId,
  setState,
} from '../../../src/streams/stream.ts';
import { type Contestant, Takeover } from '../../../src/takeover/takeover.ts';
import { ALICE, FakeLine } from '../../takeover/takeover-bench.ts';
import { FakeLink, FakeRedis } from './fake-redis.ts';
import { Machine, WorldTime } from './machine.ts';

type Severed = Extract<WatchdogEvent, { readonly kind: 'stream_severed' }>;

const TERMS = { silentAfterMs: 30_000, holdMs: 5000, holdUsuallyMs: 1500, observeOnly: false };
/** What a newcomer's replica said of it may be so old, and the question's way is in it. */
const GONE_UNNOTICED_MS = 1100;

/** A stream as it really is, on the world's clock. */
interface Truth {
  /** Its client connected then; its replica took it at `takenAt`, when Redis had answered or had not. */
  readonly arrivedAt: number;
  readonly takenAt: number;
  goneAt: number | undefined;
}

/** A client's connection to one of the replicas. */
export class Peer implements Contestant {
  readonly stream: Stream;
  readonly truth: Truth;
  readonly line: FakeLine;
  readonly replica: Replica;
  forwardedAt: number | undefined;

  constructor(replica: Replica, id: StreamId, address: string, arrivedAt: number) {
    const { machine, world } = replica;
    const now = machine.now();
    this.replica = replica;
    this.line = new FakeLine(machine);
    this.truth = { arrivedAt, takenAt: world.time.now(), goneAt: undefined };
    this.stream = {
      ...{
        id,
        kind: 'control',
        machineKey: ALICE,
        address,
        remoteAddress: `${address}:1000`,
        openedAt: now,
        heardAt: now,
      },
      ...{ spokenAt: undefined, firstRecordAt: undefined, bytesReceived: 0, bytesSent: 0, wouldSever: undefined },
      state: { kind: 'connecting' },
    };
  }

  evidence = (): KernelEvidence | undefined => this.line.evidence();
  probe = (): void => this.line.probe();
  stopProbing = (): void => this.line.stopProbing();

  forward(): void {
    this.forwardedAt = this.replica.world.time.now();
    setState(this.stream, { kind: 'connecting' });
    setState(this.stream, { kind: 'open' });
  }

  sever(because: LossReason): void {
    this.#close(CLOSES_WITH[because]);
  }

  /** Its client sends a whole record. */
  speaks(): void {
    const { stream, replica, line } = this;
    stream.heardAt = replica.machine.now();
    line.received();
    if (stream.state.kind !== 'open' || stream.firstRecordAt !== undefined) return;
    stream.firstRecordAt = replica.machine.now();
    replica.takeover.firstRecord(stream);
    replica.replicas.firstRecord(stream);
  }

  leaves(): void {
    this.truth.goneAt ??= this.replica.world.time.now();
    this.replica.machine.run(() => this.#close('client_closed'));
  }

  vanishes(): void {
    this.truth.goneAt ??= this.replica.world.time.now();
    this.line.vanished = true;
  }

  #close(reason: CloseReason): void {
    if (!isLive(this.stream)) return;
    const { takeover, replicas, registry, machine, world } = this.replica;
    this.truth.goneAt ??= world.time.now();
    setState(this.stream, { kind: 'closing', reason });
    replicas.withdraw(this.stream);
    takeover.streamEnding(this.stream, reason);
    machine.after(2, () => {
      setState(this.stream, { kind: 'closed', reason });
      takeover.upstreamClosed(this.stream);
      registry.remove(this.stream);
    });
  }
}

/** One watchdog, as far as replicas have to do with it. */
export class Replica {
  readonly world: World;
  readonly name: string;
  readonly machine: Machine;
  readonly registry = new Registry();
  readonly takeover: Takeover;
  readonly replicas: Replicas;
  readonly link: FakeLink;
  readonly #events = new Events();
  wokeAt = Number.NEGATIVE_INFINITY;

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
    this.machine = new Machine(world.time);
    const { registry, machine: clock } = this;
    const emit = this.#events.emit;
    this.takeover = new Takeover(clock, registry, () => TERMS, emit);
    const { takeover } = this;
    this.link = new FakeLink(world.redis, clock, name, {
      heard: (message) => this.replicas.heard(message),
      forged() {},
      changed: (isUp) => isUp && this.replicas.joined(),
    });
    this.replicas = new Replicas({ clock, name, link: this.link, registry, takeover, emit });
    this.#events.listen(this.replicas.onEvent);
    this.#events.listen((event) => world.heard(this, event));
    this.replicas.start();
    this.link.connect();
  }

  /** As the acceptor does it. */
  opens(address: string): void {
    const { machine, registry, world, replicas, takeover, name } = this;
    const arrivedAt = world.time.now();
    const id = registry.nextId();
    const ephemeral = Buffer.from(`${name} ${id}`.padEnd(32));
    const take = (elsewhere: readonly string[]): void => {
      const peer = new Peer(this, id, address, arrivedAt);
      world.peers.push(peer);
      registry.add(peer.stream);
      takeover.admit(peer, elsewhere);
      replicas.contest(peer.stream, elsewhere);
    };
    const arrival = replicas.announce({ id, machineKey: ALICE, ephemeral });
    if (arrival === undefined) take(NOWHERE_ELSE.elsewhere);
    else void arrival.then(({ elsewhere }) => machine.run(() => take(elsewhere)));
  }

  wakes(): void {
    if (this.machine.isAwake) return;
    this.wokeAt = this.world.time.now();
    this.machine.wake();
  }

  /** No goodbye to anybody. */
  dies(): void {
    this.machine.die();
    void this.link.close();
    for (const peer of this.world.peers) if (peer.replica === this) peer.truth.goneAt ??= this.world.time.now();
  }
}

/** A node, two or three replicas, and a Redis, under the eyes of one who knows what is really there. */
export class World {
  readonly time = new WorldTime();
  readonly redis = new FakeRedis(this.time);
  readonly peers: Peer[] = [];
  readonly replicas: Replica[] = [];
  readonly severed: string[] = [];
  #starts = 0;
  /** Something has happened after which not everything that should be severed is. */
  isSpared = false;
  /** Clocks run and Redis keeps what it has, unless it restarts. */
  readonly isSteady: boolean;
  readonly #wrong: string[] = [];

  constructor(replicas: number, isSteady: boolean) {
    this.isSteady = isSteady;
    for (let i = 0; i < replicas; i++) this.restart(i);
  }

  restart(which: number): void {
    this.replicas[which]?.dies();
    this.replicas[which] = new Replica(this, `${'abc'[which]}#${++this.#starts}`);
  }

  /** Of the streams whose client is there, the one that `which` falls on. */
  pick(which: number): Peer | undefined {
    const there = this.peers.filter(({ truth, stream }) => truth.goneAt === undefined && isLive(stream));
    return there[which % Math.max(1, there.length)];
  }

  heard(replica: Replica, event: WatchdogEvent): void {
    if (event.kind === 'stream_severed') this.#checkSevering(replica, event);
    else if (event.kind === 'machine_key_duplicated') this.isSpared = true;
    else if (event.kind === 'internal_error') this.#wrong.push(`${event.during}: ${event.error}`);
  }

  /** @throws at whatever was wrong when it happened. */
  check(): void {
    if (this.#wrong.length > 0) throw new Error(this.#wrong.join('\n'));
  }

  #find(name: string, id: number): Peer | undefined {
    return this.peers.find(({ stream, replica }) => stream.id === id && replica.name === name);
  }

  #checkSevering(replica: Replica, { stream, newcomer, reason }: Severed): void {
    const old = this.#find(replica.name, stream.id);
    const winner = this.#find(newcomer.replica ?? replica.name, newcomer.id);
    const now = this.time.now();
    const what = `${now}: ${replica.name}/${stream.id} severed (${reason}) for ${newcomer.replica ?? replica.name}/${newcomer.id}`;
    this.severed.push(what);
    if (old === undefined || winner === undefined)
      return void this.#wrong.push(`${what}, of which one was never there`);
    if (old.truth.goneAt !== undefined) return;
    if (reason === 'dead') this.#wrong.push(`${what}, and its client is there`);
    if (winner.truth.takenAt < old.truth.arrivedAt) this.#wrong.push(`${what}, which is older`);
    // On a machine that has just woken up, a second may be an hour.
    const goneSince = Math.max(winner.truth.goneAt ?? now, replica.wokeAt);
    if (!isLive(winner.stream) && now - goneSince > GONE_UNNOTICED_MS) {
      this.#wrong.push(`${what}, which had gone ${now - goneSince} ms before`);
    }
  }

  /** All is well again; in the end what a node has left behind is severed, wherever it was. */
  async end(): Promise<void> {
    const { redis, replicas } = this;
    redis.thaw();
    const hasLost = redis.losesMessages;
    Object.assign(redis, { losesMessages: false, messagesTakeMs: 1 });
    for (const replica of replicas) {
      replica.wakes();
      replica.link.isCut = false;
      // Redis closes the connection of one that messages could not be delivered to.
      if (hasLost) replica.link.cut();
      replica.link.connect();
    }
    await this.time.pass(20_000);
    const there = this.peers.filter(({ stream, replica }) => isLive(stream) && replicas.includes(replica));
    const newest = there.reduce<Peer | undefined>(
      (one, other) => (one !== undefined && one.truth.takenAt >= other.truth.takenAt ? one : other),
      undefined,
    );
    if (newest?.truth.goneAt === undefined) newest?.speaks();
    await this.time.pass(60_000);
    this.check();
    if (newest?.stream.firstRecordAt !== undefined && !this.isSpared) this.#checkLeftBehind(there, newest);
  }

  /** Ages tell streams apart that opened seconds apart from each other. */
  #checkLeftBehind(there: readonly Peer[], newest: Peer): void {
    for (const { stream, truth, replica } of there) {
      if (newest.truth.arrivedAt - truth.takenAt < 5000 || !isLive(stream)) continue;
      // The guard has its reasons, and tests of its own.
      const verdicts = replica.takeover.contestsOf(stream).map(({ verdict }) => verdict);
      if (verdicts.some((verdict) => verdict?.kind === 'wait' && verdict.waitingFor === 'guard')) continue;
      const names = `${newest.replica.name}/${newest.stream.id}, ${replica.name}/${stream.id}`;
      throw new Error(`${this.time.now()}: of ${names} the older one is silent, and was left`);
    }
  }
}
