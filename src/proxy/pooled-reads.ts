import { Socket } from 'node:net';

/*
 * Node reads each chunk into 64 KiB of new memory and shrinks that to what came: under load most of a proxy's time goes
 * into allocating and collecting. Here all sockets read into one buffer, and what came is copied out of it. A socket to
 * which much comes reads into a large buffer of its own instead, which nothing is copied from.
 */

const SHARED_BYTES = 64 * 1024;
/** Twice what Node takes: with less the calls cost more than the copying, with more it no longer fits the processor's cache. */
const LARGE_BYTES = 128 * 1024;
/** A socket that reads at least this much at once has a large buffer. TLS gives 16 KiB at most. */
const BUSY_BYTES = 8 * 1024;
/**
 * There are never more large buffers than this: 16 MiB. A socket keeps its own while it is idle, until it reads little or
 * closes, for Node can change what is read into only after a read. Where none is left, what comes is copied.
 */
export const MOST_LARGE = 128;

/**
 * Takes what came in. Bytes that come with `written` are only lent: they are overwritten some time after it has been called.
 *
 * @returns whether nothing refers to the bytes any more already; `written` must be called all the same.
 */
export type Consumer = (chunk: Buffer, written?: () => void) => boolean;

/** What `net.Socket` has for `onread`, an option that there is only for sockets one connects oneself. */
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

/** Whether sockets can read into our buffers: it takes private fields of Node's. */
export function readsArePooled(): boolean {
  return isPossible;
}

/**
 * Gives all that `socket` reads from now on to `consume`, beginning with what it has read already; in place of its 'data'
 * events. Where Node is not as it was found to be, by way of them.
 */
export function readPooled(socket: Socket, consume: Consumer): void {
  const reading = socket as unknown as ReadingInto;
  if (fields === undefined || reading._handle?.useUserBuffer === undefined) {
    // A closed socket has no handle, which says nothing about Node.
    if (reading._handle) isPossible = false;
    socket.on('data', (chunk) => void consume(chunk));
    return;
  }
  for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) consume(chunk);
  reading[CONSUMER] = consume;
  reading[LARGE] = undefined;
  reading[fields.buffer] = shared;
  reading[fields.callback] = consumeRead;
  reading[fields.next] = nextBuffer;
  reading._handle.useUserBuffer(shared);
  socket.on('close', letGo);
  // Node can only now really stop reading, if what had been read was enough.
  if (socket.isPaused()) socket.pause();
  else socket.resume();
}

const CONSUMER = Symbol('consumer');
const LARGE = Symbol('large');

/** Read into by all sockets: what is in it is copied before anything else can be read. */
const shared: Buffer = Buffer.allocUnsafeSlow(SHARED_BYTES);

/** What the socket that has just read reads into next; Node asks for it as soon as what was read is consumed. */
let next: Buffer = shared;
const nextBuffer = (): Buffer => next;

/**
 * Memory that one socket reads into and another may still write from. It is read into again only when every write from it
 * has ended, whatever the sockets are: TLS hands out records also while it is paused.
 */
class LargeBuffer {
  readonly memory = Buffer.allocUnsafeSlow(LARGE_BYTES);
  /** A socket reads into it next. */
  isHeld = false;
  writes = 0;
  readonly written = (): void => {
    this.writes -= 1;
    this.restIfUnused();
  };

  restIfUnused(): void {
    if (!this.isHeld && this.writes === 0) spare.push(this);
  }
}

const spare: LargeBuffer[] = [];
let made = 0;

/** How many large buffers there are, and how many of them are in use. */
export function largeBuffers(): { readonly made: number; readonly inUse: number } {
  return { made, inUse: made - spare.length };
}

function takeLarge(): LargeBuffer | undefined {
  const rested = spare.pop();
  if (rested !== undefined || made === MOST_LARGE) return rested;
  made += 1;
  return new LargeBuffer();
}

/** Node calls it as the socket's own method. */
function consumeRead(this: ReadingInto & Socket, length: number, buffer: Buffer): boolean {
  const consume = this[CONSUMER] as Consumer;
  const large = this[LARGE] as LargeBuffer | undefined;
  let isFree = false;
  if (large === undefined) {
    consume(Buffer.from(buffer.subarray(0, length)));
  } else {
    large.writes += 1;
    isFree = consume(buffer.subarray(0, length), large.written);
  }
  if (length < BUSY_BYTES || this.destroyed) hold(this, undefined);
  else if (!isFree) hold(this, takeLarge());
  next = (this[LARGE] as LargeBuffer | undefined)?.memory ?? shared;
  return true;
}

/** @param large what the socket reads into next; undefined for the shared buffer. */
function hold(reading: ReadingInto, large: LargeBuffer | undefined): void {
  const before = reading[LARGE] as LargeBuffer | undefined;
  reading[LARGE] = large;
  if (large !== undefined) large.isHeld = true;
  if (before === undefined) return;
  before.isHeld = false;
  before.restIfUnused();
}

/** A closed socket reads no more. */
function letGo(this: Socket): void {
  hold(this as unknown as ReadingInto, undefined);
}
