import { request as httpRequest } from 'node:http';
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { NoiseKey } from '../identity/machine-key.ts';
import { skipEarlyPayload } from './early-payload.ts';
import { connectNoise, readExactly } from './noise-connection.ts';
import { RESPONSE_LENGTH, startHandshake } from './noise-handshake.ts';

/** The protocol version of tailscale 1.102.3. */
export const CLIENT_VERSION = 142;

/** The client's end of one Noise session. */
export interface NodeConnection {
  /** The port on this side of the connection, to tell connections apart. */
  readonly localPort: number;
  readonly isOpen: boolean;
  /** Resolves once the socket has closed, for whatever reason. */
  readonly closed: Promise<void>;
  /** Begins a POST inside the session, with a JSON body. */
  post(path: string, body: object): ClientHttp2Stream;
  /** Neither reads nor writes from now on; the socket stays open until `close`. */
  freeze(): void;
  /** Closes the socket at once; the kernel says FIN. */
  close(): void;
}

/**
 * Connects as tailscaled does: asks for the server's key, upgrades `POST /ts2021` with the handshake in a header, and
 * starts HTTP/2 in the session. The URL is plain HTTP.
 *
 * @param localAddress of this machine; by default the kernel chooses.
 * @throws when something else than a control server answers, when the connection breaks, or when `signal` aborts.
 */
export async function openNodeConnection(
  serverUrl: URL,
  machine: NoiseKey,
  signal: AbortSignal,
  localAddress?: string,
): Promise<NodeConnection> {
  const handshake = startHandshake(machine, await fetchServerKey(serverUrl, signal), CLIENT_VERSION);
  const { socket, localPort } = await upgrade(serverUrl, handshake.initiation, signal, localAddress);
  const abort = (): void => void socket.destroy(new Error('aborted'));
  signal.addEventListener('abort', abort);
  try {
    const keys = handshake.finish(await readExactly(socket, RESPONSE_LENGTH));
    if (keys === undefined) throw new Error('the server does not hold the key it publishes');
    const { duplex, freeze } = connectNoise(socket, keys);
    duplex.on('error', () => {});
    await skipEarlyPayload(duplex);
    const session = connect(`https://${serverUrl.host}`, { createConnection: () => duplex });
    return connectionOver(session, socket, duplex, freeze, localPort);
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

function connectionOver(
  session: ClientHttp2Session,
  socket: Duplex,
  duplex: Duplex,
  freeze: () => void,
  localPort: number,
): NodeConnection {
  let isOpen = true;
  const close = (): void => {
    isOpen = false;
    session.destroy();
    duplex.destroy();
  };
  // As Go's HTTP/2 client: when the server has said its last word, the connection is of no more use.
  duplex.once('end', close);
  duplex.once('close', close);
  session.on('error', close);
  session.on('close', close);
  return {
    localPort,
    get isOpen() {
      return isOpen;
    },
    closed: new Promise((resolve) => (socket.closed ? resolve() : socket.once('close', resolve))),
    post(path, body) {
      const stream = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/json' });
      stream.end(JSON.stringify(body));
      return stream;
    },
    freeze,
    close,
  };
}

async function fetchServerKey(serverUrl: URL, signal: AbortSignal): Promise<Buffer> {
  const body = await new Promise<string>((resolve, reject) => {
    const request = httpRequest(new URL(`/key?v=${CLIENT_VERSION}`, serverUrl), { agent: false, signal });
    request.once('error', reject);
    request.once('response', (response) => text(response).then(resolve, reject));
    request.end();
  });
  const [, digits] = /"publicKey":"mkey:([0-9a-f]{64})"/.exec(body) ?? [];
  if (digits === undefined) throw new Error(`${serverUrl.href}key did not answer with a key`);
  return Buffer.from(digits, 'hex');
}

/** The upgrade with the headers, and in the order, in which Go's client of tailscale sends them. */
async function upgrade(
  serverUrl: URL,
  initiation: Buffer,
  signal: AbortSignal,
  localAddress: string | undefined,
): Promise<{ socket: Duplex; localPort: number }> {
  const headers = [
    ['Host', serverUrl.host],
    ['User-Agent', 'Go-http-client/1.1'],
    ['Content-Length', '0'],
    ['Connection', 'upgrade'],
    ['Upgrade', 'tailscale-control-protocol'],
    ['X-Tailscale-Handshake', initiation.toString('base64')],
  ].flat();
  const { hostname, port } = serverUrl;
  return await new Promise((resolve, reject) => {
    const request = httpRequest({
      host: hostname,
      port,
      method: 'POST',
      path: '/ts2021',
      headers,
      agent: false,
      signal,
      ...(localAddress !== undefined && { localAddress }),
    });
    request.once('error', reject);
    request.once('response', (response) => {
      response.destroy();
      reject(new Error(`the upgrade was answered with ${response.statusCode}`));
    });
    request.once('upgrade', (_response, socket, head) => {
      // Who reads the socket learns of its failure by its end.
      socket.on('error', () => {});
      if (head.length > 0) socket.unshift(head);
      resolve({ socket, localPort: request.socket?.localPort ?? 0 });
    });
    request.end();
  });
}
