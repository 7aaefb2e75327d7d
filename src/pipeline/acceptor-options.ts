import type { Limits } from '../config/types.ts';
import type { NoiseKey } from '../identity/noise.ts';
import type { Clock } from '../lib/clock.ts';
import type { TcpTimeouts } from '../liveness/client-connection.ts';
import type { Kernel } from '../liveness/kernel.ts';
import type { ProxySockets } from '../liveness/proxy-sockets.ts';
import type { AwaitAnswer, Upstream } from '../proxy/upstream.ts';
import type { StreamDirectory } from '../streams/directory.ts';
import type { Emit } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import type { Stream } from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import type { Admission } from './admission.ts';
import type { Pacer } from './pacer.ts';

/** What the acceptor needs, and what it reports. */
export interface StreamAcceptorOptions {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly takeover: Takeover;
  readonly directory: StreamDirectory;
  readonly admission: Admission;
  readonly pacer: Pacer;
  limits(): Pick<Limits, 'streamsPerNode' | 'earlyBytes'>;
  /** Whether the watchdog only observes the stream's node. */
  isObserved(stream: Stream): boolean;
  /** Undefined on systems whose kernel gives no evidence. */
  readonly kernel: Kernel | undefined;
  readonly proxySockets: ProxySockets;
  /** Undefined without a key. Then no client is identified. */
  noiseKey(): NoiseKey | undefined;
  /** The TCP timeouts for a stream's client, which Linux applies. */
  tcpTimeoutsOf(stream: Stream): TcpTimeouts;
  readonly upstream: Upstream;
  readonly emit: Emit;
  upstreamReached(): void;
  upstreamFailed(): void;
  awaitAnswer: AwaitAnswer;
  /** See `TunnelHandlers.answeredLate`. */
  answeredLate(stream: Stream): void;
}
