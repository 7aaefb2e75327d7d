import { Socket } from 'node:net';

/*
 * Node reads each chunk into 64 KiB of new memory and shrinks that to the size of the chunk. Under load, a proxy then spends most
 * of its time on allocation and garbage collection. Here all sockets read into one shared buffer, and each chunk is copied
 * out of it. A busy socket gets a large buffer of its own instead, and nothing is copied.
 *
 * This uses private fields of Node's sockets (`onread` of lib/internal/stream_base_commons.js). Without them, sockets use their
 * 'data' events.
 */

const SHARED_BYTES = 64 * 1024;
/** Twice Node's size. With less, the calls cost more than copying. With more, it does not fit the processor's cache. */
const LARGE_BYTES = 128 * 1024;
/** A socket that reads at least this much at once gets a large buffer. TLS gives at most 16 KiB. */
const BUSY_BYTES = 8 * 1024;
/** The most large buffers there can be: 16 MiB. When no buffer is left, chunks are copied. */
export const MOST_LARGE = 128;
/**
 * How often an idle socket gives its buffer back. Node forgets the old buffer only with the socket: 48 bytes each time. After
 * that the socket keeps its buffer until it reads little or closes.
 */
export const MOST_RESTS = 16;

/**
 * Takes a chunk that a socket has read. If `written` is given, the bytes are overwritten some time after it has been called.
 *
 * @returns whether the bytes are not used any more. `written` must be called in any case.
 */
export type Consumer = (socket: Socket, chunk: Buffer, written?: () => void) => boolean;

/** The private fields behind `onread`, an option that Node only has for sockets that we connect ourselves. */
interface ReadingInto {
  [field: symbol]: unknown;
  readonly _handle?: { useUserBuffer?(buffer: Buffer): void } | null;
}

interface Fields {
  readonly buffer: symbol;
  readonly next: symbol;
  readonly callback: symbol;
}

const fields = fieldsOf(new Socket({ onread: { buffer: Buffer.alloc(1), callback: () => true } } as object));

function fieldsOf(socket: Socket): Fields | undefined {
  const named = (name: string): symbol | undefined =>
    Object.getOwnPropertySymbols(socket).find(({ description }) => description === name);
  const [buffer, next, callback] = ['kBuffer', 'kBufferGen', 'kBufferCb'].map(named);
  if (buffer === undefined || next === undefined || callback === undefined) return undefined;
  return { buffer, next, callback };
}

let isPossible = fields !== undefined;

/** Whether this Node has the private fields, so that sockets can read into our buffers. */
export function readsArePooled(): boolean {
  return isPossible;
}

/**
 * Passes everything that `socket` reads to `consume`, starting with what it has read already. This replaces its 'data' events.
 * If Node does not have the private fields, 'data' events are used. Call `releaseBuffer` when the socket has closed.
 */
export function readPooled(socket: Socket, consume: Consumer): void {
  const reading = socket as unknown as ReadingInto;
  if (fields === undefined || reading._handle?.useUserBuffer === undefined) {
    // A closed socket has no handle, so it does not show whether Node has the fields.
    if (reading._handle) isPossible = false;
    socket.on('data', (chunk) => void consume(socket, chunk));
    return;
  }
  for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) consume(socket, chunk);
  reading[CONSUMER] = consume;
  reading[LARGE] = undefined;
  reading[RESTS] = 0;
  reading[fields.callback] = consumeRead;
  reading[fields.next] = nextBuffer;
  readIntoShared(reading, fields);
  // The chunks above may have filled the other side. Only now can Node stop reading.
  if (socket.isPaused()) socket.pause();
  else socket.resume();
}

const CONSUMER = Symbol('consumer');
const LARGE = Symbol('large');
const RESTS = Symbol('rests');

/** All sockets read into this buffer. A chunk is copied out of it before the next read. */
const shared: Buffer = Buffer.allocUnsafeSlow(SHARED_BYTES);

function readIntoShared(reading: ReadingInto, { buffer }: Fields): void {
  reading[buffer] = shared;
  reading._handle?.useUserBuffer?.(shared);
}

/** The next buffer of the socket that has just read. Node asks for it right after the chunk was consumed. */
let next: Buffer = shared;
const nextBuffer = (): Buffer => next;

/**
 * Memory that one socket reads into while another one may still write from it. It is reused only when every write has
 * finished, because a TLS socket can deliver records even while it is paused.
 */
class LargeBuffer {
  readonly memory = Buffer.allocUnsafeSlow(LARGE_BYTES);
  /** The socket that will read into it next. */
  holder: ReadingInto | undefined;
  writes = 0;
  /** Its holder has read since the last call of `releaseIdle`. */
  isBusy = false;
  readonly written = (): void => {
    this.writes -= 1;
    this.releaseIfUnused();
  };

  releaseIfUnused(): void {
    if (this.holder === undefined && this.writes === 0) free.push(this);
  }
}

const made = new Set<LargeBuffer>();
const free: LargeBuffer[] = [];
/** How many have been free all the time since the last call of `releaseIdle`. */
let leastFree = 0;

/** How many large buffers exist, and how many are in use. */
export function largeBuffers(): { readonly made: number; readonly inUse: number } {
  return { made: made.size, inUse: made.size - free.length };
}

function takeLarge(): LargeBuffer | undefined {
  const reused = free.pop();
  leastFree = Math.min(leastFree, free.length);
  if (reused !== undefined || made.size === MOST_LARGE) return reused;
  const large = new LargeBuffer();
  made.add(large);
  return large;
}

/** Gives back the memory that was not needed since the last call. Call it every few seconds. */
export function releaseIdle(): void {
  for (const large of made) {
    if (large.holder !== undefined && !large.isBusy) rest(large.holder);
    large.isBusy = false;
  }
  for (const unneeded of free.splice(0, leastFree)) made.delete(unneeded);
  leastFree = free.length;
}

/** Lets a socket that holds a large buffer read into the shared one again. */
function rest(reading: ReadingInto): void {
  const rests = reading[RESTS] as number;
  if (fields === undefined || rests === MOST_RESTS) return;
  reading[RESTS] = rests + 1;
  hold(reading, undefined);
  readIntoShared(reading, fields);
}

/** Node calls this as a method of the socket. */
function consumeRead(this: ReadingInto & Socket, length: number, buffer: Buffer): boolean {
  const consume = this[CONSUMER] as Consumer;
  const large = this[LARGE] as LargeBuffer | undefined;
  let isFree = false;
  if (large === undefined) {
    const chunk = Buffer.allocUnsafe(length);
    buffer.copy(chunk, 0, 0, length);
    consume(this, chunk);
  } else {
    large.writes += 1;
    large.isBusy = true;
    isFree = consume(this, buffer.subarray(0, length), large.written);
  }
  if (length < BUSY_BYTES || this.destroyed) hold(this, undefined);
  else if (!isFree) hold(this, takeLarge());
  next = (this[LARGE] as LargeBuffer | undefined)?.memory ?? shared;
  return true;
}

/** @param large the next buffer of the socket; undefined for the shared one. */
function hold(reading: ReadingInto, large: LargeBuffer | undefined): void {
  const before = reading[LARGE] as LargeBuffer | undefined;
  reading[LARGE] = large;
  if (large !== undefined) {
    large.holder = reading;
    large.isBusy = true;
  }
  if (before === undefined) return;
  before.holder = undefined;
  before.releaseIfUnused();
}

/** Gives back the large buffer of a socket, if it has one. */
export function releaseBuffer(socket: Socket): void {
  hold(socket as unknown as ReadingInto, undefined);
}
