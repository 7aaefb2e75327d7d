import { addressAndPort, hostAndPortOf, isEveryAddress, isLoopback } from '../lib/addresses.ts';
import { formatDuration, parseDuration } from '../lib/units.ts';
import type { PlacedListen } from './listen.ts';
import { type Given, kebabCase, type Problem } from './problems.ts';
import { type RuleSettings, type Settings, SHORTEST_PROBE_IDLE } from './schema.ts';
import type { HostPort } from './types.ts';

type GivenSettings = ReadonlyMap<string, Given>;

/** Addresses that are each right and together wrong: a watchdog before itself would call itself until it fell over. */
export function addressProblems(
  settings: Partial<Settings>,
  given: GivenSettings,
  listens: readonly PlacedListen[],
): readonly Problem[] {
  const { upstream, admin } = settings;
  const own: readonly (readonly [name: string, address: HostPort | undefined, at: Given['at'] | undefined])[] = [
    ...listens.map(({ listen, at }) => ['listen', listen, at] as const),
    ['admin', admin, given.get('admin')?.at],
  ];
  const problems: Problem[] = [];
  for (const [i, [name, address, at]] of own.entries()) {
    if (address === undefined) continue;
    if (upstream !== undefined && meets(hostAndPortOf(upstream), address)) {
      problems.push(upstreamIsOwn(upstream, given.get('upstream')?.at, name, address, at));
    }
    for (const [otherName, other, otherAt] of own.slice(0, i)) {
      if (other === undefined || !overlap(address, other)) continue;
      const textFor = (theOther: string, where = otherAt): string =>
        `the same port as ${nameOf(theOther, where)}, ${address.port}: choose another`;
      problems.push(
        name === otherName || at !== undefined
          ? { at: at ?? 'flag', name, text: textFor(otherName) }
          : { at: otherAt ?? 'flag', name: otherName, text: textFor(name, at) },
      );
    }
  }
  return problems;
}

/** An admin server that other machines can reach must ask who they are. */
export function tokenProblems({ admin }: Partial<Settings>, given: GivenSettings): readonly Problem[] {
  if (admin === undefined || given.has('adminTokenFile') || isLoopback(admin.host)) return [];
  const text = `'${addressAndPort(admin.host, admin.port)}' can be reached from other machines, so it needs a token: set admin-token-file, or write 127.0.0.1:${admin.port}`;
  return [blame(given, ['admin', text])];
}

function upstreamIsOwn(
  upstream: URL,
  upstreamAt: Given['at'] | undefined,
  name: string,
  own: HostPort,
  ownAt: Given['at'] | undefined,
): Problem {
  // What the operator gave is what to change; a default never is.
  if (upstreamAt !== undefined || ownAt === undefined) {
    const text = `'${upstream.origin}' is the watchdog's own ${nameOf(name, ownAt)}: name Headscale's listen_addr`;
    return { at: upstreamAt ?? 'flag', name: 'upstream', text };
  }
  const text = `'${addressAndPort(own.host, own.port)}' is upstream's address, ${upstream.origin}: choose another, or set upstream to Headscale's listen_addr`;
  return { at: ownAt, name, text };
}

/** A PROXY protocol header is read from whom we trust only. */
export function proxyProtocolProblems(
  listens: readonly PlacedListen[],
  trustedProxies: readonly string[],
): readonly Problem[] {
  if (trustedProxies.length > 0) return [];
  const text =
    'proxy-protocol needs trusted-proxies, which says none: name your proxies there, or remove proxy-protocol';
  return listens.filter(({ listen }) => listen.proxyProtocol).map(({ at }) => ({ at, name: 'listen', text }));
}

/** Whether a connection to `target` would arrive at what listens on `own`, as far as can be told without asking DNS. */
function meets(target: HostPort, own: HostPort): boolean {
  if (target.port !== own.port || own.port === 0) return false;
  const isLocal = (host: string): boolean => isLoopback(host) || isEveryAddress(host);
  return target.host === own.host || (isLocal(target.host) && isLocal(own.host));
}

