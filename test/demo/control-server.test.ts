import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import type { ControlEvent } from '../../src/demo/control-events.ts';
import { type ControlServerOptions, startControlServer } from '../../src/demo/control-server.ts';
import { type NodeConnection, openNodeConnection } from '../../src/demo/node-connection.ts';
import { generateNoiseKey } from '../../src/demo/noise-key.ts';
import { SimulatedNode } from '../../src/demo/simulated-node.ts';
import { formatNoiseKey, parseNoiseKey } from '../../src/identity/machine-key.ts';
import { Harness, until } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

async function controlServer(options: Partial<ControlServerOptions> = {}) {
  const events: ControlEvent[] = [];
  const onEvent = (event: ControlEvent): void => void events.push(event);
  const server = await startControlServer({ secondStream: 'refuse', onEvent, ...options });
  harness.defer(() => server.close());
  const count = (kind: ControlEvent['kind']): number => events.filter((event) => event.kind === kind).length;
  return { server, events, count };
}

function simulatedNode(serverUrl: URL): SimulatedNode {
  const node = new SimulatedNode({ name: 'node', serverUrl });
  harness.defer(() => node.stop());
  return node;
}

async function connection(serverUrl: URL, machine = generateNoiseKey()): Promise<NodeConnection> {
  const opened = await openNodeConnection(serverUrl, machine, new AbortController().signal);
  harness.defer(async () => {
    opened.close();
    await opened.closed;
  });
  return opened;
}

const NODE_KEY = `nodekey:${'ab'.repeat(32)}`;
const REGISTER = { Version: 142, NodeKey: NODE_KEY, Hostinfo: { Hostname: 'node' } };
const MAP = { Version: 142, NodeKey: NODE_KEY };

async function answer(connection: NodeConnection, path: string, body: object) {
  const stream = connection.post(path, body);
  const status = new Promise<unknown>((resolve) => stream.once('response', (headers) => resolve(headers[':status'])));
  const content = await text(stream);
  return { status: await status, content };
}

/** Opens a map stream. @returns its messages, as they come. */
function follow(connection: NodeConnection, more: object = {}) {
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

describe('control server, outside a Noise session', () => {
  test('/key has the public half of its key file', async () => {
    const { server } = await controlServer();
    const key = parseNoiseKey(server.noiseKeyFile());
    const response = await fetch(new URL('/key?v=142', server.url));
    expect(await response.json()).toEqual({
      legacyPublicKey: `mkey:${'0'.repeat(64)}`,
      publicKey: key && formatNoiseKey(key),
    });
  });

  test('/version is there in accepting mode only, /health in both', async () => {
    const { server: refusing } = await controlServer();
    const { server: accepting } = await controlServer({ secondStream: 'accept' });
    expect((await fetch(new URL('/version', refusing.url))).status).toBe(404);
    expect(await (await fetch(new URL('/version', accepting.url))).json()).toMatchObject({ version: 'v0.29.2' });
    for (const { url } of [refusing, accepting]) {
      expect(await (await fetch(new URL('/health', url))).json()).toEqual({ status: 'pass' });
    }
  });

  test('an upgrade whose handshake cannot be read is closed, and said', async () => {
    const { server, events } = await controlServer();
    const socket = connect(Number(server.url.port), '127.0.0.1');
    harness.defer(() => socket.destroy());
    socket.write(
      'POST /ts2021 HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: tailscale-control-protocol\r\n' +
        `X-Tailscale-Handshake: ${Buffer.alloc(101).toString('base64')}\r\nContent-Length: 0\r\n\r\n`,
    );
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 101 [^]*\r\n\r\n$/);
    expect(events).toMatchObject([{ kind: 'handshake failed', why: 'type' }]);
  });
});

