import pino, { type DestinationStream, type Logger } from 'pino';
import pretty from 'pino-pretty';
import type { LogLevel } from '../config/schema.ts';
import { reasonOf } from '../errors.ts';
import type { WatchdogEvent } from '../events.ts';
import { formatMachineKey } from '../identity/keys.ts';
import type { Stream } from '../streams/stream.ts';

export type { Logger };

/** JSON, a line an event; on a terminal readable, with colours unless NO_COLOR is set. */
export function createLogger(level: LogLevel, out: NodeJS.WriteStream): Logger {
  const options = { level, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  if (!out.isTTY) return pino(options, out as DestinationStream);
  const colorize = process.env.NO_COLOR === undefined || process.env.NO_COLOR === '';
  return pino(
    options,
    pretty({ destination: out, colorize, translateTime: 'SYS:HH:MM:ss.l', singleLine: true, sync: true }),
  );
}

type Line = readonly [level: 'debug' | 'info' | 'error', fields: object, text: string];

/** Writes each event as one line. */
export function logEvents(log: Logger): (event: WatchdogEvent) => void {
  return (event) => {
    const line = lineOf(event);
    if (line === undefined) return;
    const [level, fields, text] = line;
    log[level](fields, text);
  };
}

function lineOf(event: WatchdogEvent): Line | undefined {
  switch (event.kind) {
    case 'handshake': {
      if (event.result === 'identified') return undefined;
      const { remoteAddress, why } = event;
      return ['debug', { remoteAddress, why }, `handshake ${event.result}: passed on unidentified`];
    }
    case 'stream opened':
    case 'stream closed':
    case 'held':
    case 'released':
    case 'severed':
      return streamLine(event);
    case 'contest opened':
    case 'contest ended':
      return contestLine(event);
    case 'upstream up':
    case 'upstream down':
    case 'upstream is not Headscale':
    case 'upstream refused':
    case 'noise key checked':
      return upstreamLine(event);
    case 'internal error':
      return ['error', errorFields(event.during, event.error), 'internal error: traffic flows on'];
    default:
      return event satisfies never;
  }
}

type Of<K extends WatchdogEvent['kind']> = Extract<WatchdogEvent, { readonly kind: K }>;

function streamLine(event: Of<'stream opened' | 'stream closed' | 'held' | 'released' | 'severed'>): Line {
  const { stream } = event;
  switch (event.kind) {
    case 'stream opened':
      return ['debug', about(stream), 'stream opened'];
    case 'stream closed': {
      const { reason, lifetimeMs } = event;
      return ['debug', { ...about(stream), reason, lifetimeMs: whole(lifetimeMs) }, 'stream closed'];
    }
    case 'held':
      return ['debug', { ...about(stream), atMostMs: event.atMostMs }, 'newcomer held'];
    case 'released':
      return ['debug', { ...about(stream), heldMs: whole(event.heldMs) }, `newcomer released: ${event.why}`];
    case 'severed': {
      const why = event.because === 'dead' ? 'nobody answers at its other end' : 'silent past its threshold';
      const fields = {
        ...about(stream),
        newcomer: event.newcomer.id,
        silentMs: whole(event.silentMs),
        kernel: event.kernel,
      };
      return ['info', fields, `stream severed: ${why}, and its node is back on a new one`];
    }
    default:
      return event satisfies never;
  }
}

function contestLine(event: Of<'contest opened' | 'contest ended'>): Line {
  const fields = { ...about(event.newcomer), oldStream: event.old.id, oldRemoteAddress: event.old.remoteAddress };
  if (event.kind === 'contest opened') {
    return ['info', fields, 'contest opened: the node is back on a new stream while its old one is open'];
  }
  const { verdict, lastedMs } = event;
  return ['info', { ...fields, verdict, lastedMs: whole(lastedMs) }, `contest ended: ${verdict.replace('_', ' ')}`];
}

const NOT_HEADSCALE =
  "what answers there is not Headscale: GET /key?v=142 told no key; point --upstream at Headscale's listen_addr";
const WRONG_KEY =
  "the noise key is not Headscale's: no node can be told apart; point --noise-key at the running Headscale's noise_private.key";

function upstreamLine(
  event: Of<'upstream up' | 'upstream down' | 'upstream is not Headscale' | 'upstream refused' | 'noise key checked'>,
): Line {
  switch (event.kind) {
    case 'upstream up': {
      const { upstream, version } = event;
      return ['info', { upstream, version }, 'Headscale is up'];
    }
    case 'upstream down': {
      const { upstream, reason } = event;
      return ['error', { upstream, reason }, 'Headscale cannot be reached: clients get 502'];
    }
    case 'upstream is not Headscale':
      return ['error', { upstream: event.upstream }, NOT_HEADSCALE];
    case 'upstream refused': {
      const { streamKind, remoteAddress, status } = event;
      return [
        'debug',
        { streamKind, remoteAddress, status },
        `Headscale answered an upgrade with ${status}: passed on`,
      ];
    }
    case 'noise key checked': {
      const { ours, upstreams } = event;
      if (event.matches) return ['info', { key: ours }, "the noise key is Headscale's"];
      return ['error', { ours, upstreams }, WRONG_KEY];
    }
    default:
      return event satisfies never;
  }
}

function errorFields(during: string, error: unknown): object {
  return { during, reason: reasonOf(error), stack: error instanceof Error ? error.stack : undefined };
}

function about(stream: Stream): Record<string, unknown> {
  return {
    stream: stream.id,
    streamKind: stream.kind,
    machineKey: stream.machineKey === undefined ? undefined : formatMachineKey(stream.machineKey),
    remoteAddress: stream.remoteAddress,
  };
}

function whole(duration: number): number {
  return Math.round(duration);
}
