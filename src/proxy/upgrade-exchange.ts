import { request as httpRequest, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { NoAnswerError } from '../lib/errors.ts';
import type { Protocol } from '../streams/request.ts';
import { answerHead, headText } from './answer.ts';
import type { AwaitAnswer, PendingAnswer } from './upstream.ts';

/** An upgrade request as Headscale gets it. */
export interface UpgradeHead {
  readonly method: string;
  /** The request target, exactly as the client sent it. */
  readonly path: string;
  /** Name, value, name, value, … They come from a request that was parsed, so no line break is in them. */
  readonly rawHeaders: readonly string[];
  /** The protocol that the client wants to switch to. */
  readonly protocol: Protocol;
}

/** What can come of an upgrade request: exactly one of the last four, unless it is dropped. */
export interface UpgradeHandlers {
  awaitAnswer: AwaitAnswer;
  /** Headscale answered 101 and switched to the requested protocol. @param head of the answer. @param rest the bytes after it. */
  switched(head: Buffer, rest: Buffer): void;
  /** Headscale gave any other answer. Its body has not been read yet. */
  refused(answer: IncomingMessage): void;
  /** Headscale answered 101, but switched to another protocol. */
  mismatched(protocol: string): void;
  /** @param error a `NoAnswerError` when Headscale does not answer. */
  failed(error: Error): void;
}

/** As much as Node's parser accepts. */
const LONGEST_HEAD = 16 * 1024;

/**
 * An upgrade request to Headscale, until it is answered. Its owner tells it what happens on the socket.
 *
 * The usual answer, a plain 101, is read here: Node's HTTP client takes a tenth of the whole time of an upgrade. Node's client
 * reads every other answer, and every 101 that is not written as Go writes it.
 */
export class UpgradeExchange {
  readonly #head: UpgradeHead;
  readonly #socket: Socket;
  readonly #handlers: UpgradeHandlers;
  readonly #pending: PendingAnswer;
  /** The part of the answer that has arrived. */
  #bytes: Buffer | undefined;
  /** Set while Node's client reads the answer. */
  #forNode: Duplex | undefined;
  #isOver = false;

  /** Sends the request as soon as the socket is connected. */
  constructor(head: UpgradeHead, socket: Socket, handlers: UpgradeHandlers) {
    this.#head = head;
    this.#socket = socket;
    this.#handlers = handlers;
    this.#pending = handlers.awaitAnswer(() => this.failed(new NoAnswerError('Headscale does not answer')));
    const text = headText(`${head.method} ${head.path} HTTP/1.1`, head.rawHeaders);
    socket.write(text, 'latin1', () => this.#pending.sent());
  }

  /** Headscale has sent something. */
  read(chunk: Buffer): void {
    if (this.#forNode !== undefined) {
      if (!this.#forNode.push(chunk)) this.#socket.pause();
      return;
    }
    if (this.#isOver) return;
    const bytes = this.#bytes === undefined ? chunk : Buffer.concat([this.#bytes, chunk]);
    const end = bytes.indexOf('\r\n\r\n');
    if (end < 0 && bytes.length < LONGEST_HEAD && mayBecomeSwitch(bytes)) {
      this.#bytes = bytes;
      return;
    }
    this.#bytes = undefined;
    const protocol = end < 0 ? undefined : protocolOfSwitch(bytes.toString('latin1', 0, end + 2));
    if (protocol === undefined) this.#readByNode(bytes);
    else this.#switched(protocol, bytes.subarray(0, end + 4), bytes.subarray(end + 4));
  }

  /** Headscale sends no more. */
  ended(): void {
    if (this.#forNode !== undefined) this.#forNode.push(null);
    else this.failed(new Error('Headscale closed the connection without an answer'));
  }

  /** The connection failed, or is given up. */
  failed(error: Error): void {
    if (this.#forNode !== undefined) {
      this.#forNode.destroy(error);
      return;
    }
    if (this.#isOver) return;
    this.drop();
    this.#handlers.failed(error);
  }

  /** Ends it without a result. The connection closes. */
  drop(): void {
    this.#isOver = true;
    this.#pending.ended();
    this.#socket.destroy();
    this.#forNode?.destroy();
  }

  #switched(protocol: string, head: Buffer, rest: Buffer): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#pending.answered();
    if (protocol === this.#head.protocol) this.#handlers.switched(head, rest);
    else this.#mismatched(protocol);
  }

  #mismatched(protocol: string): void {
    this.#handlers.mismatched(protocol);
    this.drop();
  }

  /** Lets Node's client read the answer, from its first byte on. What that client sends goes nowhere. */
  #readByNode(bytes: Buffer): void {
    const socket = this.#socket;
    const forNode = new Duplex({
      allowHalfOpen: true,
      read: () => void socket.resume(),
      write: (_chunk, _encoding, written) => written(),
      final(finished) {
        socket.destroySoon();
        finished();
      },
      destroy(error, destroyed) {
        socket.destroy();
        destroyed(error);
      },
    });
    this.#forNode = forNode;
    const request = httpRequest({ method: this.#head.method, createConnection: () => forNode });
    request.on('upgrade', (answer, _socket, rest) => {
      this.#forNode = undefined;
      socket.resume();
      const all = Buffer.concat([rest, forNode.read() ?? NOTHING]);
      this.#switched(answer.headers.upgrade?.toLowerCase() ?? '', Buffer.from(answerHead(answer), 'latin1'), all);
    });
    request.on('response', (answer) => {
      this.#pending.answered();
      // For Node, a 101 that names no protocol is an ordinary response.
      if (answer.statusCode === 101) this.#mismatched(answer.headers.upgrade ?? '');
      else this.#handlers.refused(answer);
    });
    request.on('error', (error) => {
      this.#forNode = undefined;
      this.failed(error);
    });
    request.end();
    this.read(bytes);
  }
}

const NOTHING = Buffer.alloc(0);

const SWITCH = 'HTTP/1.1 101 ';

function mayBecomeSwitch(bytes: Buffer): boolean {
  return SWITCH.startsWith(bytes.toString('latin1', 0, SWITCH.length));
}

const PLAIN_HEAD = /^HTTP\/1\.1 101 [\x20-\x7e]*\r\n(?:[\w!#$%&'*+.^`|~-]+:[\t\x20-\x7e]*\r\n)*$/;
const UPGRADES = /\r\nupgrade:[ \t]*([\x21-\x7e]+)[ \t]*\r\n/gi;
const SAYS_UPGRADE = /\r\nconnection:[ \t]*upgrade[ \t]*\r\n/i;
const HAS_LENGTH = /\r\n(?:content-length|transfer-encoding):/i;

/**
 * The protocol in the head of a plain 101, in lower case. Undefined for everything that is not plain: another status, a
 * protocol that is missing or named twice, a body, a header that not everybody reads in the same way.
 *
 * @param head up to the end of its last header.
 */
function protocolOfSwitch(head: string): string | undefined {
  if (!PLAIN_HEAD.test(head) || !SAYS_UPGRADE.test(head) || HAS_LENGTH.test(head)) return undefined;
  const [first, second] = head.matchAll(UPGRADES);
  return second === undefined ? first?.[1]?.toLowerCase() : undefined;
}
