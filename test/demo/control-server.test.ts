import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import { readNodeList } from '../../src/headscale/node-list.ts';
import { formatNoiseKey, parseNoiseKey } from '../../src/identity/noise.ts';
import { Harness, until } from '../support/harness.ts';
import {
  answer,
  connection,
  controlServer,
  follow,
  halfOpenConnection,
  MAP,
  NODE_KEY,
  REGISTER,
} from './control-lab.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

describe('control server, outside a Noise session', () => {
  test('/key answers with the public half of its key file', async () => {
    const { server } = await controlServer(harness);
    const key = parseNoiseKey(server.noiseKeyFile());
    const response = await fetch(new URL('/key?v=142', server.url));
    expect(await response.json()).toEqual({
      legacyPublicKey: `mkey:${'0'.repeat(64)}`,
      publicKey: key && formatNoiseKey(key),
    });
  });

  test('/version exists only if it accepts second streams, /health always', async () => {
    const { server: refusing } = await controlServer(harness);
    const { server: accepting } = await controlServer(harness, { secondStream: 'accept' });
    expect((await fetch(new URL('/version', refusing.url))).status).toBe(404);
    expect(await (await fetch(new URL('/version', accepting.url))).json()).toMatchObject({ version: 'v0.29.2' });
    for (const { url } of [refusing, accepting]) {
      expect(await (await fetch(new URL('/health', url))).json()).toEqual({ status: 'pass' });
    }
  });

  test('with an API key it lists its nodes, as Headscale does, and only for that key', async () => {
    const { server } = await controlServer(harness, { secondStream: 'accept', apiKey: 'secret' });
    const { url } = server;
    const ask = (key: string) => fetch(new URL('/api/v1/node', url), { headers: { authorization: `Bearer ${key}` } });
    expect((await ask('wrong')).status).toBe(401);
    expect(readNodeList(await (await ask('secret')).text(), 'nodes')).toEqual({ ok: true, nodes: [] });
    const { server: without } = await controlServer(harness, { secondStream: 'accept' });
    expect((await fetch(new URL('/api/v1/node', without.url))).status).toBe(404);
  });

  test('an upgrade with an unreadable handshake is closed and reported', async () => {
    const { server, events } = await controlServer(harness);
    const socket = connect(Number(server.url.port), '127.0.0.1');
    harness.defer(() => socket.destroy());
    socket.write(
      'POST /ts2021 HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: tailscale-control-protocol\r\n' +
        `X-Tailscale-Handshake: ${Buffer.alloc(101).toString('base64')}\r\nContent-Length: 0\r\n\r\n`,
    );
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 101 [\s\S]*\r\n\r\n$/);
    expect(events).toMatchObject([{ kind: 'handshake failed', why: 'type' }]);
  });
});

describe('control server, inside a Noise session', () => {
  test('logs everybody in, answers a read-only map request and an update, and refuses a map request without a login', async () => {
    const { server } = await controlServer(harness);
    const client = await connection(harness, server.url);
    expect((await answer(client, '/machine/map', { ...MAP, Stream: true })).status).toBe(500);
    const registered = await answer(client, '/machine/register', REGISTER);
    expect(JSON.parse(registered.content)).toMatchObject({ MachineAuthorized: true, AuthURL: '' });
    expect(await answer(client, '/machine/map', { ...MAP, OmitPeers: true })).toEqual({ status: 200, content: '' });
    const readOnly = await answer(client, '/machine/map', { ...MAP, OmitPeers: true, ReadOnly: true });
    expect(JSON.parse(readOnly.content.slice(4))).toMatchObject({ Node: { Key: NODE_KEY, Name: 'node.demo.' } });
    expect((await answer(client, '/machine/map', { ...MAP, Version: 57 })).status).toBe(400);
    expect((await answer(client, '/machine/other', {})).status).toBe(404);
  });

  test('a map stream starts with a full map and continues with keepalives', async () => {
    const { server } = await controlServer(harness, { keepaliveMs: 20 });
    const client = await connection(harness, server.url);
    await answer(client, '/machine/register', REGISTER);
    const { messages } = follow(client);
    await until(() => messages.length >= 3, 'two keepalives');
    expect(messages[0]).toMatchObject({ Node: { Addresses: ['100.64.0.1/32', 'fd7a:115c:a1e0::1/128'] }, Peers: [] });
    expect(messages.slice(1).every(({ KeepAlive }) => KeepAlive === true)).toBe(true);
  });

  test('after a client has reset its stream, the next one is accepted in the same session', async () => {
    const { server, count } = await controlServer(harness);
    const client = await connection(harness, server.url);
    await answer(client, '/machine/register', REGISTER);
    const first = follow(client);
    await until(() => first.messages.length === 1, 'the first stream');
    first.stream.close();
    await until(() => count('stream ended') === 1, 'the first stream is forgotten');
    const second = follow(client);
    await until(() => second.messages.length === 1, 'the second stream');
    expect(server.refusals).toBe(0);
  });

  test("a client's FIN ends its session, even if the client still reads", async () => {
    const { server, count } = await controlServer(harness);
    const { machine, socket, client } = await halfOpenConnection(harness, server);
    await answer(client, '/machine/register', REGISTER);
    const { messages } = follow(client);
    await until(() => messages.length === 1, 'the stream');
    socket.end();
    await until(() => count('session closed') === 1, 'the session is closed');
    expect(server.streams()).toEqual([]);
    const next = await connection(harness, server.url, machine);
    follow(next);
    await until(() => server.streams().length === 1, 'the next stream');
  });

  test('a read-only stream does not count, and is never refused', async () => {
    const { server } = await controlServer(harness);
    const client = await connection(harness, server.url);
    await answer(client, '/machine/register', REGISTER);
    const one = follow(client, { ReadOnly: true });
    const two = follow(client);
    const three = follow(client, { ReadOnly: true });
    await until(() => [one, two, three].every(({ messages }) => messages.length === 1), 'three streams');
    expect(server.streams()).toHaveLength(1);
  });
});
