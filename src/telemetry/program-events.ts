import { reasonOf } from '../lib/errors.ts';
import { span } from '../lib/units.ts';
import type { EventKind, EventOf } from '../streams/events.ts';
import {
  count,
  describeDrain,
  describeFailedHandover,
  describeHandover,
  describeReload,
  streamOf,
} from './event-phrases.ts';
import { about, type Row, warnOnce } from './event-rows.ts';

type ProgramEvent = Extract<
  EventKind,
  | `key_file_${string}`
  | `settings_${string}`
  | `drain_${string}`
  | `handover_${string}`
  | `notification_${string}`
  | 'stream_handed_over'
  | 'internal_error'
>;

/** What happens to the watchdog itself. */
export const PROGRAM_EVENTS: { readonly [K in ProgramEvent]: Row<EventOf<K>> } = {
  key_file_reloaded: {
    level: 'info',
    fields: ({ file }) => ({ file }),
    sentence: ({ key }) => `Reloaded the ${key}, because its file has changed.`,
  },
  key_file_reload_failed: {
    level: 'error',
    code: ({ code }) => code,
    fields: ({ detail }) => ({ detail }),
    sentence: ({ detail }) => `A key file has changed and cannot be used: ${detail}. The key in use stays.`,
  },
  settings_reloaded: {
    level: ({ needRestart }) => (needRestart.length > 0 ? 'warn' : 'info'),
    code: 'HSW_RESTART_REQUIRED',
    fields: ({ changes, needRestart }) => ({ changes, needRestart }),
    sentence: describeReload,
  },
  settings_reload_failed: {
    level: 'error',
    code: ({ code }) => code,
    fields: ({ problems }) => ({ problems }),
    sentence: ({ problems }) => `Settings not reloaded, and nothing has changed: ${problems.join('; ')}.`,
  },
  drain_started: {
    level: 'info',
    fields: ({ streams, overMs }) => ({ streams, overMs }),
    sentence: describeDrain,
  },
  drain_ended: {
    level: 'info',
    fields: ({ tookMs }) => ({ tookMs: Math.round(tookMs) }),
    sentence: ({ tookMs }) => `Drained: the last stream ended after ${span(tookMs)}.`,
  },
  notification_sent: {
    level: ({ worksAgain }) => (worksAgain ? 'info' : 'debug'),
    fields: ({ target, about }) => ({ target, about }),
    sentence: ({ target, about }) => `The notification "${about}" was delivered to target ${target}.`,
  },
  notification_delayed: {
    level: warnOnce,
    code: 'HSW_NOTIFICATION_DELAYED',
    fields: ({ target, about, detail }) => ({ target, about, detail }),
    sentence: ({ target, about, detail }) =>
      `The notification "${about}" could not be delivered to target ${target} (${detail}): the watchdog tries again, for an hour.`,
  },
  notification_dropped: {
    level: warnOnce,
    code: 'HSW_NOTIFICATION_DROPPED',
    subject: ({ reason }) => ({ reason }),
    fields: ({ target, about, detail, count: dropped }) => ({ target, about, detail, count: dropped }),
    sentence: ({ target, about, detail, count: dropped }) =>
      about === undefined
        ? `${count(dropped, 'notification')} for target ${target} ${dropped === 1 ? 'was' : 'were'} dropped: ${detail}.`
        : `The notification "${about}" for target ${target} was dropped: ${detail}.`,
  },
  internal_error: {
    level: 'error',
    code: 'HSW_INTERNAL',
    fields: ({ during, error }) => ({
      ...{ during, detail: reasonOf(error), stack: error instanceof Error ? error.stack : undefined },
    }),
    sentence: ({ during, error }) =>
      `Internal error while ${during} (${reasonOf(error)}). Traffic still flows. Please report it with its log line.`,
  },
  handover_started: {
    level: 'info',
    fields: ({ streams }) => ({ streams }),
    sentence: ({ streams }) =>
      `Handing over: the program on disk was started, and gets ${count(streams, 'stream')} once it is ready.`,
  },
  handover_failed: {
    level: 'error',
    code: 'HSW_HANDOVER_FAILED',
    fields: ({ problems, lost }) => ({ problems, lost }),
    sentence: describeFailedHandover,
  },
  handover_ended: {
    level: 'info',
    fields: ({ pid, moved, stayed, tookMs }) => ({ successor: pid, moved, stayed, tookMs: Math.round(tookMs) }),
    sentence: describeHandover,
  },
  handover_received: {
    level: 'info',
    fields: ({ streams }) => ({ streams }),
    sentence: ({ streams }) => `Took over ${count(streams, 'stream')} from the old process, without an interruption.`,
  },
  stream_handed_over: {
    // One `handover_received` says it for all, and the history has when it was opened.
    level: () => undefined,
    subject: ({ stream }) => about(stream),
    sentence: ({ stream }, nameOf) =>
      `${streamOf(stream, nameOf)} from ${stream.remoteAddress} was taken over from the old process.`,
  },
};
