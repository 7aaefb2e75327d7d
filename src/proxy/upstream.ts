import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

/** Where Headscale is, and how to connect to it. */
export interface Upstream {
  readonly url: URL;
  readonly tls: boolean;
  readonly host: string;
  readonly port: number;
  /** A connection for a tunnel: half-open allowed, so that each side's FIN can be passed on by itself. */
  connect(): Socket;
}

/** @param url `http://host[:port]` or `https://host[:port]`, without a path. */
export function upstreamOf(url: URL): Upstream {
  const tls = url.protocol === 'https:';
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const port = url.port === '' ? (tls ? 443 : 80) : Number(url.port);
  const options = { host, port, allowHalfOpen: true, noDelay: true };
  return {
    url,
    tls,
    host,
    port,
    connect: () =>
      tls ? connectTls({ ...options, servername: host, ALPNProtocols: ['http/1.1'] }) : connectTcp(options),
  };
}
