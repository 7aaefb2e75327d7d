import { randomBytes } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { NoiseKey } from '../identity/noise.ts';
import { connectNoise, readExactly, skipEarlyPayload } from './noise-connection.ts';
import { generateNoiseKey, RESPONSE_LENGTH, type StartedHandshake, startHandshake } from './noise-handshake.ts';

/** The capability version of tailscale 1.102.3. */
export const CLIENT_VERSION = 142;

/** The client's side of one Noise session. */
export interface NodeConnection {
  /** The local port of the connection, which tells connections apart. */
  readonly localPort: number;
  readonly isOpen: boolean;
  /** Resolves when the socket has closed, whatever the reason. */
  readonly closed: Promise<void>;
  /** Sends a POST request with a JSON body inside the session. */
  post(path: string, body: object): ClientHttp2Stream;
  /** Stops reading and writing. The socket stays open until `close`. */
  freeze(): void;
  /** Closes the socket at once; the kernel sends FIN. */
  close(): void;
}

/**
 * Connects as tailscaled does: fetches the server's key, upgrades `POST /ts2021` with the handshake in a header, and starts
 * HTTP/2 inside the session.
 *
 * @param serverUrl plain HTTP.
 * @param localAddress the local address to connect from; by default the kernel chooses.
 * @throws Error if the server is not a control server, if the connection breaks, or if `signal` aborts.
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
    return await beginSession(socket, handshake, serverUrl, localPort);
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/**
 * Starts the session on an upgraded connection.
 *
 * @param socket begins with the server's answer to `handshake`.
 * @throws Error if the server answered another handshake, does not hold the key it publishes, or breaks the connection.
 */
export async function beginSession(
  socket: Duplex,
  handshake: StartedHandshake,
  serverUrl: URL,
  localPort: number,
): Promise<NodeConnection> {
  const keys = handshake.finish(await readExactly(socket, RESPONSE_LENGTH));
  if (keys === undefined) throw new Error('the server does not hold the key it publishes');
  const { duplex, freeze } = connectNoise(socket, keys);
  duplex.on('error', () => {});
  await skipEarlyPayload(duplex);
  const session = connect(`https://${serverUrl.host}`, { createConnection: () => duplex });
  return connectionOver(session, socket, duplex, freeze, localPort);
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
  // As in Go's HTTP/2 client, the connection is unusable after the server's FIN.
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

/** Sends the upgrade request with the headers of tailscale's Go client, in the same order. */
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

/** The keys and the name of a node. */
export interface NodeIdentity {
  readonly name: string;
  readonly machine: NoiseKey;
  /** `nodekey:<64 hex>` */
  readonly nodeKey: string;
  /** Headscale requires one. The demo's server does not. */
  readonly authKey: string | undefined;
}

export function newNodeIdentity(name: string, authKey?: string): NodeIdentity {
  return { name, machine: generateNoiseKey(), nodeKey: `nodekey:${randomBytes(32).toString('hex')}`, authKey };
}

/** Registers and reports the host, as tailscaled does before it requests a stream. */
export async function logIn(connection: NodeConnection, identity: NodeIdentity): Promise<void> {
  const { nodeKey, name, authKey } = identity;
  const Hostinfo = { Hostname: name, OS: 'linux', BackendLogID: name };
  const Auth = authKey === undefined ? undefined : { AuthKey: authKey };
  await answerTo(connection.post('/machine/register', { Version: CLIENT_VERSION, NodeKey: nodeKey, Hostinfo, Auth }));
  await answerTo(connection.post('/machine/map', { ...mapRequest(identity), Hostinfo, OmitPeers: true }));
}

/** Follows a map stream to its end. @returns the number of messages. @throws Error if the stream breaks. */
export async function followMap(
  connection: NodeConnection,
  identity: NodeIdentity,
  onFirst: () => void,
): Promise<number> {
  const stream = connection.post('/machine/map', { ...mapRequest(identity), Stream: true });
  let messages = 0;
  let missing = Buffer.alloc(0);
  await answerTo(stream, (chunk) => {
    missing = Buffer.concat([missing, chunk]);
    // A message is its length, four bytes, little-endian, and then as much.
    while (missing.length >= 4 && missing.length >= 4 + missing.readUInt32LE(0)) {
      missing = missing.subarray(4 + missing.readUInt32LE(0));
      if (++messages === 1) onFirst();
    }
  });
  if (!connection.isOpen) throw new Error('the connection ended');
  return messages;
}

function mapRequest({ nodeKey }: NodeIdentity): object {
  return { Version: CLIENT_VERSION, Compress: 'zstd', KeepAlive: true, NodeKey: nodeKey, Endpoints: [] };
}

/** Waits until an answer has ended. @throws Error if it is not a 200, or if it breaks off. */
async function answerTo(stream: ClientHttp2Stream, onData: (chunk: Buffer) => void = () => {}): Promise<void> {
  let status: number | undefined;
  let hasEnded = false;
  await new Promise<void>((resolve, reject) => {
    stream.once('response', (headers) => {
      status = headers[':status'];
    });
    stream.on('data', onData);
    stream.once('end', () => {
      hasEnded = true;
    });
    stream.once('error', reject);
    stream.once('close', resolve);
  });
  if (status === undefined || !hasEnded) throw new Error('the request was not answered to the end');
  if (status !== 200) throw new Error(`the request was answered with ${status}`);
}
