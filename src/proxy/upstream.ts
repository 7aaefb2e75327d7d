import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

/** How long an unused connection for plain requests is kept; Headscale itself ends them after 30 s. */
const IDLE_CONNECTION_MS = 10_000;

/** Where Headscale is, and how to connect to it. */
export interface Upstream {
  readonly url: URL;
  readonly tls: boolean;
  readonly host: string;
  readonly port: number;
  /** A connection for a tunnel: half-open allowed, so that each side's FIN can be passed on by itself. */
  connect(): Socket;
  /** Connections for plain requests, kept and used again. */
  readonly agent: HttpAgent;
}

/** @param url `http://host[:port]` or `https://host[:port]`, without a path. */
export function upstreamOf(url: URL): Upstream {
  const tls = url.protocol === 'https:';
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const port = url.port === '' ? (tls ? 443 : 80) : Number(url.port);
  const options = { host, port, allowHalfOpen: true, noDelay: true };
  const agentOptions = { keepAlive: true, timeout: IDLE_CONNECTION_MS };
  return {
    url,
    tls,
    host,
    port,
    connect: () =>
      tls ? connectTls({ ...options, servername: host, ALPNProtocols: ['http/1.1'] }) : connectTcp(options),
    agent: tls ? new HttpsAgent(agentOptions) : new HttpAgent(agentOptions),
  };
}
