import { z } from 'zod';
import { PERIOD_STATES } from '../history/presence-log.ts';
import { NODE_STATES } from '../nodes/presence.ts';
import { count, machineKey, milliseconds, time, type View } from './schemas.ts';

/* The answers that say whether and how long nodes were online. As with views.ts, the running watchdog uses only the types. */

export const nodeHealth = z
  .strictObject({
    machineKey,
    name: z.string().nullable(),
    connected: z.boolean(),
    state: z.enum(NODE_STATES),
    connectedSince: time.nullable(),
    lastSignAt: time.nullable(),
  })
  .meta({ id: 'NodeHealth' });

export type NodeHealth = View<typeof nodeHealth>;

const totals = {
  onlineMs: milliseconds.describe('How long it was online.'),
  offlineMs: milliseconds,
  unknownMs: milliseconds.describe('The watchdog did not run, or had not heard of the node yet.'),
} as const;

const availabilitySpan = {
  since: time,
  until: time,
  timezone: z.string().describe('Where days begin.'),
  knownSince: time.nullable().describe('What was earlier is unknown. Null if everything is.'),
} as const;

const availabilityView = z
  .strictObject({
    machineKey,
    id: z.string().nullable(),
    name: z.string().nullable(),
    availability: z
      .number()
      .min(0)
      .max(1)
      .nullable()
      .describe('The share of the known time that it was online. Null if nothing is known.'),
    ...totals,
    days: z
      .array(z.strictObject({ date: z.iso.date(), ...totals }))
      .describe('Oldest first. The first and the last may be parts of a day.'),
  })
  .meta({ id: 'Availability', description: 'How long a node was online, day by day.' });

export type AvailabilityView = View<typeof availabilityView>;

export const availabilityList = z
  .strictObject({ ...availabilitySpan, total: count, nodes: z.array(availabilityView) })
  .meta({ id: 'Availabilities' });

export type AvailabilityList = View<typeof availabilityList>;

export const nodeAvailability = availabilityView
  .extend({
    ...availabilitySpan,
    periods: z
      .array(z.strictObject({ state: z.enum(PERIOD_STATES), since: time, until: time }))
      .describe('Oldest first, without gaps. The newest 5000 at most.'),
  })
  .meta({ id: 'NodeAvailability', description: 'When a node was online.' });

export type NodeAvailability = View<typeof nodeAvailability>;
