import type { Socket } from 'node:net';
import type { Agent } from 'undici';
import { CHECK_TIMEOUT_MS } from './silence.ts';

/** Loaded on first use, because loading it takes a fifth of the start-up time. */
export const undici = () => import('undici');

/** Names of the errors of `AbortSignal.timeout` and of an agent's two timeouts. */
export const TIMED_OUT: ReadonlySet<string> = new Set(['TimeoutError', 'HeadersTimeoutError', 'BodyTimeoutError']);

/** An undici agent that is created on first use, and counts its connections. */
export class LazyAgent {
  readonly #timeoutMs: number;
  readonly #maxResponseSize: number;
  #agent: Promise<Agent> | undefined;
  #accepted = 0;

  constructor(timeoutMs: number, maxResponseSize: number) {
    this.#timeoutMs = timeoutMs;
    this.#maxResponseSize = maxResponseSize;
  }

  /** How many TCP connections were accepted, whether or not a TLS session followed. */
  get accepted(): number {
    return this.#accepted;
  }

  get(): Promise<Agent> {
    this.#agent ??= this.#make();
    return this.#agent;
  }

  async destroy(): Promise<void> {
    await (await this.#agent)?.destroy();
  }

  async #make(): Promise<Agent> {
    const { Agent, buildConnector } = await undici();
    const connector = buildConnector({ timeout: CHECK_TIMEOUT_MS });
    return new Agent({
      connect: (options, callback) => {
        // The connector returns its socket, although its type does not say so. We need it to tell "no answer" from "no connection".
        const socket = connector(options, callback) as unknown as Socket | undefined;
        socket?.once('connect', () => {
          this.#accepted += 1;
        });
      },
      headersTimeout: this.#timeoutMs,
      bodyTimeout: this.#timeoutMs,
      maxResponseSize: this.#maxResponseSize,
      // Requests are rare, so keeping connections open is not worth it.
      pipelining: 0,
    });
  }
}
