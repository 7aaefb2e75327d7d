/**
 * The nodes of a soak, in a process of their own: they all arrive, then one after another leaves, in one of three ways, and
 * comes back from another address. Answers `figures` with what has happened so far, `calm` with nobody leaving any more,
 * and `stop` by ending.
 *
 *     nodes-main URL NODES ADDRESSES canVanish|cannotVanish
 *
 * They are the demo's simulated nodes: the real Noise handshake, a login and a map stream over HTTP/2, refused streams
 * tried again as tailscaled does. Unlike tailscaled they have no peers, never send endpoint updates of their own accord, and
 * ask for `/key` each time.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { type Departure, SoakNode } from './soak-node.ts';

const ARRIVALS_PER_S = 80;
const DEPARTURES_PER_S = 6;
/** Longer than silent-after of the soak's watchdog: what froze has been silent for long enough then. */
const LONGEST_AWAY_MS = 12_000;

const [url = '', count = '0', addresses = '', canVanish = ''] = process.argv.slice(2);
const from = addresses.split(',');
let arrivals = 0;
let calm = false;
const tally = { refusals: 0, departures: 0, lost: [] as string[] };
const tookMs: Record<Departure, number[]> = { first: [], churn: [], frozen: [], vanished: [] };

const nodes = Array.from(
  { length: Number(count) },
  (_, i) =>
    new SoakNode(`soak-${i}`, {
      serverUrl: new URL(url),
      nextAddress: () => from[arrivals++ % from.length] ?? '',
      accepted: (after, ms) => tookMs[after].push(ms),
      refused: () => void tally.refusals++,
      lost: (why) => tally.lost.push(why),
    }),
);

async function arriveAll(): Promise<void> {
  for (const node of nodes) {
    node.arrive('first');
    await pause(1000 / ARRIVALS_PER_S);
  }
}

/** In the nodes' order, so that no node meets the guard by freezing three times within five minutes. */
async function departForEver(): Promise<void> {
  for (let i = 0; !calm; i = (i + 1) % nodes.length) {
    const node = nodes[i];
    if (node?.isAccepted) void depart(node);
    await pause(1000 / DEPARTURES_PER_S);
  }
}

async function depart(node: SoakNode): Promise<void> {
  tally.departures += 1;
  const chance = Math.random();
  const how = chance < 0.4 ? 'churn' : chance < 0.7 || canVanish !== 'canVanish' ? 'frozen' : 'vanished';
  if (how === 'churn') await node.leave();
  else if (how === 'vanished') await node.vanish();
  else node.freeze();
  await pause(Math.random() * LONGEST_AWAY_MS);
  node.arrive(how);
}

function figures(): object {
  const comebacks = Object.entries(tookMs).map(([after, took]) => {
    const sorted = took.toSorted((a, b) => a - b);
    const at = (share: number): number => Math.round(sorted[Math.floor(share * (sorted.length - 1))] ?? 0);
    return { after, count: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99), worstMs: at(1) };
  });
  return { ...tally, comebacks, accepted: nodes.filter((node) => node.isAccepted).length };
}

process.on('message', async (asked: string) => {
  if (asked === 'begin') void arriveAll();
  if (asked === 'churn') void departForEver();
  if (asked === 'calm') calm = true;
  if (asked === 'stop') await Promise.all(nodes.map((node) => node.stop()));
  process.send?.(figures());
});
