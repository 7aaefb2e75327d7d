import type { MachineKey } from '../identity/keys.ts';

/** The other end of one Noise session. */
export interface ControlClient {
  /** Counts the Noise sessions of this server, from 1. */
  readonly sessionId: number;
  readonly machineKey: MachineKey;
  readonly remoteAddress: string;
  /** The address by which the client reached this server, or the proxy before it; undefined when that was a name. */
  readonly reachedAt: string | undefined;
}

/** One open map stream. */
export interface ControlStream {
  /** Counts the accepted map streams of this server, from 1. */
  readonly streamId: number;
  readonly client: ControlClient;
  readonly hostname: string;
  readonly openedAt: Date;
}

/** What Headscale logs when it refuses. */
export const REFUSAL_MESSAGE = 'node has an open stream, rejecting new stream';

/** All that the stand-in tells of itself. `openStreams`: how many of this node are open after the event. */
export type ControlEvent = { readonly at: Date } & (
  | { readonly kind: 'handshake failed'; readonly remoteAddress: string; readonly why: string }
  | { readonly kind: 'session opened' | 'session closed'; readonly client: ControlClient }
  | { readonly kind: 'registered'; readonly client: ControlClient; readonly hostname: string }
  | { readonly kind: 'stream accepted'; readonly stream: ControlStream; readonly openStreams: number }
  | {
      readonly kind: 'stream refused';
      readonly client: ControlClient;
      readonly hostname: string;
      readonly message: typeof REFUSAL_MESSAGE;
    }
  | {
      readonly kind: 'stream ended';
      readonly stream: ControlStream;
      readonly openStreams: number;
      readonly lastedMs: number;
    }
);

export type OnControlEvent = (event: ControlEvent) => void;
