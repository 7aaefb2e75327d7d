import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { answerBinding, startStunResponder } from '../../src/demo/stun-responder.ts';

const TRANSACTION = 'b7e7a701bc34d686fa87dfae';
const REQUEST = Buffer.from(`000100002112a442${TRANSACTION}`, 'hex');
// RFC 5769, section 2.2: the mapped address 192.0.2.1, port 32853.
const MAPPED = '002000080001a147e112a643';

describe('answerBinding', () => {
  test('returns the mapped address of the test vector in RFC 5769', () => {
    const answer = answerBinding(REQUEST, '192.0.2.1', 32_853);
    expect(answer?.toString('hex')).toBe(`0101000c2112a442${TRANSACTION}${MAPPED}`);
  });

  test('does not answer anything but a binding request', () => {
    expect(answerBinding(REQUEST.subarray(0, 19), '192.0.2.1', 1)).toBeUndefined();
    expect(answerBinding(Buffer.concat([Buffer.from('0101', 'hex'), REQUEST.subarray(2)]), '192.0.2.1', 1)).toBe(
      undefined,
    );
    expect(answerBinding(Buffer.alloc(20), '192.0.2.1', 1)).toBeUndefined();
  });
});

describe('startStunResponder', () => {
  test('answers over UDP, and not after close', async () => {
    const responder = await startStunResponder('127.0.0.1');
    const socket = createSocket('udp4');
    try {
      socket.send(REQUEST, responder.port, '127.0.0.1');
      const [answer] = (await once(socket, 'message')) as [Buffer];
      expect(answer).toEqual(answerBinding(REQUEST, '127.0.0.1', socket.address().port));
    } finally {
      socket.close();
      await responder.close();
    }
    const again = createSocket('udp4');
    again.bind(responder.port, '127.0.0.1');
    await once(again, 'listening');
    again.close();
  });
});
