import { availabilityOf, type Day, daysBetween, type Totals, totalsByDay, totalsOf } from '../history/availability.ts';
import { KEPT_MS, type Period } from '../history/presence-log.ts';
import { formatMachineKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { isoTime } from '../lib/clock.ts';
import type { AvailabilityList, AvailabilityView, NodeAvailability } from './availability-views.ts';
import { Parameters, spanOf } from './parameters.ts';

/** When each node was connected, as this watchdog saw it. */
export interface PresenceHistory {
  /** Since when something is known; undefined if nothing is. */
  readonly knownSince: number | undefined;
  /** Every machine key that something is known about. */
  keys(): Iterable<MachineKey>;
  has(key: MachineKey): boolean;
  /** What a node was from `since` until `until`, without gaps, but not beyond now. */
  periods(key: MachineKey, since: number, until: number): readonly Period[];
}

/** A node of which the availability is shown. */
export interface NamedNode {
  readonly machineKey: MachineKey;
  /** As Headscale lists it; undefined if it does not. */
  readonly node: NodeInfo | undefined;
}

/** A page cannot draw more of them. */
const MOST_PERIODS = 5000;

interface Asked {
  readonly since: number;
  readonly until: number;
  readonly timezone: string;
  readonly days: readonly Day[];
}

/** @throws ParameterError */
function askedIn(query: URLSearchParams, now: number): Asked {
  const given = new Parameters(query, ['since', 'until', 'timezone']);
  const { since, until } = spanOf(given, now, KEPT_MS);
  const timezone = given.timezone('timezone');
  return { since, until, timezone, days: daysBetween(since, Math.min(until, now), timezone) };
}

/** The availability of one node, for `/nodes/NODE/availability`. @throws ParameterError */
export function nodeAvailability(
  history: PresenceHistory,
  node: NamedNode,
  query: URLSearchParams,
  now: number,
): NodeAvailability {
  const asked = askedIn(query, now);
  const periods = history.periods(node.machineKey, asked.since, asked.until);
  return {
    ...headOf(history, asked),
    ...viewOf(node, periods, asked.days),
    periods: periods
      .slice(-MOST_PERIODS)
      .map(({ state, since, until }) => ({ state, since: isoTime(since), until: isoTime(until) })),
  };
}

/** The availability of every node, for `/availability`. @throws ParameterError */
export function listAvailability(
  history: PresenceHistory,
  nodes: readonly NamedNode[],
  query: URLSearchParams,
  now: number,
): AvailabilityList {
  const asked = askedIn(query, now);
  const listed = new Set(nodes.map(({ machineKey }) => machineKey));
  const gone = [...history.keys()]
    .filter((key) => !listed.has(key))
    .map((machineKey) => ({ machineKey, node: undefined }));
  const views: AvailabilityView[] = [];
  for (const each of [...nodes, ...gone]) {
    const periods = history.periods(each.machineKey, asked.since, asked.until);
    // A node that no longer exists is shown only if it was online.
    if (!listed.has(each.machineKey) && !periods.some(({ state }) => state === 'online')) continue;
    views.push(viewOf(each, periods, asked.days));
  }
  return { ...headOf(history, asked), total: views.length, nodes: views };
}

function headOf({ knownSince }: PresenceHistory, { since, until, timezone }: Asked) {
  const known = knownSince === undefined ? null : isoTime(knownSince);
  return { since: isoTime(since), until: isoTime(until), timezone, knownSince: known };
}

function viewOf({ machineKey, node }: NamedNode, periods: readonly Period[], days: readonly Day[]): AvailabilityView {
  const totals = totalsOf(periods);
  const byDay = totalsByDay(periods, days);
  return {
    ...{ machineKey: formatMachineKey(machineKey), id: node?.id ?? null, name: node?.name ?? null },
    availability: availabilityOf(totals) ?? null,
    ...inMs(totals),
    days: days.map(({ date }, i) => ({ date, ...inMs(byDay[i] as Totals) })),
  };
}

function inMs({ online, offline, unknown }: Totals) {
  return { onlineMs: online, offlineMs: offline, unknownMs: unknown };
}
