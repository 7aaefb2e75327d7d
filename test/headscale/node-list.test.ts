import { describe, expect, test } from 'vitest';
import { readNodeList } from '../../src/headscale/api.ts';
import { ANSWER_0_23, ANSWER_0_29, entry, machineKey, nodeInfo, nodeKey } from './node-answers.ts';

const of = (...entries: unknown[]) => readNodeList(JSON.stringify({ nodes: entries }));
const nodes = (...entries: unknown[]) => {
  const list = of(...entries);
  return list.ok ? list.nodes : list.why;
};

describe('readNodeList', () => {
  test('reads the answer of 0.29.2', () => {
    expect(readNodeList(ANSWER_0_29)).toEqual({
      ok: true,
      nodes: [
        {
          machineKey: 'c8da3be0bd652e0728a2f4b8fb108f5580541f79f030ac560805e6fac7c1af4a',
          nodeKey: 'd780d9cbcafcc7e7251f7ce7bb4af7d4d9c3fa7fe5b229ee77cb2c2940882763',
          ...{ id: '1', name: 'n-one', user: 'some-one' },
        },
        {
          machineKey: '8210c69d28ebf97ff00b8bf2425abe51243e289028d3155fbb7adda1d8aab936',
          nodeKey: '5f013fcf0d641e630a25a406f740d25a2d529a956e5b2f11ed07d5a6fd3bfb6c',
          ...{ id: '2', name: 'n-two', user: 'tagged-devices' },
        },
      ],
    });
  });

  test('reads the answer of 0.23.0', () => {
    expect(readNodeList(ANSWER_0_23)).toEqual({
      ok: true,
      nodes: [
        {
          machineKey: '4e27ade5a59d18e898acefab3ebe741ff33d32803bf07540a081f6b14bb465c5',
          nodeKey: 'eac5270f477bb5e42151060b27fc12f8b00ba925b099b110c856252efdb46334',
          ...{ id: '1', name: 'n-one', user: 'some-one' },
        },
      ],
    });
  });

  test('reads an empty list', () => {
    expect(nodes()).toEqual([]);
  });

  test('name: the host name, if there is no given name', () => {
    expect(nodes(entry('a', { givenName: '' }), entry('b', { givenName: undefined, name: undefined }))).toEqual([
      nodeInfo('a', { name: 'host' }),
      nodeInfo('b', { name: '' }),
    ]);
  });

  test.each([[undefined], [null], ['someone'], [{}], [{ name: 5 }]])('user: empty for %j', (user) => {
    expect(nodes(entry('a', { user }))).toEqual([nodeInfo('a', { user: '' })]);
  });

  test.each([
    [null],
    [5],
    ['text'],
    [[]],
    [{}],
    [entry('b', { machineKey: undefined })],
    [entry('b', { machineKey: 'b'.repeat(64) })],
    [entry('b', { machineKey: machineKey('B') })],
    [entry('b', { nodeKey: 'nodekey:b' })],
    [entry('b', { nodeKey: { text: nodeKey('b') } })],
  ])('leaves out an unreadable node: %j', (odd) => {
    expect(nodes(odd, entry('a'))).toEqual([nodeInfo('a')]);
  });

  test('for a machine of two users, it takes the node that is online, or else the one seen last', () => {
    const seen = (id: string, lastSeen: unknown, online = false) => entry('a', { id, lastSeen, online });
    const early = seen('1', '2026-01-01T00:00:00.5Z');
    const late = seen('2', '2026-01-01T00:00:00.50001Z');
    const later = seen('2', '2026-01-02T00:00:00Z');
    const [one, two, three] = ['1', '2', '3'].map((id) => nodeInfo('a', { id }));
    // None is online, so it is not clear which it is.
    expect(nodes(early, later)).toEqual([{ ...two, others: [one] }]);
    expect(nodes(later, early)).toEqual([{ ...two, others: [one] }]);
    expect(nodes(seen('1', null, true), later)).toEqual([nodeInfo('a', { id: '1' })]);
    expect(nodes(later, seen('1', null, true))).toEqual([nodeInfo('a', { id: '1' })]);
    expect(nodes(later, seen('3', 'nonsense'))).toEqual([{ ...two, others: [three] }]);
    // Two are: Headscale has not noticed yet that one has left.
    expect(nodes(seen('1', null, true), early, seen('3', null, true))).toEqual([{ ...three, others: [one] }]);
    // Nothing tells them apart: the one that was made last.
    expect(nodes(early, late)).toEqual([{ ...two, others: [one] }]);
  });

  test.each([
    ['', 'is not JSON'],
    ['<html>', 'is not JSON'],
    ['{"nodes":[', 'is not JSON'],
    ['null', "has no list 'nodes'"],
    ['[]', "has no list 'nodes'"],
    ['{}', "has no list 'nodes'"],
    ['{"nodes":null}', "has no list 'nodes'"],
    ['{"nodes":{"0":{}}}', "has no list 'nodes'"],
    ['{"nodes":[{},{}]}', 'has no readable node among 2'],
  ])('refuses %s', (text, why) => {
    expect(readNodeList(text)).toEqual({ ok: false, why });
  });
});
