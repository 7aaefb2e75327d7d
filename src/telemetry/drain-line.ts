import { durationOrOff } from '../config/changes.ts';
import type { WatchdogEvent } from '../streams/events.ts';

type Drain = Extract<WatchdogEvent, { readonly kind: 'drain_started' | 'drain_ended' }>;

/** What the log says of the way down. */
export function drainLine(event: Drain): readonly ['info', fields: object, text: string] {
  if (event.kind === 'drain_ended')
    return ['info', { tookMs: Math.round(event.tookMs) }, 'drained: nothing is left open'];
  const { streams, overMs, isShortened } = event;
  const fields = { streams, drain: durationOrOff(overMs) };
  if (overMs === 0 || streams === 0) return ['info', fields, 'draining: no new connections, and every stream ends now'];
  const why = isShortened ? ', no longer, since new clients wait in the inherited socket meanwhile' : '';
  return [
    'info',
    fields,
    `draining: no new connections, and the streams end one by one${why}; a second signal ends all now`,
  ];
}
