import { z } from 'zod';
import { type ApiErrorCode, ERRORS, type ErrorCode } from '../lib/errors.ts';
import { STREAM_KINDS, type Stream, type StreamId } from '../streams/stream.ts';
import { EVENT_KINDS } from '../telemetry/event-table.ts';

/* What the schemas in views.ts are made of, errors, and the answers to requests that change something. */

/** What a schema describes. An answer is never changed. */
export type View<Schema extends z.ZodType> = ReadOnly<z.infer<Schema>>;

type ReadOnly<T> = T extends string | number | boolean | null
  ? T
  : T extends readonly (infer Item)[]
    ? readonly ReadOnly<Item>[]
    : { readonly [Name in keyof T]: ReadOnly<T[Name]> };

export const time = z.iso.datetime();
export const count = z.int().min(0);
export const milliseconds = z.number();
export const machineKey = z.string().regex(/^mkey:[0-9a-f]{64}$/);
export const nodeKey = z.string().regex(/^nodekey:[0-9a-f]{64}$/);
export const streamId = z.int().min(1) as unknown as z.ZodType<StreamId>;
export const streamKind = z.enum(STREAM_KINDS);
export type StreamState = Stream['state']['kind'];
export const streamState = z.enum(['held', 'connecting', 'open', 'closing', 'closed'] satisfies readonly StreamState[]);
export const errorCode = z
  .enum(Object.keys(ERRORS) as ErrorCode[])
  .meta({ id: 'ErrorCode', description: 'Never changes its meaning: docs/errors.md explains each.' });
const apiErrorCode = z
  .enum(Object.entries(ERRORS).flatMap(([code, seen]) => ('status' in seen ? [code as ApiErrorCode] : [])))
  .meta({ id: 'ApiErrorCode', description: 'Never changes its meaning: docs/errors.md explains each.' });
export const eventKind = z.enum(EVENT_KINDS).meta({ id: 'EventKind' });
export const next = z.string().nullable().describe('Give it as `after=` to get the next page; null if there is none.');
export const replica = z
  .string()
  .nullable()
  .describe('The replica that has the stream; null if there is only one watchdog.');

export const severed = z.strictObject({ severed: streamId }).meta({ id: 'Severed' });

export const askedToSever = z
  .strictObject({ asked: streamId })
  .meta({ id: 'AskedToSever', description: 'Another replica was asked to sever the stream.' });

export const reloaded = z
  .strictObject({
    ok: z.literal(true),
    file: z
      .string()
      .nullable()
      .describe('The settings file that was read. `null` if the watchdog was started without one.'),
    changes: z.array(z.string()).describe('For a person to read: `silent-after: 30s → 10s`.'),
    needRestart: z.array(z.string()).describe('Changed settings that apply only after a restart.'),
  })
  .meta({ id: 'Reloaded' });

export const handedOver = z
  .strictObject({
    ok: z.literal(true),
    pid: count.describe('The new process.'),
    moved: count.describe('The streams that it goes on with.'),
    stayed: count.describe('The streams that stay with the old process until they end, or the drain has passed.'),
    tookMs: z.number(),
  })
  .meta({ id: 'HandedOver' });

export type HandedOver = View<typeof handedOver>;

export const done = z.strictObject({ ok: z.literal(true) }).meta({ id: 'Done' });

export const problem = z
  .strictObject({
    type: z.literal('about:blank'),
    title: z.string().describe('What the status means.'),
    status: z.int().min(400).max(599),
    detail: z.string().describe('What went wrong, with which value, and what to do.'),
    code: apiErrorCode,
  })
  .meta({ id: 'Problem', description: 'An error, as in RFC 9457.' });

export type Problem = View<typeof problem>;

export const reloadProblem = problem
  .extend({
    ok: z.literal(false),
    code: errorCode,
    problems: z.array(z.string()).describe('Every mistake in the settings.'),
  })
  .meta({ id: 'ReloadProblem', description: 'The settings were not reloaded, and nothing has changed.' });

export const handoverProblem = reloadProblem
  .extend({ problems: z.array(z.string()).describe('Why not.') })
  .meta({ id: 'HandoverProblem', description: 'The streams were not handed over, and this process goes on.' });
