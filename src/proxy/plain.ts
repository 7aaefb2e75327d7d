import type { IncomingMessage, ServerResponse } from 'node:http';
import httpProxy from 'http-proxy';
import { type Origin, setForwarded } from './forwarded.ts';
import type { Upstream } from './upstream.ts';

export interface PlainPorts {
  readonly upstream: Upstream;
  upstreamReached(): void;
  upstreamFailed(): void;
}

/** Passes a request on to Headscale and its answer back. */
export type PlainProxy = (request: IncomingMessage, response: ServerResponse, origin: Origin) => void;

/** The proxy for all that is not an upgrade: `/key`, `/health`, registration pages, OIDC, the REST API. */
export function plainProxy(ports: PlainPorts): PlainProxy {
  // A connection for each: requests are few, and one kept open might be closed by Headscale the moment it is used.
  const proxy = httpProxy.createProxyServer({ target: ports.upstream.url.origin, agent: false });
  proxy.on('proxyRes', (answer) => {
    // That connection's end is no business of the client's own.
    delete answer.headers.connection;
    ports.upstreamReached();
  });
  return (request, response, origin) => {
    setForwarded(request.headers, origin);
    proxy.web(request, response, {}, () => {
      // A client that left in the middle says nothing about Headscale.
      if (request.socket.destroyed) return;
      ports.upstreamFailed();
      if (response.headersSent) response.destroy();
      else
        response.writeHead(502, { 'Content-Type': 'text/plain; charset=utf-8' }).end('Headscale cannot be reached.\n');
    });
  };
}