/** Whether both cannot be listened on at once. `::` takes IPv4 as well. */
function overlap(one: HostPort, other: HostPort): boolean {
  if (one.port !== other.port || one.port === 0) return false;
  const covers = (wide: string, host: string): boolean =>
    wide === host ||
    wide === '::' ||
    (wide === '0.0.0.0' && !host.includes(':')) ||
    (wide === 'localhost' && /^(127\.0\.0\.1|::1)$/.test(host));
  return covers(one.host, other.host) || covers(other.host, one.host);
}

/** What a client has left to answer in, after the first probe: with less, one lost packet would end a healthy stream. */
const PROBE_ROOM_MS = 10_000;

/**
 * Probes that come too late to be answered before the end that they are to bring forward.
 *
 * @param rule a rule's own settings, if it is about a rule: what they do together with those for all.
 */
export function probeProblems(
  settings: Partial<Settings>,
  given: GivenSettings,
  rule?: { readonly settings: Partial<RuleSettings>; readonly given: GivenSettings },
): readonly Problem[] {
  const probeIdle = rule?.settings.probeIdle ?? settings.probeIdle;
  const goneAfter = rule?.settings.goneAfter ?? settings.goneAfter;
  const places = rule?.given ?? given;
  // What a rule does not touch is wrong for all, and is said there.
  if (rule !== undefined && !places.has('probeIdle') && !places.has('goneAfter')) return [];
  if (probeIdle === undefined || goneAfter === undefined || probeIdle === 0) return [];
  if (goneAfter >= probeIdle + PROBE_ROOM_MS) return [];
  return [blame(places, ['probeIdle', probeText(probeIdle, goneAfter)], ['goneAfter', goneText(probeIdle, goneAfter)])];
}

function probeText(probeIdle: number, goneAfter: number): string {
  const least = formatDuration(probeIdle + PROBE_ROOM_MS);
  const gone = goneAfter === 0 ? 'off' : formatDuration(goneAfter);
  const most = goneAfter - PROBE_ROOM_MS;
  const hasRoom = most >= (parseDuration(SHORTEST_PROBE_IDLE) ?? 0);
  const cure = hasRoom ? `write ${formatDuration(most)} or less, or off` : 'write off';
  return `${formatDuration(probeIdle)} needs a gone-after of ${least} or more, and it is ${gone}: ${cure}, or change gone-after`;
}

function goneText(probeIdle: number, goneAfter: number): string {
  const probe = formatDuration(probeIdle);
  const least = formatDuration(probeIdle + PROBE_ROOM_MS);
  return goneAfter === 0
    ? `off leaves probe-idle, ${probe}, nothing to bring forward: write ${least} or more, or set probe-idle to off`
    : `${formatDuration(goneAfter)} is too short for probe-idle, ${probe}: write ${least} or more, or change probe-idle`;
}

/** What only Headscale tells of a node, by the name it has in a rule. */
const ASKED_OF_HEADSCALE: Readonly<Record<string, string>> = {
  name: 'names',
  user: 'users',
  nodeKey: 'node keys',
};

/** A rule that can match nobody, since Headscale is not asked who is who. */
export function ruleKeyProblems(rule: GivenSettings, given: GivenSettings): readonly Problem[] {
  if (given.has('headscaleApiKeyFile')) return [];
  for (const [name, { at }] of rule) {
    const what = ASKED_OF_HEADSCALE[name];
    if (what === undefined) continue;
    const text = `needs headscale-api-key-file, since only Headscale knows ${what}: set it, or write machine-key instead`;
    return [{ at, name, text }];
  }
  return [];
}

/** The first of two settings that the operator gave is the one to change; a default never is. */
function blame(given: GivenSettings, ...texts: readonly [name: string, text: string][]): Problem {
  const [name, text] = texts.find(([candidate]) => given.has(candidate)) ?? texts[0] ?? ['', ''];
  return { at: given.get(name)?.at ?? 'flag', name, text };
}

/** A setting as it was given: with its dashes if it was a flag. */
function nameOf(name: string, at: Given['at'] | undefined): string {
  return (at ?? 'flag') === 'flag' ? `--${kebabCase(name)}` : kebabCase(name);
}
