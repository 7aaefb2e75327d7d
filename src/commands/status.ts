import { isInOneOf } from '../admin/node-list.ts';
import type { Overview, PresenceView } from '../admin/views.ts';
import { addressAndPort, plainAddress } from '../lib/addresses.ts';
import { errorLine } from '../lib/errors.ts';
import { printable } from '../lib/text.ts';
import { span } from '../lib/units.ts';
import { NODE_STATES } from '../nodes/presence.ts';
import type { Api, NodesAnswer } from './admin-client.ts';
import { ago, wholeSeconds } from './streams.ts';
import {
  type Colour,
  type Console,
  coloured,
  EXIT,
  type ExitCode,
  localDay,
  localTime,
  showScreen,
} from './terminal.ts';

export interface StatusOptions {
  readonly json?: boolean;
  readonly watch?: boolean;
}

const EVERY_MS = 2000;

/** Shows how Headscale, the nodes and the watchdog itself are, and what is wrong. @returns 1 if something is an error. */
export async function showStatus(api: Api, options: StatusOptions, console: Console): Promise<ExitCode> {
  for (;;) {
    const [overview, { nodes }] = await Promise.all([api.get<Overview>('/overview'), api.get<NodesAnswer>('/nodes')]);
    const { problems } = overview as Partial<Overview>;
    if (problems === undefined) {
      const text = 'the watchdog is of an older version than this command, and does not say what is wrong';
      console.stderr.write(errorLine('HSW_ADMIN_ANSWER_UNEXPECTED', `${text}: open its status page`));
      return EXIT.failed;
    }
    if (options.json) console.stdout.write(`${JSON.stringify(overview, undefined, options.watch ? undefined : 2)}\n`);
    else showScreen(console, linesOf(overview, nodes, console), options.watch === true);
    if (!options.watch) return problems.some(({ level }) => level === 'error') ? EXIT.failed : EXIT.done;
    await console.pause(EVERY_MS);
    if (console.signal.aborted) return EXIT.done;
  }
}

function linesOf(overview: Overview, nodes: readonly PresenceView[], console: Console): readonly string[] {
  const { evidence, lastHour, certificateExpiresAt, redisUp, descriptors } = overview;
  const rows: readonly (readonly [what: string, text: string | undefined])[] = [
    ['Headscale', headscaleText(overview)],
    ['Noise key', keyText(overview)],
    ['Nodes', nodesText(overview, nodes)],
    ['Streams', streamsText(overview)],
    ['Last hour', `${many(lastHour.takeovers, 'takeover')}, ${many(lastHour.gone, 'node')} vanished`],
    [
      'Evidence',
      `of clients: ${yesNo(evidence.direct)}; of clients of a proxy on this machine: ${yesNo(evidence.proxy)}`,
    ],
    ['Certificate', certificateExpiresAt === null ? undefined : expiryText(certificateExpiresAt, overview.now)],
    ['Redis', redisUp === null ? undefined : redisUp ? 'up' : 'down'],
    ['Descriptors', descriptors === null ? undefined : `${descriptors.open} of ${descriptors.limit}`],
    ['Watchdog', watchdogText(overview)],
  ];
  return [
    ...rows.flatMap(([what, text]) => (text === undefined ? [] : [`${what.padEnd(12)} ${text}`])),
    '',
    ...problemLines(overview, nodes, console),
  ];
}

function headscaleText({ upstream: { url, up, silentOn, version, isHeadscale } }: Overview): string {
  const state = up === null ? 'not asked yet' : !up ? 'down' : silentOn !== null ? 'silent' : 'up';
  if (isHeadscale === false) return `something else answers at ${url}`;
  return `${state}, at ${url}${version === null ? '' : `, ${printable(version)}`}`;
}

function keyText({ noiseKeyMatches }: Overview): string {
  if (noiseKeyMatches === null) return 'not compared with that of Headscale';
  return noiseKeyMatches ? 'that of Headscale' : 'not that of Headscale';
}

/** `35 of 60 connected; 20 offline, 5 expired` */
function nodesText({ nodesListedAt, now }: Overview, nodes: readonly PresenceView[]): string {
  // As the filters of nodes count: one about which Headscale disagrees is connected or offline, too.
  const count = (of: PresenceView['state']): number => nodes.filter((node) => isInOneOf(new Set([of]), node)).length;
  const others = NODE_STATES.filter((state) => state !== 'connected' && count(state) > 0);
  const rest = others.map((state) => `${count(state)} ${state}`).join(', ');
  const asOf =
    nodesListedAt === null ? 'not listed by Headscale' : `listed ${ago(Date.parse(now) - Date.parse(nodesListedAt))}`;
  const suspected = nodes.filter(({ suspectedSince }) => suspectedSince !== null).length;
  const shared = suspected === 0 ? '' : `; ${suspected} with a key that two machines may use`;
  return `${count('connected')} of ${nodes.length} connected${rest === '' ? '' : `; ${rest}`}${shared} (${asOf})`;
}

function streamsText({ streams: { contested, held, connecting, open, closing } }: Overview): string {
  const counts = { open, held, connecting, closing, contested };
  const shown = Object.entries(counts).filter(([name, number]) => name === 'open' || number > 0);
  return shown.map(([name, number]) => `${number} ${name}`).join(', ');
}

function expiryText(expiresAt: string, now: string): string {
  const inMs = Date.parse(expiresAt) - Date.parse(now);
  const day = localDay(expiresAt);
  return inMs <= 0 ? `expired on ${day}` : `until ${day}, for another ${span(wholeSeconds(inMs))}`;
}

function watchdogText({ version, startedAt, now, listen, replica, draining, observeOnly }: Overview): string {
  const where = listen.map((at) => (at === null ? 'nothing' : addressAndPort(plainAddress(at.address), at.port)));
  return [
    `${version}, started ${ago(Date.parse(now) - Date.parse(startedAt))}, listening on ${where.join(', ')}`,
    ...(replica === null ? [] : [`replica ${printable(replica)}`]),
    ...(draining ? ['stopping'] : []),
    ...(observeOnly ? ['observe-only'] : []),
  ].join('; ');
}

const COLOURS: Readonly<Record<Overview['problems'][number]['level'], Colour>> = {
  ...{ error: 'red', warn: 'yellow', info: 'faint' },
};

function problemLines(
  { problems, now }: Overview,
  nodes: readonly PresenceView[],
  console: Console,
): readonly string[] {
  if (problems.length === 0) return [coloured(console, 'green', 'Nothing is wrong.')];
  return problems.flatMap(({ kind, level, code, since, sentence, advice }) => {
    const head = `${level.padEnd(5)} ${code === null ? '' : `[${code}] `}`;
    const twins = kind === 'machine_keys_duplicated' ? nodes.filter(({ isDuplicate }) => isDuplicate) : [];
    return [
      `${coloured(console, COLOURS[level], head)}${printable(sentence)}`,
      ...twins.map(
        ({ name, machineKey }) =>
          `      It is the key of ${name === null ? 'the node' : printable(name)}, ${machineKey}.`,
      ),
      `      Since ${localTime(since)}, ${ago(Date.parse(now) - Date.parse(since))}. ${printable(advice)}`,
    ];
  });
}

function yesNo(is: boolean): string {
  return is ? 'yes' : 'no';
}

function many(number: number, noun: string): string {
  return number === 1 ? `1 ${noun}` : `${number} ${noun}s`;
}
