import { Socket } from 'node:net';

/*
 * Node reads each chunk into 64 KiB of new memory and shrinks that to what came: under load most of a proxy's time goes
 * into allocating and collecting. Here sockets read into memory that is used again and again: little into a buffer that all
 * share, and while much comes, into a large one lent to the socket.
 */

/** A record of Headscale's keepalive has 110 bytes, and a WebSocket's or DERP's frame around it a few more. */
const SMALL_BYTES = 512;
/** Twice what Node takes: with less the calls cost more than the copying, with more it no longer fits the processor's cache. */
const LARGE_BYTES = 128 * 1024;
/** A large buffer stays with a socket that fills at least this much of it (TLS gives 16 KiB at most): it is in the middle of something. */
const BUSY_BYTES = 8 * 1024;
/** So many large buffers are kept for their next use. */
const MOST_SPARE = 64;

/**
 * Takes what came in. The bytes are only lent.
 *
 * @returns whether they are done with. Where not, they stay as they are until nobody refers to them; and where the
 * consumer has paused the socket, until it resumes that.
 */
export type Consumer = (chunk: Buffer) => boolean;

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

/**
 * Gives all that `socket` reads from now on to `consume`, beginning with what it has read already; in place of its 'data'
 * events. Where Node is not as it was found to be, by way of them.
 */
export function readLent(socket: Socket, consume: Consumer): void {
  const reading = socket as unknown as ReadingInto;
  if (fields === undefined || reading._handle?.useUserBuffer === undefined) {
    socket.on('data', consume);
    return;
  }
  for (let chunk = socket.read(); chunk !== null; chunk = socket.read()) consume(chunk);
  reading[CONSUMER] = consume;
  reading[fields.buffer] = small;
  reading[fields.callback] = consumeRead;
  reading[fields.next] = nextBuffer;
  reading._handle.useUserBuffer(small);
  // Node can only now really stop reading, if what had been read was enough.
  if (socket.isPaused()) socket.pause();
  else socket.resume();
}

const CONSUMER = Symbol('consumer');

/** Read into by all sockets: what is in it is copied before anything else can be read. */
const small: Buffer = Buffer.allocUnsafeSlow(SMALL_BYTES);

/** What the socket that has just read reads into next; Node asks for it as soon as what was read is consumed. */
let next: Buffer = small;
const nextBuffer = (): Buffer => next;

/** Node calls it as the socket's own method. */
function consumeRead(this: ReadingInto & Socket, length: number, buffer: Buffer): boolean {
  const consume = this[CONSUMER] as Consumer;
  if (buffer === small) {
    consume(Buffer.from(buffer.subarray(0, length)));
    next = length === SMALL_BYTES ? takeLarge() : small;
    return true;
  }
  const isDone = consume(buffer.subarray(0, length));
  if (length < BUSY_BYTES) next = small;
  else if (!isDone && !this.isPaused()) next = takeLarge();
  else next = buffer;
  if (isDone && next !== buffer) giveBack(buffer);
  return true;
}

const spare: Buffer[] = [];

function takeLarge(): Buffer {
  return spare.pop() ?? Buffer.allocUnsafeSlow(LARGE_BYTES);
}

function giveBack(large: Buffer): void {
  if (spare.length < MOST_SPARE) spare.push(large);
}
