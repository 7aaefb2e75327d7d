import type { Socket } from 'node:net';
import type { RefusalReason } from '../streams/events.ts';
import { readFirstBytes } from './first-bytes.ts';
import { plainAddress } from './forwarded.ts';
import { type Claimed, readProxyHeader } from './proxy-protocol.ts';
import type { Trust } from './trust.ts';

interface ClaimsPorts {
  trust(): Trust;
  refused(because: RefusalReason, why: string, address: string): void;
}

/** A proxy says it at once. */
const WITHIN_MS = 10_000;

/** A connection's two ends: the one name that it has both below TLS and above it. */
function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`;
}

/**
 * Where a listener's connections come from, by the PROXY protocol. They are known by their two ends: a TLS socket is
 * another object than the socket below it.
 */
export class Claims {
  readonly #byEnds = new Map<string, Claimed>();

  /** Undefined where no header came, or the proxy spoke for itself. */
  of(socket: Socket): Claimed | undefined {
    return this.#byEnds.size === 0 ? undefined : this.#byEnds.get(endsOf(socket));
  }

  /** Reads a new connection's header, from whom we trust only, and lets the connection go on behind it. */
  read(socket: Socket, { trust, refused }: ClaimsPorts, serve: () => void): void {
    const address = plainAddress(socket.remoteAddress);
    if (!trust()(address)) {
      refused(
        'untrusted_proxy',
        `it is not among --trusted-proxies, and this listener is for proxies alone: if it is your proxy, add ${address} there`,
        address,
      );
      socket.destroy();
      return;
    }
    const ends = endsOf(socket);
    const read = (bytes: Buffer) => {
      const header = readProxyHeader(bytes);
      if (header.kind === 'more') return header;
      if (header.kind === 'bad') {
        refused('bad_proxy_header', header.why, address);
        return { kind: 'refuse' } as const;
      }
      if (header.from !== undefined) this.#remember(socket, ends, header.from);
      return { kind: 'done', rest: bytes.subarray(header.length) } as const;
    };
    readFirstBytes(socket, read, { withinMs: WITHIN_MS, slow: () => socket.destroy() }, serve);
  }

  #remember(socket: Socket, ends: string, from: Claimed): void {
    this.#byEnds.set(ends, { ...from, address: plainAddress(from.address) });
    socket.once('close', () => this.#byEnds.delete(ends));
  }
}
