import assert from 'node:assert/strict';
import fc from 'fast-check';
import { decodeHandshakeHeader } from '../../src/identity/initiation.ts';
import { identify } from '../../src/identity/noise.ts';
import { initiations, noiseKeyOf } from '../support/initiations.ts';
import { bytes, mutated, target } from './target.ts';

const recorded = initiations[0];
const key = noiseKeyOf(recorded);
const genuine = Buffer.from(recorded.header, 'base64');

/** The genuine one with a single byte changed, wherever it is. */
const forged = fc.tuple(fc.nat(genuine.length - 1), fc.integer({ min: 1, max: 255 })).map(([at, change]) => {
  return Buffer.from(genuine.map((byte, i) => (i === at ? byte ^ change : byte)));
});

const header = fc.oneof(
  forged.map((some) => some.toString('base64')),
  mutated(fc.constant(genuine)).map((some) => some.toString('base64')),
  mutated(fc.constant(Buffer.from(recorded.header))).map((some) => some.toString('latin1')),
  bytes(140).map((some) => some.toString('base64')),
  fc.uint8Array({ minLength: 96, maxLength: 96 }).map((some) => {
    return Buffer.concat([genuine.subarray(0, 5), some]).toString('base64');
  }),
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc.constant(undefined),
);

/** Nobody is identified but by the very bytes that the holder of the key has made; and nothing is thrown. */
export const initiationReader = target('initiation', 0.15, header, (value) => {
  const identity = identify(key, value);
  const isGenuine = value === recorded.header;
  assert.equal(identity.kind, isGenuine ? 'identified' : value === undefined ? 'missing' : 'unreadable');
  if (identity.kind === 'identified') assert.equal(`mkey:${identity.machineKey}`, recorded.machineKey);
  if (identity.kind === 'unreadable') assert.notEqual(identity.why, '');
  const decoded = value === undefined ? undefined : decodeHandshakeHeader(value);
  if (decoded?.ok) assert.equal(decoded.value.toString('base64'), value);
});
