import type { Socket } from 'node:net';
import { formatMachineKey } from '../identity/keys.ts';
import { addressAndPort } from '../lib/addresses.ts';
import type { Instant, Timer } from '../lib/clock.ts';
import { ClientConnection } from '../liveness/client-connection.ts';
import type { ProxiedClient } from '../liveness/proxied-client.ts';
import type { ClientPath } from '../liveness/proxy-sockets.ts';
import { refuseUpgrade, unavailableAnswer } from '../proxy/answer.ts';
import type { Origin } from '../proxy/forwarded.ts';
import { RefusedUpgrades } from '../proxy/refusals.ts';
import { Tunnel } from '../proxy/tunnel.ts';
import { type HandedSockets, type TunnelHandlers, type UpgradeRequest, upgradeFrom } from '../proxy/tunnel-parts.ts';
import { type Arrival, NOWHERE_ELSE } from '../streams/directory.ts';
import { reportWouldSever } from '../streams/events.ts';
import {
  type CloseReason,
  type EvidenceSource,
  isLive,
  type KernelEvidence,
  leastNeeded,
  type Stream,
  type StreamId,
} from '../streams/stream.ts';
import type { StreamAcceptorOptions } from './acceptor-options.ts';
import { drainPlan } from './departures.ts';
import type { Handed } from './handed-stream.ts';
import { HandshakeReader, type Read } from './handshake-reader.ts';
import { LONGEST_WAIT_MS } from './pacer.ts';
import { StreamParts } from './stream-parts.ts';

/** Turns an upgrade request into a stream: identify the client, register the stream, let the takeover admit it, tunnel its bytes. */
export class StreamAcceptor {
  readonly #options: StreamAcceptorOptions;
  readonly #streams = new Map<Stream, StreamParts>();
  /** The ephemeral keys of handshakes that Headscale has not seen yet. */
  readonly #unseenHandshakes = new Map<Stream, Buffer>();
  readonly handshakes: HandshakeReader;
  readonly #handlers: TunnelHandlers;
  /** The sockets of upgrades that wait for the directory. */
  readonly #arriving = new Set<Socket>();
  #hasEnded = false;
  #divert: ((stream: Stream, admitHere: () => void) => boolean) | undefined;
  #whenEmpty: (() => void)[] = [];
  #plannedEnds: Timer[] = [];

  constructor(options: StreamAcceptorOptions) {
    this.#options = options;
    this.handshakes = new HandshakeReader(options);
    this.#handlers = this.#tunnelHandlers();
  }

  /** Accepts an upgrade request, or refuses it when a limit is reached. */
  upgrade(upgrade: UpgradeRequest, origin: Origin): void {
    const { admission } = this.#options;
    if (this.#hasEnded) {
      upgrade.client.destroy();
      return;
    }
    const { streamKind, handshake } = upgrade.asked;
    if (streamKind === 'control' && !admission.admitHandshake(origin.address)) {
      refuseUpgrade(upgrade.client, unavailableAnswer('Too many new connections at once.'));
      return;
    }
    const id = this.#options.registry.nextId();
    const identity = streamKind === 'control' ? this.handshakes.read(handshake) : undefined;
    const arrival = identity?.kind === 'identified' ? this.#options.directory.announce({ id, ...identity }) : undefined;
    if (arrival === undefined) {
      this.#open(upgrade, origin, id, identity, NOWHERE_ELSE);
      return;
    }
    this.#arriving.add(upgrade.client);
    void arrival.then((found) => {
      this.#arriving.delete(upgrade.client);
      if (!upgrade.client.destroyed) this.#open(upgrade, origin, id, identity, found);
      else if (identity?.kind === 'identified') {
        this.#options.directory.withdraw({ id, ...identity });
        if (!found.replayed) this.#forgetHandshake(identity.ephemeral);
      }
    });
  }

  /** Registers the stream and hands it to the takeover, which forwards it when it may. */
  #open(upgrade: UpgradeRequest, origin: Origin, id: StreamId, identity: Read | undefined, found: Arrival): void {
    const stream = this.#streamOf(upgrade, origin, id, identity, found);
    this.#makeRoom(stream);
    if (identity?.kind === 'identified' && stream.machineKey !== undefined) {
      this.#unseenHandshakes.set(stream, identity.ephemeral);
    }
    this.#options.registry.add(stream);
    const parts = this.#build(stream, upgrade, origin.path, found.elsewhere);
    this.#options.emit({ kind: 'stream_opened', stream });
    const admit = (): void => {
      // It may have left while it waited.
      if (!isLive(stream)) return;
      this.#options.takeover.admit(parts, found.elsewhere);
      this.#options.directory.contest(stream, found.elsewhere);
    };
    if (!this.#divert?.(stream, admit)) admit();
  }