describe('control server, inside a Noise session', () => {
  test('logs anyone in, answers a read-only map and an update, and refuses strangers', async () => {
    const { server } = await controlServer();
    const client = await connection(server.url);
    expect((await answer(client, '/machine/map', { ...MAP, Stream: true })).status).toBe(500);
    const registered = await answer(client, '/machine/register', REGISTER);
    expect(JSON.parse(registered.content)).toMatchObject({ MachineAuthorized: true, AuthURL: '' });
    expect(await answer(client, '/machine/map', { ...MAP, OmitPeers: true })).toEqual({ status: 200, content: '' });
    const readOnly = await answer(client, '/machine/map', { ...MAP, OmitPeers: true, ReadOnly: true });
    expect(JSON.parse(readOnly.content.slice(4))).toMatchObject({ Node: { Key: NODE_KEY, Name: 'node.demo.' } });
    expect((await answer(client, '/machine/map', { ...MAP, Version: 57 })).status).toBe(400);
    expect((await answer(client, '/machine/other', {})).status).toBe(404);
  });

  test('a map stream begins with a full map and goes on with keepalives', async () => {
    const { server } = await controlServer({ keepaliveMs: 20 });
    const client = await connection(server.url);
    await answer(client, '/machine/register', REGISTER);
    const { messages } = follow(client);
    await until(() => messages.length >= 3, 'two keepalives');
    expect(messages[0]).toMatchObject({ Node: { Addresses: ['100.64.0.1/32', 'fd7a:115c:a1e0::1/128'] }, Peers: [] });
    expect(messages.slice(1).every(({ KeepAlive }) => KeepAlive === true)).toBe(true);
  });

  test('a stream that its client resets is forgotten: the next is accepted in the same session', async () => {
    const { server, count } = await controlServer();
    const client = await connection(server.url);
    await answer(client, '/machine/register', REGISTER);
    const first = follow(client);
    await until(() => first.messages.length === 1, 'the first stream');
    first.stream.close();
    await until(() => count('stream ended') === 1, 'the first stream is forgotten');
    const second = follow(client);
    await until(() => second.messages.length === 1, 'the second stream');
    expect(server.refusals).toBe(0);
  });

  test('a read-only stream neither counts nor is refused', async () => {
    const { server } = await controlServer();
    const client = await connection(server.url);
    await answer(client, '/machine/register', REGISTER);
    const one = follow(client, { ReadOnly: true });
    const two = follow(client);
    const three = follow(client, { ReadOnly: true });
    await until(() => [one, two, three].every(({ messages }) => messages.length === 1), 'three streams');
    expect(server.streams()).toHaveLength(1);
  });
});

describe('control server, second stream of a node', () => {
  test('refusing: an empty 200, and the node tries again within the same Noise session', async () => {
    const { server, events, count } = await controlServer();
    const node = simulatedNode(server.url);
    node.start();
    await node.accepted();
    node.freeze();
    node.comeBack();
    await until(() => server.refusals >= 4, 'four refusals');
    const sessions = events.flatMap((event) => (event.kind === 'stream refused' ? [event.client.sessionId] : []));
    expect(new Set(sessions)).toEqual(new Set([2]));
    expect(count('session opened')).toBe(2);
    expect(events.find(({ kind }) => kind === 'stream refused')).toMatchObject({
      message: 'node has an open stream, rejecting new stream',
      hostname: 'node',
    });
    const sameNode = server.streams().map(({ client }) => [client.sessionId, client.machineKey]);
    expect(sameNode).toEqual([[1, node.machineKey]]);
  });

  test('refusing: the answer is a 200 without a byte', async () => {
    const { server } = await controlServer();
    const machine = generateNoiseKey();
    const first = await connection(server.url, machine);
    await answer(first, '/machine/register', REGISTER);
    const { messages } = follow(first);
    await until(() => messages.length === 1, 'the first stream');
    const second = await connection(server.url, machine);
    expect(await answer(second, '/machine/map', { ...MAP, Stream: true })).toEqual({ status: 200, content: '' });
  });

  test('refusing: ends when the connection of the old stream ends', async () => {
    const { server, events } = await controlServer();
    const node = simulatedNode(server.url);
    node.start();
    await node.accepted();
    node.freeze();
    node.comeBack();
    await until(() => node.refusedTries >= 2, 'two refusals');
    await node.dropFrozen();
    expect((await node.accepted()).refusedTries).toBeGreaterThanOrEqual(2);
    const kinds = events.map(({ kind }) => kind).filter((kind) => kind.startsWith('stream'));
    expect(kinds.slice(kinds.indexOf('stream ended'))[0]).toBe('stream ended');
    expect(kinds.at(-1)).toBe('stream accepted');
    expect(server.streams().map(({ client }) => client.sessionId)).toEqual([2]);
  });

  test('refusing: another node is none of its business', async () => {
    const { server } = await controlServer();
    const [one, other] = [simulatedNode(server.url), simulatedNode(server.url)];
    one.start();
    other.start();
    await Promise.all([one.accepted(), other.accepted()]);
    expect(server.refusals).toBe(0);
    expect(server.streams()).toHaveLength(2);
  });

  test('accepting: takes it beside the old one', async () => {
    const { server } = await controlServer({ secondStream: 'accept' });
    const node = simulatedNode(server.url);
    node.start();
    await node.accepted();
    node.freeze();
    node.comeBack();
    expect((await node.accepted()).refusedTries).toBe(0);
    expect(server.streams().map(({ client }) => client.sessionId)).toEqual([1, 2]);
  });
});
