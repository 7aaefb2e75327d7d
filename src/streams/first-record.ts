import { WebSocketPayload } from './web-socket-payload.ts';

const RECORD_HEADER_LENGTH = 3;
/**
 * Four times the longest record. A client can send pings and texts for ever, and reading them costs more than passing them
 * on: where no record has come in so many bytes of WebSocket frames, none is looked for any more, and the stream never settles.
 */
const MOST_FRAMED_BYTES = 256 * 1024;

/**
 * Watches a client's half of a Noise session for the end of its first whole record
 * (1 byte type, 2 bytes length big-endian, payload), over any chunking. Only a whole record
 * says something: Headscale cannot judge a part of one, so the part of a replayer's may last for ever.
 */
export class FirstRecord {
  #headerBytes = 0;
  #payloadLength = 0;
  #payloadBytes = 0;
  readonly #webSocket: WebSocketPayload | undefined;
  #framedBytes = 0;

  /** @param isWebSocket whether the session is carried by WebSocket frames, as a browser's is. */
  constructor(isWebSocket: boolean) {
    this.#webSocket = isWebSocket ? new WebSocketPayload() : undefined;
  }

  /** Feeds what the client sent; true from the chunk on that completes the record. */
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
