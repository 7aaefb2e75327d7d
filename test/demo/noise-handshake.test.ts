import { describe, expect, test } from 'vitest';
import { answerHandshake, generateNoiseKey, RESPONSE_LENGTH, startHandshake } from '../../src/demo/noise-handshake.ts';
import { machineKeyOf } from '../../src/identity/keys.ts';
import { identify } from '../../src/identity/noise.ts';

const VERSION = 142;

function begin() {
  const server = generateNoiseKey();
  const machine = generateNoiseKey();
  const handshake = startHandshake(machine, server.publicRaw, VERSION);
  return { server, machine, handshake, header: handshake.initiation.toString('base64') };
}

describe('startHandshake and answerHandshake', () => {
  test('agree on the transport keys, and the responder learns version and machine key', () => {
    const { server, machine, handshake, header } = begin();
    const answer = answerHandshake(server, header);
    if (!answer.ok) throw new Error(answer.why);
    expect(answer.version).toBe(VERSION);
    expect(answer.machineKey).toBe(machineKeyOf(machine.publicRaw));
    expect(answer.response).toHaveLength(RESPONSE_LENGTH);
    const keys = handshake.finish(answer.response);
    expect(keys).toEqual({ send: answer.keys.receive, receive: answer.keys.send });
    expect(answer.keys.send).not.toEqual(answer.keys.receive);
  });

  test('the watchdog can identify the initiation', () => {
    const { server, machine, header } = begin();
    expect(identify(server, header)).toMatchObject({ kind: 'identified', machineKey: machineKeyOf(machine.publicRaw) });
  });

  test('the responder refuses an initiation made for another server', () => {
    const { header } = begin();
    expect(answerHandshake(generateNoiseKey(), header)).toEqual({ ok: false, why: 'machine key' });
  });

  test('the initiator refuses a response with any byte changed', () => {
    const { server, header, handshake } = begin();
    const answer = answerHandshake(server, header);
    if (!answer.ok) throw new Error(answer.why);
    // One byte of each field: type, length, ephemeral key, tag. A refusal uses the state up, so each needs its own.
    for (const at of [0, 1, 2, 3, 20, 35, 50]) {
      const fresh = startHandshake(generateNoiseKey(), server.publicRaw, VERSION);
      const freshAnswer = answerHandshake(server, fresh.initiation.toString('base64'));
      if (!freshAnswer.ok) throw new Error(freshAnswer.why);
      const changed = Buffer.from(freshAnswer.response);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(fresh.finish(changed), `byte ${at}`).toBeUndefined();
    }
    expect(handshake.finish(answer.response)).toBeDefined();
  });

  test('the initiator refuses a response of another length', () => {
    const { server, header, handshake } = begin();
    const answer = answerHandshake(server, header);
    if (!answer.ok) throw new Error(answer.why);
    expect(handshake.finish(answer.response.subarray(0, -1))).toBeUndefined();
  });
});
