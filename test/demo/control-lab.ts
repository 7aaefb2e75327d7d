import { connect as http2Connect } from 'node:http2';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { type ControlServer, type ControlServerOptions, startControlServer } from '../../src/demo/control-server.ts';
import type { ControlEvent } from '../../src/demo/control-state.ts';
import { type NodeConnection, openNodeConnection } from '../../src/demo/node-connection.ts';
import { connectNoise, readExactly, skipEarlyPayload } from '../../src/demo/noise-connection.ts';
import { generateNoiseKey, RESPONSE_LENGTH, startHandshake } from '../../src/demo/noise-handshake.ts';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { parseNoiseKey } from '../../src/identity/noise.ts';
import { type Harness, readHead } from '../support/harness.ts';

/** A stand-in with every event written down. */
export async function controlServer(harness: Harness, options: Partial<ControlServerOptions> = {}) {
  const events: ControlEvent[] = [];
  const onEvent = (event: ControlEvent): void => void events.push(event);
  const server = await startControlServer({ secondStream: 'refuse', onEvent, ...options });
  harness.defer(() => server.close());
  const count = (kind: ControlEvent['kind']): number => events.filter((event) => event.kind === kind).length;
  return { server, events, count };
}

export function simulatedNode(harness: Harness, serverUrl: URL): SimulatedNode {
  const node = new SimulatedNode({ name: 'node', serverUrl });
  harness.defer(() => node.stop());
  return node;
}

export async function connection(
  harness: Harness,
  serverUrl: URL,
  machine = generateNoiseKey(),
): Promise<NodeConnection> {
  const opened = await openNodeConnection(serverUrl, machine, new AbortController().signal);
  harness.defer(async () => {
    opened.close();
    await opened.closed;
  });
  return opened;
}

/** A client whose socket can say FIN and still hear. */
export async function halfOpenConnection(harness: Harness, server: ControlServer) {
  const machine = generateNoiseKey();
  const key = parseNoiseKey(server.noiseKeyFile());
  if (key === undefined) throw new Error('no key');
  const handshake = startHandshake(machine, key.publicRaw, 142);
  const socket = connect({ port: Number(server.url.port), host: '127.0.0.1', allowHalfOpen: true });
  harness.defer(() => socket.destroy());
  socket.write(
    'POST /ts2021 HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: tailscale-control-protocol\r\n' +
      `X-Tailscale-Handshake: ${handshake.initiation.toString('base64')}\r\nContent-Length: 0\r\n\r\n`,
  );
  await readHead(socket);
  const keys = handshake.finish(await readExactly(socket, RESPONSE_LENGTH));
  if (keys === undefined) throw new Error('no session');
  const { duplex } = connectNoise(socket, keys);
  await skipEarlyPayload(duplex);
  const session = http2Connect(server.url, { createConnection: () => duplex });
  session.on('error', () => {});
  const post = (path: string, body: object) => {
    const stream = session.request({ ':method': 'POST', ':path': path });
    stream.end(JSON.stringify(body));
    return stream;
  };
  return { machine, socket, client: { post } };
}

export const NODE_KEY = `nodekey:${'ab'.repeat(32)}`;
export const REGISTER = { Version: 142, NodeKey: NODE_KEY, Hostinfo: { Hostname: 'node' } };
export const MAP = { Version: 142, NodeKey: NODE_KEY };

export async function answer(connection: Pick<NodeConnection, 'post'>, path: string, body: object) {
  const stream = connection.post(path, body);
  const status = new Promise<unknown>((resolve) => stream.once('response', (headers) => resolve(headers[':status'])));
  const content = await text(stream);
  return { status: await status, content };
}

/** Opens a map stream. @returns its messages, as they come. */
export function follow(connection: Pick<NodeConnection, 'post'>, more: object = {}) {
  const stream = connection.post('/machine/map', { ...MAP, Stream: true, ...more });
  stream.on('error', () => {});
  const messages: Record<string, unknown>[] = [];
  let unread = Buffer.alloc(0);
  stream.on('data', (chunk: Buffer) => {
    unread = Buffer.concat([unread, chunk]);
    while (unread.length >= 4 && unread.length >= 4 + unread.readUInt32LE(0)) {
      const end = 4 + unread.readUInt32LE(0);
      messages.push(JSON.parse(unread.subarray(4, end).toString()));
      unread = unread.subarray(end);
    }
  });
  return { stream, messages };
}
