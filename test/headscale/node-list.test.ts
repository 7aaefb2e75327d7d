import { describe, expect, test } from 'vitest';
import { readNodeList } from '../../src/headscale/node-list.ts';
import {
  ANSWER_0_22,
  ANSWER_0_23,
  ANSWER_0_29,
  ANSWER_V2,
  entry,
  machineKey,
  NOTHING_MORE,
  nodeInfo,
  nodeKey,
} from './node-answers.ts';

const of = (...entries: unknown[]) => readNodeList(JSON.stringify({ nodes: entries }), 'nodes');
const nodes = (...entries: unknown[]) => {
  const list = of(...entries);
  return list.ok ? list.nodes : list.why;
};

describe('readNodeList', () => {
  test('reads the answer of 0.29.2', () => {
    expect(readNodeList(ANSWER_0_29, 'nodes')).toEqual({
      ok: true,
      nodes: [
        {
          machineKey: 'c8da3be0bd652e0728a2f4b8fb108f5580541f79f030ac560805e6fac7c1af4a',
          nodeKey: 'd780d9cbcafcc7e7251f7ce7bb4af7d4d9c3fa7fe5b229ee77cb2c2940882763',
          ...{ ...NOTHING_MORE, id: '1', name: 'n-one', user: 'some-one', addresses: ['100.64.0.1'] },
          ...{ online: false, lastSeen: new Date('2026-11-23T22:55:38.622Z'), isEphemeral: false },
        },
        {
          machineKey: '8210c69d28ebf97ff00b8bf2425abe51243e289028d3155fbb7adda1d8aab936',
          nodeKey: '5f013fcf0d641e630a25a406f740d25a2d529a956e5b2f11ed07d5a6fd3bfb6c',
          ...{ ...NOTHING_MORE, id: '2', name: 'n-two', user: 'tagged-devices', addresses: ['100.64.0.2'] },
          ...{ online: false, lastSeen: new Date('2026-11-23T22:55:39.305Z'), isEphemeral: false, tags: ['tag:x'] },
        },
      ],
    });
  });

  test('reads the answer of 0.23.0', () => {
    expect(readNodeList(ANSWER_0_23, 'nodes')).toEqual({
      ok: true,
      nodes: [
        {
          machineKey: '4e27ade5a59d18e898acefab3ebe741ff33d32803bf07540a081f6b14bb465c5',
          nodeKey: 'eac5270f477bb5e42151060b27fc12f8b00ba925b099b110c856252efdb46334',
          ...{ ...NOTHING_MORE, id: '1', name: 'n-one', user: 'some-one', addresses: ['100.64.0.1'] },
          ...{ online: false, isEphemeral: false },
        },
      ],
    });
  });

  test('reads the machines of 0.22.3, whose keys have no prefix', () => {
    expect(readNodeList(ANSWER_0_22, 'machines')).toEqual({
      ok: true,
      nodes: [
        nodeInfo('a', {
          ...{ id: '1', name: 'n1', user: 'u', addresses: ['100.64.0.1'], tags: ['tag:x'] },
          ...{ online: true, lastSeen: new Date('2026-11-27T06:40:00.5Z'), isEphemeral: false },
        }),
      ],
    });
    expect(readNodeList(ANSWER_0_22, 'nodes')).toEqual({ ok: false, why: "has no list 'nodes'" });
  });

  test('reads the devices of the v2 API: who has no lastSeen is online', () => {
    expect(readNodeList(ANSWER_V2, 'devices')).toEqual({
      ok: true,
      nodes: [
        nodeInfo('a', {
          ...{ id: '1', name: 'phone', user: 'someone', addresses: ['100.64.0.1'], tags: [] },
          ...{ online: true, os: 'linux', clientVersion: '1.102.3', isEphemeral: false },
        }),
        nodeInfo('b', {
          ...{ id: '2', name: 'router', user: 'tagged-devices', addresses: ['100.64.0.2'], tags: ['tag:x'] },
          ...{ online: false, lastSeen: new Date('2026-11-27T06:40:00.5Z'), expiry: new Date('2027-01-01T00:00:00Z') },
          ...{ os: undefined, clientVersion: undefined, isEphemeral: true },
        }),
      ],
    });
  });

  test.each([
    ['lastSeen', 5, { online: undefined }],
    ['lastSeen', null, { online: undefined }],
    ['lastSeen', '0001-01-01T00:00:00Z', { online: false }],
    ['expires', 'never', { expiry: undefined }],
    ['os', 5, { os: undefined }],
    ['isEphemeral', 'no', { isEphemeral: undefined }],
    ['name', undefined, { name: 'host' }],
    ['user', null, { user: '' }],
    ['addresses', {}, { addresses: [] }],
    ['tags', null, { tags: [] }],
  ])('a device whose %s is %j is listed, with %j', (field, value, read) => {
    const device = { id: '1', machineKey: machineKey('a'), nodeKey: nodeKey('a'), name: 'node-a', hostname: 'host' };
    const text = JSON.stringify({ devices: [{ ...device, user: 'someone', [field]: value }] });
    const plain = nodeInfo('a', { online: true });
    expect(readNodeList(text, 'devices')).toEqual({ ok: true, nodes: [{ ...plain, ...read }] });
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
  ])('leaves out an unreadable node, and counts it: %j', (odd) => {
    expect(nodes(odd, entry('a'))).toEqual(Object.assign([nodeInfo('a')], { unreadable: 1 }));
  });

  test('reads when a node was last seen, when its key expires, and whether it is ephemeral', () => {
    const times = { lastSeen: '2026-01-02T03:04:05.678912Z', expiry: '2026-06-01T00:00:00Z' };
    expect(nodes(entry('a', { ...times, online: true, preAuthKey: { id: '1', ephemeral: true } }))).toEqual([
      nodeInfo('a', {
        lastSeen: new Date('2026-01-02T03:04:05.678Z'),
        expiry: new Date('2026-06-01T00:00:00Z'),
        ...{ online: true, isEphemeral: true },
      }),
    ]);
  });

  test("tags: an admin's, and those that a node before 0.28 asked for and may have, each once", () => {
    const before = { forcedTags: ['tag:x', 'tag:y'], validTags: ['tag:y', 'tag:z'], invalidTags: ['tag:no'] };
    expect(nodes(entry('a', before), entry('b', { tags: ['tag:x'] }))).toEqual([
      nodeInfo('a', { tags: ['tag:x', 'tag:y', 'tag:z'] }),
      nodeInfo('b', { tags: ['tag:x'] }),
    ]);
  });

  test.each([
    ['ipAddresses', null, 'addresses', []],
    ['ipAddresses', ['100.64.0.1', 5, null], 'addresses', ['100.64.0.1']],
    ['tags', 'tag:x', 'tags', []],
    ['tags', [{}], 'tags', []],
    ['online', 'yes', 'online', undefined],
    ['online', null, 'online', undefined],
    ['lastSeen', '0001-01-01T00:00:00Z', 'lastSeen', undefined],
    ['lastSeen', null, 'lastSeen', undefined],
    ['lastSeen', 'nonsense', 'lastSeen', undefined],
    ['expiry', '0001-01-01T00:00:00Z', 'expiry', undefined],
    ['expiry', 5, 'expiry', undefined],
    ['preAuthKey', null, 'isEphemeral', false],
    ['preAuthKey', 'text', 'isEphemeral', undefined],
    ['preAuthKey', { ephemeral: 'yes' }, 'isEphemeral', undefined],
  ])('a node whose %s is %j is listed, with %s %j', (field, value, name, read) => {
    expect(nodes(entry('a', { [field]: value }))).toStrictEqual([nodeInfo('a', { [name]: read })]);
  });

  test('for a machine of two users, it takes the node that is online, or else the one seen last', () => {
    const seen = (id: string, lastSeen: unknown, online = false) => entry('a', { id, lastSeen, online });
    const early = seen('1', '2026-01-01T00:00:00.5Z');
    const late = seen('2', '2026-01-01T00:00:00.50001Z');
    const later = seen('2', '2026-01-02T00:00:00Z');
    const asRead = (id: string, lastSeen?: string, online = false) =>
      nodeInfo('a', { id, online, lastSeen: lastSeen === undefined ? undefined : new Date(lastSeen) });
    const one = asRead('1', '2026-01-01T00:00:00.5Z');
    const two = asRead('2', '2026-01-02T00:00:00Z');
    // None is online, so it is not clear which it is.
    expect(nodes(early, later)).toEqual([{ ...two, others: [one] }]);
    expect(nodes(later, early)).toEqual([{ ...two, others: [one] }]);
    expect(nodes(seen('1', null, true), later)).toEqual([asRead('1', undefined, true)]);
    expect(nodes(later, seen('1', null, true))).toEqual([asRead('1', undefined, true)]);
    expect(nodes(later, seen('3', 'nonsense'))).toEqual([{ ...two, others: [asRead('3')] }]);
    // Two are: Headscale has not noticed yet that one has left.
    expect(nodes(seen('1', null, true), early, seen('3', null, true))).toEqual([
      { ...asRead('3', undefined, true), others: [asRead('1', undefined, true)] },
    ]);
    // Nothing tells them apart: the one that was made last.
    expect(nodes(early, late)).toEqual([{ ...asRead('2', '2026-01-01T00:00:00.5Z'), others: [one] }]);
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
    expect(readNodeList(text, 'nodes')).toEqual({ ok: false, why });
  });
});
