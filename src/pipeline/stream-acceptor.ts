import type { Socket } from 'node:net';
import type { Limits } from '../config/types.ts';
import { formatMachineKey } from '../identity/keys.ts';
import type { NoiseKey } from '../identity/noise.ts';
import { addressAndPort } from '../lib/addresses.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { ClientConnection, type TcpTimeouts } from '../liveness/client-connection.ts';
import type { Kernel } from '../liveness/kernel.ts';
import { refuseUpgrade, unavailableAnswer } from '../proxy/answer.ts';
import type { Origin } from '../proxy/forwarded.ts';
import { RefusedUpgrades } from '../proxy/refusals.ts';
import { Tunnel, type TunnelHandlers, type UpgradeRequest } from '../proxy/tunnel.ts';
import type { AwaitAnswer, Upstream } from '../proxy/upstream.ts';
import { type Arrival, NOWHERE_ELSE, type StreamDirectory } from '../streams/directory.ts';
import type { Emit } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import {
  type CloseReason,
  isLive,
  type KernelEvidence,
  leastNeeded,
  type Stream,
  type StreamId,
} from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import type { Admission } from './admission.ts';
import { HandshakeReader, type Read } from './handshake-reader.ts';
import { LONGEST_WAIT_MS, type Pacer } from './pacer.ts';

export interface StreamAcceptorOptions {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly takeover: Takeover;
  readonly directory: StreamDirectory;
  readonly admission: Admission;
  readonly pacer: Pacer;
  limits(): Pick<Limits, 'streamsPerNode' | 'earlyBytes'>;
  /** Undefined where the kernel cannot be asked. */
  readonly kernel: Kernel | undefined;
  /** Undefined without a key: nobody is identified then. */
  noiseKey(): NoiseKey | undefined;
  /** What Linux is to do about a stream's client by itself. */
  tcpTimeoutsOf(stream: Stream): TcpTimeouts;
  readonly upstream: Upstream;
  readonly emit: Emit;
  upstreamReached(): void;
  upstreamFailed(): void;
  awaitAnswer: AwaitAnswer;
  /** See `TunnelHandlers.answeredLate`. */
  answeredLate(stream: Stream): void;
}

/** A stream's two ends, and its client's kernel. */
interface Passage {
  readonly tunnel: Tunnel;
  readonly line: ClientConnection;
}

/** The way of an upgrade: who is it (identity), write it down (registry), may it pass (takeover), pass it (tunnel). */
export class StreamAcceptor {
  readonly #parts: StreamAcceptorOptions;
  readonly #passages = new Map<Stream, Passage>();
  /** The handshakes that Headscale has not seen yet. */
  readonly #unshown = new Map<Stream, Buffer>();
  readonly #recognition: HandshakeReader;
  readonly #ports: TunnelHandlers;
  /** The clients of upgrades for which the directory is being asked. */
  readonly #arriving = new Set<Socket>();
  #hasEnded = false;
  #whenEmpty: (() => void)[] = [];
  #plannedEnds: Timer[] = [];

  constructor(parts: StreamAcceptorOptions) {
    this.#parts = parts;
    this.#recognition = new HandshakeReader(parts);
    this.#ports = this.#tunnelPorts();
  }

  upgrade(upgrade: UpgradeRequest, origin: Origin): void {
    const { admission } = this.#parts;
    if (this.#hasEnded) {
      upgrade.client.destroy();
      return;
    }
    const { streamKind, handshake } = upgrade.asked;
    if (streamKind === 'control' && !admission.admitHandshake(origin.address)) {
      refuseUpgrade(upgrade.client, unavailableAnswer('Too many connections begin here at once.'));
      return;
    }
    const id = this.#parts.registry.nextId();
    const identity = streamKind === 'control' ? this.#recognition.read(handshake) : undefined;
    const arrival = identity?.kind === 'identified' ? this.#parts.directory.announce({ id, ...identity }) : undefined;
    if (arrival === undefined) {
      this.#take(upgrade, origin, id, identity, NOWHERE_ELSE);
      return;
    }
    this.#arriving.add(upgrade.client);
    void arrival.then((found) => {
      this.#arriving.delete(upgrade.client);
      if (!upgrade.client.destroyed) this.#take(upgrade, origin, id, identity, found);
      else if (identity?.kind === 'identified') {
        this.#parts.directory.withdraw({ id, ...identity });
        if (!found.replayed) this.#forgetHandshake(identity.ephemeral);
      }
    });
  }

