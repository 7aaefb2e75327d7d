import { WebSocketPayload } from './web-socket-payload.ts';

const RECORD_HEADER_LENGTH = 3;

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

  /** @param isWebSocket whether the session is carried by WebSocket frames, as a browser's is. */
  constructor(isWebSocket: boolean) {
    this.#webSocket = isWebSocket ? new WebSocketPayload() : undefined;
  }

  /** Feeds what the client sent; true from the chunk on that completes the record. */
  feed(sent: Uint8Array): boolean {
    const chunk = this.#webSocket === undefined ? sent : this.#webSocket.feed(sent);
    let at = 0;
    for (; this.#headerBytes < RECORD_HEADER_LENGTH && at < chunk.length; at++, this.#headerBytes++) {
      if (this.#headerBytes > 0) this.#payloadLength = (this.#payloadLength << 8) | (chunk[at] ?? 0);
    }
    this.#payloadBytes += chunk.length - at;
    return this.#headerBytes === RECORD_HEADER_LENGTH && this.#payloadBytes >= this.#payloadLength;
  }
}
