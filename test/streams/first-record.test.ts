import { describe, expect, test } from 'vitest';
import { FirstRecord } from '../../src/streams/first-record.ts';

const record = Buffer.concat([Buffer.from([4, 0x01, 0x02]), Buffer.alloc(0x0102, 7)]);

describe('FirstRecord', () => {
  test('is complete with the last byte of the record, over any chunking', () => {
    for (let size = 1; size <= record.length; size++) {
      const first = new FirstRecord(false);
      for (let at = 0; at < record.length; at += size) {
        const done = at + size >= record.length;
        expect(first.feed(record.subarray(at, at + size))).toBe(done);
      }
    }
  });

  test('is complete when more than the record comes at once', () => {
    expect(new FirstRecord(false).feed(Buffer.concat([record, record]))).toBe(true);
  });

  test('a part of a record is none, however long it stays', () => {
    const first = new FirstRecord(false);
    expect(first.feed(record.subarray(0, record.length - 1))).toBe(false);
    expect(first.feed(Buffer.alloc(0))).toBe(false);
  });
});
