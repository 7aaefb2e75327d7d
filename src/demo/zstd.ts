// Format: RFC 8878, sections 3.1.1 (frame) and 3.1.1.2 (blocks).
const MAGIC = 0xfd2fb528;
/** One segment, and a content size of four bytes: no window descriptor, no dictionary, no checksum. */
const FRAME_DESCRIPTOR = 0b1010_0000;
const MAX_BLOCK_LENGTH = 128 * 1024;

/** A zstd frame that holds `content` as it is, in raw blocks: for a receiver that insists on zstd. */
export function zstdFrameOf(content: Uint8Array): Buffer {
  const header = Buffer.alloc(9);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt8(FRAME_DESCRIPTOR, 4);
  header.writeUInt32LE(content.length, 5);
  const parts: Uint8Array[] = [header];
  let from = 0;
  do {
    const block = content.subarray(from, from + MAX_BLOCK_LENGTH);
    from += block.length;
    const isLast = from >= content.length;
    const blockHeader = Buffer.alloc(3);
    // bit 0: the last block; bits 1 and 2: the type, 0 for raw; the rest: the length
    blockHeader.writeUIntLE((block.length << 3) | (isLast ? 1 : 0), 0, 3);
    parts.push(blockHeader, block);
  } while (from < content.length);
  return Buffer.concat(parts);
}