  /** Writes a stream down, and lets it pass as soon as it may. */
  #take(upgrade: UpgradeRequest, origin: Origin, id: StreamId, identity: Read | undefined, found: Arrival): void {
    const stream = this.#streamOf(upgrade, origin, id, identity, found);
    this.#makeRoom(stream);
    if (identity?.kind === 'identified' && stream.machineKey !== undefined) {
      this.#unshown.set(stream, identity.ephemeral);
    }
    this.#parts.registry.add(stream);
    const line = new ClientConnection(this.#parts.kernel, upgrade.client, origin.isDirect);
    const tunnel = new Tunnel(stream, upgrade, line, this.#ports);
    line.applyTimeouts(this.#parts.tcpTimeoutsOf(stream));
    this.#passages.set(stream, { tunnel, line });
    this.#parts.emit({ kind: 'stream_opened', stream });
    const member = {
      stream,
      evidence: () => line.evidence(),
      probe: () => line.probe(),
      stopProbing: () => line.stopProbing(),
      sever: (because: 'dead' | 'silent') => tunnel.end(because === 'dead' ? 'severed_dead' : 'severed_silent'),
      forward: () => this.#forward(stream, tunnel),
    };
    this.#parts.takeover.admit(member, found.elsewhere);
    this.#parts.directory.contest(stream, found.elsewhere);
  }

  /** A node's newest stream is the live one: where it has as many as it may, another one goes. */
  #makeRoom({ machineKey, address }: Stream): void {
    const { registry, limits, admission } = this.#parts;
    if (machineKey === undefined) return;
    const open = registry.ofMachineKey(machineKey).filter(isLive);
    if (open.length < limits().streamsPerNode) return;
    admission.limitReached('streams_per_node', address, `${formatMachineKey(machineKey)} has ${open.length} already`);
    const unneeded = leastNeeded(open);
    if (unneeded !== undefined) this.sever(unneeded, 'surplus');
  }

  #forgetHandshake(ephemeral: Buffer): void {
    this.#recognition.forget(ephemeral);
    this.#parts.directory.forgetHandshake(ephemeral);
  }