  #build(
    stream: Stream,
    from: UpgradeRequest | HandedSockets,
    path: ClientPath,
    elsewhere: readonly string[],
  ): StreamParts {
    const { kernel, proxySockets, tcpTimeoutsOf } = this.#options;
    const connection = new ClientConnection(kernel, from.client, proxySockets.clientOf(path));
    const tunnel = new Tunnel(stream, from, connection, this.#handlers);
    connection.applyTimeouts(tcpTimeoutsOf(stream));
    const parts = new StreamParts(tunnel, connection, path, elsewhere, this.#pass);
    this.#streams.set(stream, parts);
    return parts;
  }

  /**
   * From now on `divert` gets every newcomer before the takeover does. It returns whether another process will have it.
   * `admitHere` admits it after all.
   */
  divertNewcomers(divert: ((stream: Stream, admitHere: () => void) => boolean) | undefined): void {
    this.#divert = divert;
  }

  tunnelOf(stream: Stream): Tunnel | undefined {
    return this.#streams.get(stream)?.tunnel;
  }

  /** Everything that another process needs to go on with a stream, besides its sockets. */
  handed(stream: Stream): Handed | undefined {
    const parts = this.#streams.get(stream);
    if (parts === undefined) return undefined;
    const { path, elsewhere, tunnel } = parts;
    const upgrade = tunnel.handedUpgrade;
    const contests = this.#options.takeover.contestsOf(stream).map(({ old, newcomer, openedAt }) => {
      return [old === stream ? newcomer.id : old.id, openedAt] as const;
    });
    return {
      ...{ stream, path, contests: new Map(contests), known: this.#options.directory.handOver(stream) },
      carries:
        upgrade === undefined
          ? { kind: 'session', unansweredBytes: tunnel.unansweredBytes }
          : { kind: 'upgrade', upgrade, elsewhere, ephemeral: this.#unseenHandshakes.get(stream) },
    };
  }

  /** Another process has the stream's sockets now. The stream stays in the registry. */
  release(stream: Stream): void {
    const parts = this.#streams.get(stream);
    this.#options.takeover.release(stream);
    this.#options.directory.handedOver(stream);
    this.#options.pacer.leave(stream);
    this.#unseenHandshakes.delete(stream);
    parts?.connection.behindProxy?.close();
    parts?.tunnel.release();
    this.#drop(stream);
  }

  /** Another process had the stream, and has ended with it. */
  lost(stream: Stream): void {
    this.#options.directory.withdraw(stream);
  }

  /** Goes on with a stream that another process had. @param upstream undefined for an upgrade that was not forwarded. */
  adopt({ stream, path, contests, known, carries }: Handed, client: Socket, upstream: Socket | undefined): void {
    const { clock, registry, takeover, directory, emit } = this.#options;
    registry.add(stream);
    directory.takeOver(stream, known);
    takeover.begun(stream, contests);
    emit({ kind: 'stream_handed_over', stream });
    if (carries.kind === 'session' && upstream !== undefined) {
      const parts = this.#build(stream, { client, upstream, ...carries }, path, []);
      takeover.adopt(parts);
      parts.tunnel.wake();
    } else if (carries.kind === 'upgrade') {
      const { upgrade, elsewhere, ephemeral } = carries;
      const parts = this.#build(stream, upgradeFrom(upgrade, client, stream.kind), path, elsewhere);
      if (ephemeral !== undefined) this.#unseenHandshakes.set(stream, ephemeral);
      client.resume();
      takeover.admit(parts, elsewhere, undefined, clock.now() - stream.openedAt);
      directory.contest(stream, elsewhere);
    }
  }

  /** Severs an old stream if the node has reached its limit. The newest stream always stays, because it is the live one. */
  #makeRoom(stream: Stream): void {
    const { registry, limits, admission, isObserved, emit } = this.#options;
    const { machineKey, address } = stream;
    if (machineKey === undefined) return;
    const observed = isObserved(stream);
    // A stream that would have been severed would not count any more.
    const open = registry.ofMachineKey(machineKey).filter((each) => isLive(each) && !(observed && each.wouldSever));
    if (open.length < limits().streamsPerNode) return;
    const unneeded = leastNeeded(open);
    if (observed) {
      if (unneeded !== undefined) reportWouldSever(unneeded, 'surplus', emit);
      return;
    }
    admission.limitReached('streams_per_node', address, `${formatMachineKey(machineKey)} has ${open.length} already`);
    if (unneeded !== undefined) this.sever(unneeded, 'surplus');
  }

  #forgetHandshake(ephemeral: Buffer): void {
    this.handshakes.forget(ephemeral);
    this.#options.directory.forgetHandshake(ephemeral);
  }

  /** Forwards a stream to Headscale. When Headscale comes back, all nodes do too, so control streams go one after the other. */
  readonly #pass = (tunnel: Tunnel): void => {
    const { pacer, admission } = this.#options;
    const { stream } = tunnel;
    if (stream.kind !== 'control') {
      tunnel.forward();
      return;
    }
    const giveUp = (): void => {
      admission.limitReached('upstream_rate', stream.address, `waited for ${LONGEST_WAIT_MS / 1000} s`);
      tunnel.refuse('Too many nodes are connecting to Headscale at once.');
    };
    pacer.enter(stream, () => tunnel.forward(), giveUp);
  };

  /** For a client behind a proxy, it may be some seconds old. */
  evidenceOf(stream: Stream): KernelEvidence | undefined {
    return this.#streams.get(stream)?.connection.lastEvidence();
  }

  sourceOf(stream: Stream): EvidenceSource {
    return this.#streams.get(stream)?.connection.source ?? { kind: 'none', reason: 'socket_not_found' };
  }

  /** The connections of a proxy in front that may be this client's. Undefined for a client that connects to us. */
  behindProxy(stream: Stream): ProxiedClient | undefined {
    return this.#streams.get(stream)?.connection.behindProxy;
  }

  /** Severs a stream whose client is gone, as the connection to its proxy shows. */
  severGone(stream: Stream): void {
    const parts = this.#streams.get(stream);
    if (parts === undefined) return;
    const { source } = parts.connection;
    parts.gone = { source, kernel: parts.connection.evidence() };
    parts.tunnel.end('gone');
  }

  /** Updates the TCP timeouts of a stream's client, see `ClientConnection.refresh`. */
  refresh(stream: Stream, now: Instant): void {
    const parts = this.#streams.get(stream);
    parts?.connection.refresh(parts.tunnel.owesAnswer, now);
  }

  /** Severs a stream: closes the upstream connection first, then the client's. */
  sever(stream: Stream, reason: CloseReason): void {
    this.#streams.get(stream)?.tunnel.end(reason);
  }

  /** Applies the TCP timeouts of every stream again, because settings or the list of nodes have changed. */
  reapplyTimeouts(): void {
    for (const [stream, { connection }] of this.#streams) connection.applyTimeouts(this.#options.tcpTimeoutsOf(stream));
  }

  /** How many streams are open here. */
  get size(): number {
    return this.#streams.size;
  }

  /** Severs the current streams evenly over `overMs`. Resolves when no stream is left. All others stay until `end`. */
  drain(
    overMs: number,
    which: (parts: StreamParts) => boolean = () => true,
    reason: CloseReason = 'shutdown',
  ): Promise<void> {
    const streams = [...this.#streams].filter(([, parts]) => which(parts)).map(([stream]) => stream);
    this.#plannedEnds = drainPlan(streams, overMs).map(({ stream, afterMs }) =>
      this.#options.clock.after(afterMs, () => this.sever(stream, reason)),
    );
    return this.#empty();
  }

  /** Severs every stream and drops every waiting upgrade. Resolves when all are closed. Later upgrades are refused. */
  end(reason: CloseReason = 'shutdown'): Promise<void> {
    this.#hasEnded = true;
    for (const planned of this.#plannedEnds) planned.cancel();
    for (const client of this.#arriving) client.destroy();
    for (const { tunnel } of this.#streams.values()) tunnel.end(reason);
    return this.#empty();
  }

  #drop(stream: Stream): void {
    this.#streams.delete(stream);
    if (this.#streams.size > 0) return;
    for (const resolve of this.#whenEmpty.splice(0)) resolve();
  }

  #empty(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#streams.size === 0) resolve();
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
    const now = this.#options.clock.now();
    const machineKey = identity && this.handshakes.machineKeyOf(identity, replayed, remoteAddress);
    return {
      id,
      kind: asked.streamKind,
      machineKey,
      capabilityVersion: machineKey && identity?.kind === 'identified' ? identity.version : undefined,
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

  #tunnelHandlers(): TunnelHandlers {
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
    } = this.#options;
    return {
      clock,
      upstream,
      earlyBytes: () => this.#options.limits().earlyBytes,
      upstreamReached: (stream) => {
        this.#unseenHandshakes.delete(stream);
        upstreamReached();
      },
      upstreamFailed,
      awaitAnswer,
      answeredLate: (stream) => this.#options.answeredLate(stream),
      upstreamRefused: new RefusedUpgrades(clock, emit).note,
      upstreamMismatched: ({ remoteAddress }, asked, switchedTo) =>
        emit({ kind: 'upstream_protocol_mismatched', asked, switchedTo, remoteAddress }),
      firstRecord: (stream) => {
        // Other replicas first: once the takeover clears a suspicion, they would not be told.
        directory.firstRecord(stream);
        takeover.firstRecord(stream);
      },
      ending: (stream, reason) => {
        const parts = this.#streams.get(stream);
        const gaveUp = reason === 'gone' || reason === 'not_reading';
        if (parts !== undefined) parts.lastSignAt = parts.connection.lastSignAt(clock.now(), gaveUp);
        const unseen = this.#unseenHandshakes.get(stream);
        this.#unseenHandshakes.delete(stream);
        if (unseen !== undefined) this.#forgetHandshake(unseen);
        directory.withdraw(stream);
        pacer.leave(stream);
        takeover.streamEnding(stream, reason);
      },
      upstreamClosed: (stream) => takeover.upstreamClosed(stream),
      closed: (stream, reason) => {
        const { gone, lastSignAt, connection } = this.#streams.get(stream) ?? {};
        connection?.behindProxy?.close();
        this.#streams.delete(stream);
        registry.remove(stream);
        emit({ kind: 'stream_closed', stream, reason, lifetimeMs: clock.now() - stream.openedAt, lastSignAt, gone });
        this.#drop(stream);
      },
    };
  }
}
