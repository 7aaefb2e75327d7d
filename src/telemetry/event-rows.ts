import type { ErrorCode } from '../lib/errors.ts';
import type { WatchdogEvent } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';
import type { EventSubject, NameOf } from './event-phrases.ts';

export const LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type Level = (typeof LEVELS)[number];

/**
 * How one kind of event is reported. Each column is its own function, so that a log at level `info` never builds the
 * sentences of `debug` events.
 */
export type Row<Event extends WatchdogEvent> = Severity<Event> & Columns<Event>;

type Quiet = Exclude<Level, 'warn' | 'error'>;

/** The level; undefined if another event says the same. An event that may be a warning or an error also has a code. */
type Severity<Event extends WatchdogEvent> =
  | { readonly level: Quiet | ((event: Event) => Quiet | undefined); readonly code?: undefined }
  | {
      readonly level: Level | ((event: Event) => Level | undefined);
      readonly code: ErrorCode | ((event: Event) => ErrorCode);
    };

interface Columns<Event extends WatchdogEvent> {
  readonly subject?: (event: Event) => EventSubject;
  /** Further fields of the log line. */
  readonly fields?: (event: Event) => object;
  /** What happened and why, for somebody who reads nothing else. */
  readonly sentence: (event: Event, nameOf: NameOf) => string;
}

/** A repetition is counted, but logged only at `debug`. */
export const warnOnce = ({ isNews }: { readonly isNews: boolean }): Level => (isNews ? 'warn' : 'debug');

/** Copies single fields. A reference to the stream would keep it in memory for as long as the history. */
export function about({ machineKey, id, kind, remoteAddress }: Stream): EventSubject {
  return { machineKey, stream: id, streamKind: kind, remoteAddress };
}
