import { describe, expect, test } from 'vitest';
import * as ws from 'ws';
import { FirstRecord, WebSocketPayload } from '../../src/streams/first-record.ts';

interface Frame {
  readonly opcode: number;
  readonly data: Buffer;
  readonly fin?: boolean;
  readonly mask?: boolean;
}

/** Frames as `ws` writes them for a client. */
function framed(...frames: readonly Frame[]): Buffer {
  return Buffer.concat(
    frames.flatMap(({ opcode, data, fin = true, mask = true }) =>
      // biome-ignore lint/suspicious/noExplicitAny: the types of ws leave its frame writer out
      (ws as any).Sender.frame(Buffer.from(data), {
        opcode,
        fin,
        mask,
        rsv1: false,
        readOnly: false,
        maskBuffer: undefined,
      }),
    ),
  );
}

const bytes = (length: number): Buffer => Buffer.from(Array.from({ length }, (_, i) => (i * 7) % 251));

function fedBy(size: number, frames: Buffer): Buffer {
  const payload = new WebSocketPayload();
  const parts: Buffer[] = [];
  for (let at = 0; at < frames.length; at += size) parts.push(payload.feed(frames.subarray(at, at + size)));
  return Buffer.concat(parts);
}

describe('WebSocketPayload', () => {
  test.each([0, 1, 125, 126, 127, 65_535, 65_536, 70_000])(
    'unmasks a message of %d bytes, however it is split',
    (length) => {
      const frames = framed({ opcode: 2, data: bytes(length) }, { opcode: 2, data: Buffer.from('next') });
      const expected = Buffer.concat([bytes(length), Buffer.from('next')]);
      for (const size of [1, 2, 3, 7, 1000, frames.length])
        expect(fedBy(size, frames).equals(expected), `by ${size}`).toBe(true);
    },
  );

  test('joins a message of several frames with a ping between them, and ignores text', () => {
    const frames = framed(
      { opcode: 1, data: Buffer.from('a text') },
      { opcode: 2, data: Buffer.from('one '), fin: false },
      { opcode: 9, data: Buffer.from('ping') },
      { opcode: 0, data: Buffer.from('message') },
    );
    // A control frame stands between the parts of a message and must not end it.
    expect(fedBy(1, frames).toString()).toBe('one message');
  });

  test('also reads frames without a mask', () => {
    expect(fedBy(1, framed({ opcode: 2, data: bytes(300), mask: false })).equals(bytes(300))).toBe(true);
  });
});

describe('FirstRecord of a WebSocket', () => {
  test('is complete with the last byte of the record inside the frames', () => {
    const record = Buffer.concat([Buffer.from([4, 0, 200]), bytes(200)]);
    const frames = framed({ opcode: 2, data: record.subarray(0, 50) }, { opcode: 2, data: record.subarray(50) });
    const first = new FirstRecord(true);
    for (let at = 0; at < frames.length; at++) {
      expect(first.feed(frames.subarray(at, at + 1)), `byte ${at}`).toBe(at === frames.length - 1);
    }
  });

  test.each([
    [200_000, true],
    [300_000, false],
  ])('after %d bytes of pings it still looks for the record: %s', (bytesOfPings, isLookedFor) => {
    const ping = framed({ opcode: 9, data: bytes(119) });
    const first = new FirstRecord(true);
    for (let fed = 0; fed < bytesOfPings; fed += ping.length) expect(first.feed(ping)).toBe(false);
    const record = Buffer.concat([Buffer.from([4, 0, 200]), bytes(200)]);
    expect(first.feed(framed({ opcode: 2, data: record }))).toBe(isLookedFor);
  });
});
