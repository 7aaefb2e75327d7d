import type { Instant } from '../lib/clock.ts';
import type { ClientConnection } from '../liveness/client-connection.ts';
import type { ProxiedClient } from '../liveness/proxied-client.ts';
import type { ClientPath } from '../liveness/proxy-sockets.ts';
import type { Tunnel } from '../proxy/tunnel.ts';
import type { GoneBehindProxy } from '../streams/events.ts';
import {
  CLOSES_WITH,
  type EvidenceSource,
  type KernelEvidence,
  type LossReason,
  type Stream,
} from '../streams/stream.ts';
import type { Contestant } from '../takeover/takeover.ts';

/** A stream's tunnel, and the TCP side of its client. The takeover has it for as long as the stream lives. */
export class StreamParts implements Contestant {
  readonly tunnel: Tunnel;
  readonly connection: ClientConnection;
  readonly path: ClientPath;
  /** The other replicas that had older streams of its node when it came. */
  readonly elsewhere: readonly string[];
  readonly #pass: (tunnel: Tunnel) => void;
  gone?: GoneBehindProxy;
  /** Known once the stream ends: a closed connection cannot be asked. */
  lastSignAt?: Instant | undefined;

  /** @param pass forwards it to Headscale. */
  constructor(
    tunnel: Tunnel,
    connection: ClientConnection,
    path: ClientPath,
    elsewhere: readonly string[],
    pass: (tunnel: Tunnel) => void,
  ) {
    this.tunnel = tunnel;
    this.connection = connection;
    this.path = path;
    this.elsewhere = elsewhere;
    this.#pass = pass;
  }

  get stream(): Stream {
    return this.tunnel.stream;
  }

  get source(): EvidenceSource {
    return this.connection.source;
  }

  get behindProxy(): ProxiedClient | undefined {
    return this.connection.behindProxy;
  }

  evidence(): KernelEvidence | undefined {
    return this.connection.evidence();
  }

  probe(): void {
    this.connection.probe();
  }

  stopProbing(): void {
    this.connection.stopProbing();
  }

  sever(because: LossReason): void {
    this.tunnel.end(CLOSES_WITH[because]);
  }

  forward(): void {
    this.#pass(this.tunnel);
  }
}
