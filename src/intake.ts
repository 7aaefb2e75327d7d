import type { Clock } from './clock.ts';
import type { Emit } from './events.ts';
import { type Identity, identify, type NoiseKey } from './identity/machine-key.ts';
import type { KernelEvidence } from './liveness/evidence.ts';
import type { Kernel } from './liveness/kernel.ts';
import { addressAndPort, type Origin } from './proxy/forwarded.ts';
import { kindOf } from './proxy/listener.ts';
import { Tunnel } from './proxy/tunnel.ts';
import type { TunnelPorts, UpgradeRequest } from './proxy/tunnel-ports.ts';
import type { Upstream } from './proxy/upstream.ts';
import type { Registry } from './streams/registry.ts';
import type { Stream } from './streams/stream.ts';
import type { Takeover } from './takeover/takeover.ts';

export interface IntakeParts {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly takeover: Takeover;
  /** Undefined where the kernel cannot be asked. */
  readonly kernel: Kernel | undefined;
  /** Undefined without a key: nobody is identified then. */
  readonly noiseKey: NoiseKey | undefined;
  readonly upstream: Upstream;
  readonly emit: Emit;
  upstreamReached(): void;
  upstreamFailed(): void;
}

/** The way of an upgrade: who is it (identity), write it down (registry), may it pass (takeover), pass it (tunnel). */
export class Intake {
  readonly #parts: IntakeParts;
  readonly #tunnels = new Map<Stream, Tunnel>();
  readonly #ports: TunnelPorts;
  #onEmpty: () => void = () => {};

  constructor(parts: IntakeParts) {
    this.#parts = parts;
    this.#ports = this.#tunnelPorts();
  }

  upgrade(upgrade: UpgradeRequest, origin: Origin): void {
    const stream = this.#streamOf(upgrade, origin);
    this.#parts.registry.add(stream);
    const tunnel = new Tunnel(stream, upgrade, this.#ports);
    this.#tunnels.set(stream, tunnel);
    this.#parts.emit({ kind: 'stream opened', stream });
    this.#parts.takeover.admit({
      stream,
      evidence: () => this.evidenceOf(stream),
      probe: () => this.#parts.kernel?.probe(tunnel.client),
      endProbes: () => this.#parts.kernel?.endProbes(tunnel.client),
      sever: (because) => tunnel.end(because === 'dead' ? 'severed_dead' : 'severed_silent'),
      forward: () => tunnel.forward(),
    });
  }

  evidenceOf(stream: Stream): KernelEvidence | undefined {
    const tunnel = this.#tunnels.get(stream);
    return tunnel === undefined ? undefined : this.#parts.kernel?.evidenceOf(tunnel.client);
  }

  /** Ends every stream; resolves when all are closed. */
  end(): Promise<void> {
    return new Promise((resolve) => {
      this.#onEmpty = resolve;
      for (const tunnel of this.#tunnels.values()) tunnel.end('shutdown');
      if (this.#tunnels.size === 0) resolve();
    });
  }

  #streamOf(upgrade: UpgradeRequest, origin: Origin): Stream {
    const { clock, registry } = this.#parts;
    const { request, client } = upgrade;
    const remoteAddress = addressAndPort(origin.address, client.remotePort);
    const kind = kindOf(request);
    const now = clock.now();
    return {
      id: registry.nextId(),
      kind,
      machineKey: kind === 'control' ? this.#machineKeyOf(upgrade, remoteAddress) : undefined,
      remoteAddress,
      openedAt: now,
      heardAt: now,
      firstRecordAt: undefined,
      bytesReceived: 0,
      bytesSent: 0,
      state: { kind: 'connecting' },
    };
  }

  #machineKeyOf({ request }: UpgradeRequest, remoteAddress: string): Stream['machineKey'] {
    const identity = this.#identify(request.headers['x-tailscale-handshake']);
    const why = identity.kind === 'unreadable' ? identity.why : undefined;
    this.#parts.emit({ kind: 'handshake', result: identity.kind, why, remoteAddress });
    return identity.kind === 'identified' ? identity.machineKey : undefined;
  }

  #identify(header: string | string[] | undefined): Identity {
    const { noiseKey, emit } = this.#parts;
    if (noiseKey === undefined) return { kind: 'unreadable', why: 'no noise key' };
    try {
      return identify(noiseKey, Array.isArray(header) ? header[0] : header);
    } catch (error) {
      emit({ kind: 'internal error', during: 'reading a handshake', error });
      return { kind: 'unreadable', why: 'internal error' };
    }
  }

  #tunnelPorts(): TunnelPorts {
    const { clock, registry, takeover, upstream, emit, upstreamReached, upstreamFailed } = this.#parts;
    return {
      clock,
      upstream,
      upstreamReached,
      upstreamFailed,
      upstreamRefused: (stream, status) =>
        emit({ kind: 'upstream refused', streamKind: stream.kind, status, remoteAddress: stream.remoteAddress }),
      firstRecord: (stream) => takeover.recorded(stream),
      ending: (stream, reason) => takeover.ending(stream, reason),
      upstreamClosed: (stream) => takeover.closed(stream),
      closed: (stream, reason) => {
        this.#tunnels.delete(stream);
        registry.remove(stream);
        emit({ kind: 'stream closed', stream, reason, lifetimeMs: clock.now() - stream.openedAt });
        if (this.#tunnels.size === 0) this.#onEmpty();
      },
    };
  }
}