  /** When Headscale has come back, all nodes do at once: their streams go to it one after the other. */
  #forward(stream: Stream, tunnel: Tunnel): void {
    const { pacer, admission } = this.#parts;
    if (stream.kind !== 'control') {
      tunnel.forward();
      return;
    }
    const giveUp = (): void => {
      admission.limitReached('upstream_rate', stream.address, `waited for ${LONGEST_WAIT_MS / 1000} s`);
      tunnel.refuse('Headscale is busy taking all nodes back.');
    };
    pacer.enter(stream, () => tunnel.forward(), giveUp);
  }

  evidenceOf(stream: Stream): KernelEvidence | undefined {
    return this.#passages.get(stream)?.line.evidence();
  }

  /** See `ClientConnection.tend`. */
  refresh(stream: Stream): void {
    const passage = this.#passages.get(stream);
    passage?.line.refresh(passage.tunnel.owesAnswer, this.#parts.clock.now());
  }

  /** Ends a stream: the upstream connection first, then the client's. */
  sever(stream: Stream, reason: CloseReason): void {
    this.#passages.get(stream)?.tunnel.end(reason);
  }

  /** Gives every open stream's line its standing orders anew: settings, or what is known of its node, have changed. */
  reapplyTimeouts(): void {
    for (const [stream, { line }] of this.#passages) line.applyTimeouts(this.#parts.tcpTimeoutsOf(stream));
  }

  /** How many streams there are. */
  get size(): number {
    return this.#passages.size;
  }

  /** Ends the streams there are evenly over `overMs`; resolves when none is left. Those that open meanwhile stay until `end`. */
  drain(overMs: number): Promise<void> {
    this.#plannedEnds = drainPlan([...this.#passages.keys()], overMs).map(({ stream, afterMs }) =>
      this.#parts.clock.after(afterMs, () => this.sever(stream, 'shutdown')),
    );
    return this.#empty();
  }

  /** Ends every stream, and every upgrade that would become one; resolves when all are closed. Later upgrades are not taken. */
  end(): Promise<void> {
    this.#hasEnded = true;
    for (const planned of this.#plannedEnds) planned.cancel();
    for (const client of this.#arriving) client.destroy();
    for (const { tunnel } of this.#passages.values()) tunnel.end('shutdown');
    return this.#empty();
  }

  #empty(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#passages.size === 0) resolve();
      else this.#whenEmpty.push(resolve);
    });
  }

  #streamOf(
    { asked }: UpgradeRequest,
    { address, port }: Origin,
    id: StreamId,
    identity: Read | undefined,
    { replayed }: Arrival,
  ): Stream {
    const remoteAddress = addressAndPort(address, port);
    const now = this.#parts.clock.now();
    return {
      id,
      kind: asked.streamKind,
      machineKey: identity && this.#recognition.machineKeyOf(identity, replayed, remoteAddress),
      address,
      remoteAddress,
      openedAt: now,
      heardAt: now,
      spokenAt: undefined,
      firstRecordAt: undefined,
      bytesReceived: 0,
      bytesSent: 0,
      state: { kind: 'connecting' },
      wouldSever: undefined,
    };
  }

  #tunnelPorts(): TunnelHandlers {
    const {
      clock,
      registry,
      takeover,
      directory,
      pacer,
      upstream,
      emit,
      upstreamReached,
      upstreamFailed,
      awaitAnswer,
    } = this.#parts;
    return {
      clock,
      upstream,
      earlyBytes: () => this.#parts.limits().earlyBytes,
      upstreamReached: (stream) => {
        this.#unshown.delete(stream);
        upstreamReached();
      },
      upstreamFailed,
      awaitAnswer,
      answeredLate: (stream) => this.#parts.answeredLate(stream),
      upstreamRefused: new RefusedUpgrades(clock, emit).note,
      upstreamMismatched: ({ remoteAddress }, asked, switchedTo) =>
        emit({ kind: 'upstream_protocol_mismatched', asked, switchedTo, remoteAddress }),
      firstRecord: (stream) => {
        // Others first: whom the takeover acquits nobody would tell them of.
        directory.firstRecord(stream);
        takeover.firstRecord(stream);
      },
      ending: (stream, reason) => {
        const unshown = this.#unshown.get(stream);
        this.#unshown.delete(stream);
        if (unshown !== undefined) this.#forgetHandshake(unshown);
        directory.withdraw(stream);
        pacer.leave(stream);
        takeover.streamEnding(stream, reason);
      },
      upstreamClosed: (stream) => takeover.upstreamClosed(stream),
      closed: (stream, reason) => {
        this.#passages.delete(stream);
        registry.remove(stream);
        emit({ kind: 'stream_closed', stream, reason, lifetimeMs: clock.now() - stream.openedAt });
        if (this.#passages.size > 0) return;
        for (const resolve of this.#whenEmpty.splice(0)) resolve();
      },
    };
  }
}

/** When a stream is to end. */
export interface PlannedEnd {
  readonly stream: Stream;
  /** In milliseconds, from the start of the drain. */
  readonly afterMs: number;
}

/**
 * Spreads the ends of `streams` evenly over `overMs`, in the order given: Headscale suffers when all its nodes come back
 * at once. Control streams are spaced among themselves, so that many of another kind do not crowd them together.
 */
export function drainPlan(streams: readonly Stream[], overMs: number): readonly PlannedEnd[] {
  const control = streams.filter(({ kind }) => kind === 'control');
  const others = streams.filter(({ kind }) => kind !== 'control');
  return [...spaced(control, overMs), ...spaced(others, overMs)].sort((a, b) => a.afterMs - b.afterMs);
}

/** The first at once, so that a single stream is waited for by nobody; the last one space before the end. */
function spaced(streams: readonly Stream[], overMs: number): readonly PlannedEnd[] {
  return streams.map((stream, i) => ({ stream, afterMs: (overMs * i) / streams.length }));
}
