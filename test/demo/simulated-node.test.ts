import { createServer, type IncomingMessage } from 'node:http';
import { afterEach, describe, expect, test } from 'vitest';
import { type ControlServer, startControlServer } from '../../src/demo/control-server.ts';
import { backoffMs, SimulatedNode } from '../../src/demo/simulated-node.ts';
import { Harness, until } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

async function acceptedNode(secondStream: 'refuse' | 'accept' = 'refuse') {
  const server = await startControlServer({ secondStream, keepaliveMs: 20 });
  harness.defer(() => server.close());
  const node = nodeAt(server.url);
  node.start();
  await node.accepted();
  return { server, node };
}

function nodeAt(serverUrl: URL): SimulatedNode {
  const node = new SimulatedNode({ name: 'node', serverUrl });
  harness.defer(() => node.stop());
  return node;
}

const sessionsOf = (server: ControlServer): number[] => server.streams().map(({ client }) => client.sessionId);

describe('SimulatedNode', () => {
  test('start: is accepted at the first try', async () => {
    const { node } = await acceptedNode();
    expect(node.state).toBe('accepted');
    expect(await node.accepted()).toMatchObject({ refusedTries: 0 });
  });

  test('freeze: the connection stays open, the server goes on sending', async () => {
    const { server, node } = await acceptedNode();
    node.freeze();
    expect(node.state).toBe('frozen');
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(sessionsOf(server)).toEqual([1]);
    await expect(async () => node.freeze()).rejects.toThrow('it cannot freeze');
  });

  test('comeBack: uses the same machine key on a new connection, while the frozen one stays open', async () => {
    const { server, node } = await acceptedNode('accept');
    node.freeze();
    node.comeBack();
    await node.accepted();
    expect(sessionsOf(server)).toEqual([1, 2]);
    expect(new Set(server.streams().map(({ client }) => client.machineKey))).toEqual(new Set([node.machineKey]));
  });

  test('comeBack: counts the refused tries, and says how long it took', async () => {
    const { node } = await acceptedNode();
    node.freeze();
    node.comeBack();
    await until(() => node.refusedTries === 3, 'three refusals');
    const triedMs = node.tryingMs;
    await node.dropFrozen();
    const { refusedTries, afterMs } = await node.accepted();
    expect(refusedTries).toBeGreaterThanOrEqual(3);
    expect(afterMs).toBeGreaterThanOrEqual(triedMs);
  });

  test('comeBack: works only for a frozen node', async () => {
    const { node } = await acceptedNode();
    expect(() => node.comeBack()).toThrow('node is accepted: it cannot come back');
  });

  test('stop: leaves no stream and no connection, frozen or not', async () => {
    const { server, node } = await acceptedNode('accept');
    node.freeze();
    node.comeBack();
    await node.accepted();
    await node.stop();
    await until(() => server.streams().length === 0, 'the server has seen both ends');
    expect(node.state).toBe('stopped');
  });

  test('stop: a caller that waits for acceptance gets an error', async () => {
    const { node } = await acceptedNode();
    node.freeze();
    node.comeBack();
    await until(() => node.refusedTries > 0, 'a refusal');
    const waiting = node.accepted();
    const learned = expect(waiting).rejects.toThrow('node was stopped before it was accepted');
    await node.stop();
    await learned;
  });

  test('reconnects after it lost its connection', async () => {
    const { server, node } = await acceptedNode();
    const { port } = server.url;
    await server.close();
    await until(() => node.state === 'trying', 'the node has lost its connection');
    const next = await startControlServer({ secondStream: 'refuse', port: Number(port) });
    harness.defer(() => next.close());
    // Its key is another one: a node asks for it at every connection.
    await until(() => sessionsOf(next).length === 1, 'the node is back');
  });

  test('upgrades with the headers of a real client, in their order', async () => {
    let heard: IncomingMessage | undefined;
    const server = createServer((_request, response) => response.end(`{"publicKey":"mkey:${'09'.padEnd(64, '0')}"}`));
    server.on('upgrade', (request, socket) => {
      heard = request;
      socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    harness.defer(() => new Promise((resolve) => server.close(resolve)));
    nodeAt(new URL(`http://127.0.0.1:${port}`)).start();
    await until(() => heard !== undefined, 'an upgrade');
    expect(`${heard?.method} ${heard?.url}`).toBe('POST /ts2021');
    expect(heard?.rawHeaders).toEqual([
      ...['Host', `127.0.0.1:${port}`, 'User-Agent', 'Go-http-client/1.1', 'Content-Length', '0'],
      ...['Connection', 'upgrade', 'Upgrade', 'tailscale-control-protocol'],
      ...['X-Tailscale-Handshake', expect.stringMatching(/^[A-Za-z0-9+/]{135}=$/)],
    ]);
  });
});

describe('backoffMs', () => {
  test.each([
    [1, 10],
    [2, 40],
    [10, 1000],
    [54, 29_160],
    [55, 30_000],
    [1000, 30_000],
  ])('after %d failures it is %d ms, plus or minus half', (failures, ms) => {
    expect(backoffMs(failures, 0.5)).toBe(ms);
    expect(backoffMs(failures, 0)).toBe(ms / 2);
    expect(backoffMs(failures, 1)).toBe(ms * 1.5);
  });
});
