import { addressAndPort, hostAndPortOf, isEveryAddress, isLoopback } from '../lib/addresses.ts';
import { formatDuration, parseDuration } from '../lib/units.ts';
import type { PlacedListen } from './listen.ts';
import { type Given, nameAt, type Problem } from './problems.ts';
import { type RuleSettings, type Settings, SHORTEST_PROBE_IDLE } from './settings.ts';
import type { HostPort } from './types.ts';

type GivenSettings = ReadonlyMap<string, Given>;

/**
 * Finds addresses that are valid alone but not together. With its own address as upstream, a watchdog would connect to
 * itself until it ran out of descriptors.
 */
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
        `the same port as ${nameAt(theOther, where ?? 'flag')}, ${address.port}: choose another`;
      problems.push(
        name === otherName || at !== undefined
          ? { at: at ?? 'flag', name, text: textFor(otherName) }
          : { at: otherAt ?? 'flag', name: otherName, text: textFor(name, at) },
      );
    }
  }
  return problems;
}

const READS_ANYWAY =
  'has no effect without admin-token-file, because without a token everybody may read and change everything: set that too';

/** An admin server that other machines can reach needs a token. */
export function tokenProblems({ admin }: Partial<Settings>, given: GivenSettings): readonly Problem[] {
  if (given.has('adminReadTokenFile') && !given.has('adminTokenFile'))
    return [blame(given, ['adminReadTokenFile', READS_ANYWAY])];
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
  // Report a value that the operator gave, not a default.
  if (upstreamAt !== undefined || ownAt === undefined) {
    const text = `'${upstream.origin}' is the watchdog's own ${nameAt(name, ownAt ?? 'flag')}: name Headscale's listen_addr`;
    return { at: upstreamAt ?? 'flag', name: 'upstream', text };
  }
  const text = `'${addressAndPort(own.host, own.port)}' is upstream's address, ${upstream.origin}: choose another, or set upstream to Headscale's listen_addr`;
  return { at: ownAt, name, text };
}

/** Only trusted proxies may send a PROXY protocol header. */
export function proxyProtocolProblems(
  listens: readonly PlacedListen[],
  trustedProxies: readonly string[],
): readonly Problem[] {
  if (trustedProxies.length > 0) return [];
  const text =
    'proxy-protocol needs trusted-proxies, which says none: name your proxies there, or remove proxy-protocol';
  return listens.filter(({ listen }) => listen.proxyProtocol).map(({ at }) => ({ at, name: 'listen', text }));
}

/** Whether a connection to `target` reaches a listener on `own`. This does not ask DNS, so it does not find every case. */
function meets(target: HostPort, own: HostPort): boolean {
  if (target.port !== own.port || own.port === 0) return false;
  const isLocal = (host: string): boolean => isLoopback(host) || isEveryAddress(host);
  return target.host === own.host || (isLocal(target.host) && isLocal(own.host));
}

/** Whether two listeners on these addresses would collide. A listener on `::` takes IPv4 as well. */
function overlap(one: HostPort, other: HostPort): boolean {
  if (one.port !== other.port || one.port === 0) return false;
  const covers = (wide: string, host: string): boolean =>
    wide === host ||
    wide === '::' ||
    (wide === '0.0.0.0' && !host.includes(':')) ||
    (wide === 'localhost' && /^(127\.0\.0\.1|::1)$/.test(host));
  return covers(one.host, other.host) || covers(other.host, one.host);
}

/** The least time between the first probe and `gone-after`. With less, one lost packet could end a healthy stream. */
const PROBE_ROOM_MS = 10_000;

/**
 * Finds probes that start too late: they must notice a gone client before `gone-after` does.
 *
 * @param rule the settings of one rule. They are checked together with the settings for all nodes.
 */
export function probeProblems(
  settings: Partial<Settings>,
  given: GivenSettings,
  rule?: { readonly settings: Partial<RuleSettings>; readonly given: GivenSettings },
): readonly Problem[] {
  const probeIdle = rule?.settings.probeIdle ?? settings.probeIdle;
  const goneAfter = rule?.settings.goneAfter ?? settings.goneAfter;
  const places = rule?.given ?? given;
  // Settings that the rule does not change are wrong for all nodes, and are reported there.
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
  const advice = hasRoom ? `write ${formatDuration(most)} or less, or off` : 'write off';
  return `${formatDuration(probeIdle)} needs a gone-after of ${least} or more, and it is ${gone}: ${advice}, or change gone-after`;
}

function goneText(probeIdle: number, goneAfter: number): string {
  const probe = formatDuration(probeIdle);
  const least = formatDuration(probeIdle + PROBE_ROOM_MS);
  return goneAfter === 0
    ? `off means that probe-idle, ${probe}, has no effect: write ${least} or more, or set probe-idle to off`
    : `${formatDuration(goneAfter)} is too short for probe-idle, ${probe}: write ${least} or more, or change probe-idle`;
}

/** The matches of a rule that need Headscale's list of nodes, and how a message names them. */
const KNOWN_TO_HEADSCALE: Readonly<Record<string, string>> = {
  name: 'names',
  user: 'users',
  nodeKey: 'node keys',
};

/** Without an API key or an OAuth client, a rule by name, user or node key would never match. */
export function ruleKeyProblems(rule: GivenSettings, given: GivenSettings): readonly Problem[] {
  if (given.has('headscaleApiKeyFile') || given.has('headscaleOauthClientFile')) return [];
  for (const [name, { at }] of rule) {
    const what = KNOWN_TO_HEADSCALE[name];
    if (what === undefined) continue;
    const text = `needs headscale-api-key-file or headscale-oauth-client-file, since only Headscale knows ${what}: set one, or write machine-key instead`;
    return [{ at, name, text }];
  }
  return [];
}

/** Reports a problem of several settings once, for the first of them that the operator gave. */
function blame(given: GivenSettings, ...texts: readonly [name: string, text: string][]): Problem {
  const [name, text] = texts.find(([candidate]) => given.has(candidate)) ?? texts[0] ?? ['', ''];
  return { at: given.get(name)?.at ?? 'flag', name, text };
}
