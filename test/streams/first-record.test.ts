import { describe, expect, test } from 'vitest';
import { FirstRecord } from '../../src/streams/first-record.ts';

const record = Buffer.concat([Buffer.from([4, 0x01, 0x02]), Buffer.alloc(0x0102, 7)]);

describe('FirstRecord', () => {
  test('is complete with the last byte of the record, however it is split', () => {
    for (let size = 1; size <= record.length; size++) {
      const first = new FirstRecord(false);
      for (let at = 0; at < record.length; at += size) {
        const done = at + size >= record.length;
        expect(first.feed(record.subarray(at, at + size))).toBe(done);
      }
    }
  });

  test('is complete if more than the record arrives at once', () => {
    expect(new FirstRecord(false).feed(Buffer.concat([record, record]))).toBe(true);
  });

  test('is never complete with only a part of a record', () => {
    const first = new FirstRecord(false);
    expect(first.feed(record.subarray(0, record.length - 1))).toBe(false);
    expect(first.feed(Buffer.alloc(0))).toBe(false);
  });
});
