import { afterEach, describe, expect, test } from 'vitest';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { Harness, until } from '../support/harness.ts';
import { answer, connection, controlServer, follow, MAP, REGISTER, simulatedNode } from './control-lab.ts';

/** As long as Headscale gathers changes. */
const BATCH_MS = 800;

const harness = new Harness();
afterEach(() => harness.closeAll());

describe('control server, second stream of a node', () => {
  test('refusing: the node gets an empty 200, and tries again in the same Noise session', async () => {
    const { server, events, count } = await controlServer(harness);
    const node = simulatedNode(harness, server.url);
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

  test('refusing: the answer is a 200 with an empty body', async () => {
    const { server } = await controlServer(harness);
    const machine = generateNoiseKey();
    const first = await connection(harness, server.url, machine);
    await answer(first, '/machine/register', REGISTER);
    const { messages } = follow(first);
    await until(() => messages.length === 1, 'the first stream');
    const second = await connection(harness, server.url, machine);
    expect(await answer(second, '/machine/map', { ...MAP, Stream: true })).toEqual({ status: 200, content: '' });
  });

  test('refusing: stops when the connection of the old stream ends', async () => {
    const { server, events } = await controlServer(harness);
    const node = simulatedNode(harness, server.url);
    node.start();
    await node.accepted();
    node.freeze();
    node.comeBack();
    await until(() => node.refusedTries >= 2, 'two refusals');
    await node.dropFrozen();
    expect((await node.accepted()).refusedTries).toBeGreaterThanOrEqual(2);
    const kinds = events.map(({ kind }) => kind).filter((kind) => kind.startsWith('stream'));
    // Refused until the old stream has ended, accepted at the first try after that.
    expect(kinds.slice(kinds.lastIndexOf('stream refused'))).toEqual([
      'stream refused',
      'stream ended',
      'stream accepted',
    ]);
    expect(server.streams().map(({ client }) => client.sessionId)).toEqual([2]);
  });

  test('refusing: does not affect another node', async () => {
    const { server } = await controlServer(harness);
    const [one, other] = [simulatedNode(harness, server.url), simulatedNode(harness, server.url)];
    one.start();
    other.start();
    await Promise.all([one.accepted(), other.accepted()]);
    expect(server.refusals).toBe(0);
    expect(server.streams()).toHaveLength(2);
  });

  test.each(['refuse', 'accept'] as const)('%s: who hears what a node reports about itself', async (secondStream) => {
    const clock = new FakeClock();
    const { server } = await controlServer(harness, { secondStream, clock });
    const machine = generateNoiseKey();
    const [own, other] = [await connection(harness, server.url, machine), await connection(harness, server.url)];
    const streams: ReturnType<typeof follow>[] = [];
    for (const each of [own, other]) {
      await answer(each, '/machine/register', REGISTER);
      streams.push(follow(each));
    }
    await until(() => streams.every(({ messages }) => messages.length === 1), 'both streams');
    const newcomer = await connection(harness, server.url, machine);
    await answer(newcomer, '/machine/map', { ...MAP, OmitPeers: true });
    clock.advance(BATCH_MS);
    // Whatever was sent on its stream came before this answer.
    for (const each of [own, other]) await answer(each, '/machine/map', { ...MAP, OmitPeers: true, ReadOnly: true });
    const [told, toldOther] = streams.map(({ messages }) => messages.slice(1));
    expect(told).toMatchObject(secondStream === 'refuse' ? [{ PacketFilter: [{ SrcIPs: ['*'] }] }] : []);
    expect(toldOther).toEqual([]);
  });

  test('accepting: the new stream is accepted beside the old one', async () => {
    const { server } = await controlServer(harness, { secondStream: 'accept' });
    const node = simulatedNode(harness, server.url);
    node.start();
    await node.accepted();
    node.freeze();
    node.comeBack();
    expect((await node.accepted()).refusedTries).toBe(0);
    expect(server.streams().map(({ client }) => client.sessionId)).toEqual([1, 2]);
  });
});
