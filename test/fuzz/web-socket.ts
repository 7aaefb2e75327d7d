import assert from 'node:assert/strict';
import fc from 'fast-check';
import { FirstRecord, WebSocketPayload } from '../../src/streams/first-record.ts';
import { bytes, cuts, inPieces, mutated, target } from './target.ts';

const CONTROL = [8, 9, 10];

interface Frame {
  readonly opcode: number;
  readonly mask: Uint8Array | undefined;
  readonly payload: Buffer;
}

const frame: fc.Arbitrary<Frame> = fc.record({
  opcode: fc.constantFrom(0, 1, 2, 2, 2, ...CONTROL),
  mask: fc.option(fc.uint8Array({ minLength: 4, maxLength: 4 }), { nil: undefined }),
  payload: fc.oneof(
    bytes(40),
    fc.integer({ min: 120, max: 300 }).map((length) => Buffer.alloc(length, length)),
  ),
});

function encoded({ opcode, mask, payload }: Frame): Buffer {
  const { length } = payload;
  const masked = mask === undefined ? 0 : 0x80;
  const head = length < 126 ? Buffer.of(0x80 | opcode, masked | length) : Buffer.of(0x80 | opcode, masked | 126, 0, 0);
  if (length >= 126) head.writeUInt16BE(length, 2);
  const body = mask === undefined ? payload : payload.map((byte, i) => byte ^ (mask[i % 4] as number));
  return Buffer.concat([head, ...(mask === undefined ? [] : [mask]), body]);
}

/** What binary messages carry: control frames may stand between their parts, texts are none. */
function carried(frames: readonly Frame[]): Buffer {
  let isBinary = false;
  return Buffer.concat(
    frames.flatMap(({ opcode, payload }) => {
      if (CONTROL.includes(opcode)) return [];
      if (opcode !== 0) isBinary = opcode === 2;
      return isBinary ? [payload] : [];
    }),
  );
}

export const webSocketFrames = target(
  'WebSocket frames',
  0.08,
  fc.tuple(fc.array(frame, { maxLength: 8 }), cuts),
  ([frames, at]) => {
    const reader = new WebSocketPayload();
    const read = inPieces(Buffer.concat(frames.map(encoded)), at).map((piece) => reader.feed(piece));
    assert.ok(Buffer.concat(read).equals(carried(frames)));
  },
);

/** Whatever comes, in whatever pieces: the same payload, never more than came; and a first record is found once or never. */
export const webSocketRubbish = target(
  'WebSocket and records, any bytes',
  0.07,
  fc.tuple(fc.oneof(bytes(200), mutated(frame.map(encoded))), cuts, fc.boolean()),
  ([some, at, isWebSocket]) => {
    const pieces = inPieces(some, at);
    const [whole, pieced] = [new WebSocketPayload(), new WebSocketPayload()];
    const read = Buffer.concat(pieces.map((piece) => pieced.feed(piece)));
    assert.ok(read.equals(whole.feed(some)));
    assert.ok(read.length <= some.length);
    const [first, again] = [new FirstRecord(isWebSocket), new FirstRecord(isWebSocket)];
    const found = pieces.reduce((before, piece) => again.feed(piece) || before, false);
    assert.equal(found, some.length > 0 && first.feed(some));
    const carries = isWebSocket ? read : some;
    assert.equal(found, carries.length >= 3 && carries.length >= 3 + carries.readUInt16BE(1));
  },
);
