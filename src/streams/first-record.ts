/*
 * A WebSocket frame from a client (RFC 6455, section 5.2):
 * 1 FIN, three reserved bits, opcode | 1 MASK, length 0–125, 126 (two bytes follow) or 127 (eight bytes follow) | 4 masking key | payload
 */
const LONG = 126;
const LONGER = 127;
const CONTINUATION = 0;
const BINARY = 2;
const FIRST_CONTROL = 8;

type Part = 'head' | 'length' | 'mask' | 'payload';

/** Extracts the unmasked binary payload from a client's WebSocket frames. Chunks may split frames anywhere. */
export class WebSocketPayload {
  #part: Part = 'head';
  /** Bytes of the current part that have not arrived yet. */
  #left = 1;
  /** Whether the current message is binary. Control frames may come between its fragments. */
  #isBinary = false;
  /** Whether the payload of the current frame belongs to a binary message. */
  #carries = false;
  #isMasked = false;
  #length = 0;
  readonly #mask = Buffer.alloc(4);
  #at = 0;

  /** @param chunk what the client sent. @returns the payload in it. */
  feed(chunk: Uint8Array): Buffer {
    const payload = Buffer.allocUnsafe(chunk.length);
    let length = 0;
    for (let at = 0; at < chunk.length; ) {
      if (this.#part !== 'payload') {
        this.#next(chunk[at] as number);
        at += 1;
        continue;
      }
      const run = Math.min(this.#left, chunk.length - at);
      if (this.#carries) {
        for (let i = at; i < at + run; i++) payload[length++] = this.#unmasked(chunk[i] as number);
      }
      at += run;
      this.#left -= run;
      if (this.#left === 0) this.#begin('head', 1);
    }
    return payload.subarray(0, length);
  }

  #unmasked(byte: number): number {
    return this.#isMasked ? byte ^ (this.#mask[this.#at++ % 4] as number) : byte;
  }

  #next(byte: number): void {
    switch (this.#part) {
      case 'head':
        this.#beginFrame(byte & 0x0f);
        this.#begin('length', 1);
        this.#length = -1;
        return;
      case 'length':
        this.#nextOfLength(byte);
        return;
      default:
        this.#mask[4 - this.#left] = byte;
        this.#left -= 1;
        if (this.#left === 0) this.#beginPayload();
    }
  }

  #beginFrame(opcode: number): void {
    const isControl = opcode >= FIRST_CONTROL;
    if (!isControl && opcode !== CONTINUATION) this.#isBinary = opcode === BINARY;
    this.#carries = !isControl && this.#isBinary;
  }

  #nextOfLength(byte: number): void {
    this.#left -= 1;
    if (this.#length === -1) {
      this.#isMasked = (byte & 0x80) !== 0;
      const short = byte & 0x7f;
      this.#length = short < LONG ? short : 0;
      if (short === LONG) this.#left = 2;
      else if (short === LONGER) this.#left = 8;
    } else {
      this.#length = this.#length * 256 + byte;
    }
    if (this.#left > 0) return;
    if (this.#isMasked) this.#begin('mask', 4);
    else this.#beginPayload();
  }

  #beginPayload(): void {
    this.#at = 0;
    if (this.#length > 0) this.#begin('payload', this.#length);
    else this.#begin('head', 1);
  }

  #begin(part: Part, bytes: number): void {
    this.#part = part;
    this.#left = bytes;
  }
}

const RECORD_HEADER_LENGTH = 3;
/**
 * Four times the longest record. A client can send pings and text frames for ever, and parsing them costs more than
 * forwarding them. After this many bytes without a record we stop looking, and the stream never settles.
 */
const MOST_FRAMED_BYTES = 256 * 1024;

/**
 * Finds the end of the first complete record that a client sends in its Noise session: 1 byte type, 2 bytes length
 * (big-endian), payload. Chunks may split it anywhere. Only a complete record counts: Headscale cannot reject half a record,
 * so a replayed handshake followed by half a record could stay open for ever.
 *
 * Source: tailscale `control/controlbase/messages.go`.
 */
export class FirstRecord {
  #headerBytes = 0;
  #payloadLength = 0;
  #payloadBytes = 0;
  readonly #webSocket: WebSocketPayload | undefined;
  #framedBytes = 0;

  /** @param isWebSocket whether WebSocket frames carry the session, as with a browser client. */
  constructor(isWebSocket: boolean) {
    this.#webSocket = isWebSocket ? new WebSocketPayload() : undefined;
  }

  /** @param sent what the client sent. @returns whether the first record is complete. */
  feed(sent: Uint8Array): boolean {
    if (this.#framedBytes >= MOST_FRAMED_BYTES) return false;
    const chunk = this.#webSocket === undefined ? sent : this.#webSocket.feed(sent);
    if (this.#webSocket !== undefined) this.#framedBytes += sent.length;
    let at = 0;
    for (; this.#headerBytes < RECORD_HEADER_LENGTH && at < chunk.length; at++, this.#headerBytes++) {
      if (this.#headerBytes > 0) this.#payloadLength = (this.#payloadLength << 8) | (chunk[at] ?? 0);
    }
    this.#payloadBytes += chunk.length - at;
    return this.#headerBytes === RECORD_HEADER_LENGTH && this.#payloadBytes >= this.#payloadLength;
  }
}
