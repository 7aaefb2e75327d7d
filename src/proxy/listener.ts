import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { HostPort } from '../config/schema.ts';
import { codeOf, reasonOf, StartError } from '../errors.ts';
import type { StreamKind } from '../streams/stream.ts';
import { addressAndPort, forwardedRawHeaders, type Origin, plainAddress } from './forwarded.ts';
import type { PlainProxy } from './plain.ts';
import type { UpgradeRequest } from './tunnel-ports.ts';

const ignore = (): void => {};

export interface ListenerPorts {
  readonly plain: PlainProxy;
  upgrade(upgrade: UpgradeRequest, origin: Origin): void;
}

/** An HTTP server for clients: upgrades go to the tunnel, all else to the plain proxy. */
export function createListener(ports: ListenerPorts): Server {
  const server = createServer();
  server.on('request', (request, response) => ports.plain(request, response, originOf(request)));
  server.on('upgrade', (request: IncomingMessage, client: Socket, head: Buffer) => {
    // Until somebody listens, an error of the socket would be nobody's.
    client.off('error', ignore).on('error', ignore);
    if (hasBody(request)) {
      readAgain(server, request, client, head);
      return;
    }
    const origin = originOf(request);
    const rawHeaders = forwardedRawHeaders(request.rawHeaders, origin);
    // Node would send a POST without a length as chunked.
    if (request.headers['content-length'] === undefined && request.method !== 'GET')
      rawHeaders.push('Content-Length', '0');
    ports.upgrade({ request, client, head, rawHeaders }, origin);
  });
  return server;
}

/** @throws StartError when the address cannot be listened on. */
export function listen(server: Server, { host, port }: HostPort, flag: string): Promise<AddressInfo> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, flag, host, port)));
    server.listen({ host, port }, () => resolve(server.address() as AddressInfo));
  });
}

function listenError(error: Error, flag: string, host: string, port: number): StartError {
  const where = `cannot listen on ${flag} ${addressAndPort(host, port)}`;
  switch (codeOf(error)) {
    case 'EADDRINUSE':
      return new StartError(`${where}: the port is in use; stop what uses it or choose another port`, { cause: error });
    case 'EACCES':
      return new StartError(`${where}: not allowed; ports below 1024 need CAP_NET_BIND_SERVICE`, { cause: error });
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new StartError(`${where}: the name '${host}' is unknown; write an address of this machine`, {
        cause: error,
      });
    case 'EADDRNOTAVAIL':
      return new StartError(`${where}: this machine does not have that address`, { cause: error });
    default:
      return new StartError(`${where}: ${reasonOf(error)}`, { cause: error });
  }
}

/** A stream's kind, from the path and the protocol its request asks for. */
export function kindOf(request: IncomingMessage): StreamKind {
  const path = (request.url ?? '').split('?', 1)[0];
  if (path === '/ts2021') return 'control';
  return path === '/derp' ? 'derp' : 'other';
}

function originOf(request: IncomingMessage): Origin {
  return {
    address: plainAddress(request.socket.remoteAddress),
    proto: 'encrypted' in request.socket ? 'https' : 'http',
    host: request.headers.host,
  };
}

/**
 * A server may ignore Upgrade (RFC 9110, section 7.8), and with a body we must: Node's parser has let go of the request
 * and would not read it. So the request is read once more, without its Upgrade, as a plain one.
 */
function readAgain(server: Server, request: IncomingMessage, client: Socket, head: Buffer): void {
  const { method, url, httpVersion, rawHeaders } = request;
  let again = `${method} ${url} HTTP/${httpVersion}\r\n`;
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    if (!/^(upgrade|http2-settings|connection)$/i.test(rawHeaders[i] as string)) {
      again += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`;
    }
  }
  client.unshift(Buffer.concat([Buffer.from(`${again}\r\n`, 'latin1'), head]));
  server.emit('connection', client);
}

function hasBody(request: IncomingMessage): boolean {
  const { 'content-length': length, 'transfer-encoding': encoding } = request.headers;
  return encoding !== undefined || (length !== undefined && Number(length) !== 0);
}
