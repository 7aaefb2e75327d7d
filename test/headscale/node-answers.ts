import { type MachineKey, type NodeKey, parseMachineKey, parseNodeKey } from '../../src/identity/keys.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';

/** What Headscale 0.29.2 answers to `GET /api/v1/node`, cut to a user's node and a tagged one. */
export const ANSWER_0_29 =
  '{"nodes":[{"id":"1", "machineKey":"mkey:c8da3be0bd652e0728a2f4b8fb108f5580541f79f030ac560805e6fac7c1af4a", "nodeKey":"nodekey:d780d9cbcafcc7e7251f7ce7bb4af7d4d9c3fa7fe5b229ee77cb2c2940882763", "discoKey":"discokey:0000000000000000000000000000000000000000000000000000000000000000", "ipAddresses":["100.64.0.1"], "name":"n-one", "user":{"id":"1", "name":"some-one", "createdAt":"2026-11-23T22:55:17.563434136Z", "displayName":"", "email":"", "providerId":"", "provider":"", "profilePicUrl":""}, "lastSeen":"2026-11-23T22:55:38.622572610Z", "expiry":"0001-01-01T00:00:00Z", "preAuthKey":null, "createdAt":"2026-11-23T22:55:38.622884594Z", "registerMethod":"REGISTER_METHOD_CLI", "givenName":"n-one", "online":false, "approvedRoutes":[], "availableRoutes":[], "subnetRoutes":[], "tags":[]}, {"id":"2", "machineKey":"mkey:8210c69d28ebf97ff00b8bf2425abe51243e289028d3155fbb7adda1d8aab936", "nodeKey":"nodekey:5f013fcf0d641e630a25a406f740d25a2d529a956e5b2f11ed07d5a6fd3bfb6c", "discoKey":"discokey:0000000000000000000000000000000000000000000000000000000000000000", "ipAddresses":["100.64.0.2"], "name":"n-two", "user":{"id":"2147455555", "name":"tagged-devices", "createdAt":"0001-01-01T00:00:00Z", "displayName":"Tagged Devices", "email":"", "providerId":"", "provider":"", "profilePicUrl":""}, "lastSeen":"2026-11-23T22:55:39.305990655Z", "expiry":"0001-01-01T00:00:00Z", "preAuthKey":null, "createdAt":"2026-11-23T22:55:39.306241908Z", "registerMethod":"REGISTER_METHOD_CLI", "givenName":"n-two", "online":false, "approvedRoutes":[], "availableRoutes":[], "subnetRoutes":[], "tags":["tag:x"]}]}';

/** The same of 0.23.0, cut to one node. */
export const ANSWER_0_23 =
  '{"nodes":[{"id":"1", "machineKey":"mkey:4e27ade5a59d18e898acefab3ebe741ff33d32803bf07540a081f6b14bb465c5", "nodeKey":"nodekey:eac5270f477bb5e42151060b27fc12f8b00ba925b099b110c856252efdb46334", "discoKey":"discokey:0000000000000000000000000000000000000000000000000000000000000000", "ipAddresses":["100.64.0.1"], "name":"n-one", "user":{"id":"1", "name":"some-one", "createdAt":"2026-11-23T22:55:17.591598019Z"}, "lastSeen":"0001-01-01T00:00:00Z", "expiry":"0001-01-01T00:00:00Z", "preAuthKey":null, "createdAt":"2026-11-23T22:55:39.240788038Z", "registerMethod":"REGISTER_METHOD_CLI", "forcedTags":[], "invalidTags":[], "validTags":[], "givenName":"n-one", "online":false}]}';

const [A, B] = ['a'.repeat(64), 'b'.repeat(64)];

/** What Headscale 0.22.3 answers to `GET /api/v1/machine`, with other keys and times. */
export const ANSWER_0_22 = `{"machines":[{"id":"1","machineKey":"${A}","nodeKey":"${A}","discoKey":"${B}","ipAddresses":["100.64.0.1"],"name":"n1","user":{"id":"1","name":"u","createdAt":"2026-11-27T06:26:53.644094996Z"},"lastSeen":"2026-11-27T06:40:00.500000000Z","lastSuccessfulUpdate":"0001-01-01T00:00:00Z","expiry":"0001-01-01T00:00:00Z","preAuthKey":null,"createdAt":"2026-11-27T06:27:01.033971716Z","registerMethod":"REGISTER_METHOD_UNSPECIFIED","forcedTags":["tag:x"],"invalidTags":[],"validTags":[],"givenName":"n1","online":true}]}`;

/** What Headscale 0.30 (its main of July 2026) answers to `GET /api/v2/tailnet/-/devices`, with other keys and times. */
export const ANSWER_V2 = `{"devices":[{"addresses":["100.64.0.1"],"name":"phone","id":"1","nodeId":"1","authorized":true,"user":"someone","tags":[],"keyExpiryDisabled":true,"created":"2026-11-27T06:27:01.033971716Z","hostname":"host","isEphemeral":false,"machineKey":"mkey:${A}","nodeKey":"nodekey:${A}","os":"linux","clientVersion":"1.102.3","updateAvailable":false},{"addresses":["100.64.0.2"],"name":"router","id":"2","nodeId":"2","authorized":true,"user":"tagged-devices","tags":["tag:x"],"keyExpiryDisabled":false,"created":"2026-11-27T06:27:01.033971716Z","expires":"2027-01-01T00:00:00Z","hostname":"host","isEphemeral":true,"lastSeen":"2026-11-27T06:40:00.500000000Z","machineKey":"mkey:${B}","nodeKey":"nodekey:${B}","os":"","clientVersion":"","updateAvailable":false}]}`;

/** What a node has of which the API says nothing. */
export const NOTHING_MORE = {
  ...{ addresses: [], tags: [] },
  ...{ online: undefined, lastSeen: undefined, expiry: undefined },
  ...{ os: undefined, clientVersion: undefined, isEphemeral: undefined },
} as const;

export const machineKey = (digit: string): string => `mkey:${digit.repeat(64)}`;
export const nodeKey = (digit: string): string => `nodekey:${digit.repeat(64)}`;

/** A node as the API has it: what a test says, and the rest as usual. */
export function entry(digit: string, more: object = {}): object {
  const keys = { machineKey: machineKey(digit), nodeKey: nodeKey(digit) };
  return { id: '1', ...keys, name: 'host', givenName: `node-${digit}`, user: { id: '1', name: 'someone' }, ...more };
}

export function nodeInfo(digit: string, more: Partial<NodeInfo> = {}): NodeInfo {
  const keys = {
    machineKey: parseMachineKey(machineKey(digit)) as MachineKey,
    nodeKey: parseNodeKey(nodeKey(digit)) as NodeKey,
  };
  return { ...keys, ...NOTHING_MORE, id: '1', name: `node-${digit}`, user: 'someone', ...more };
}
