import { createServer } from 'node:net';
import type { NodeDetail, Overview, PolicyView, StreamView } from '../admin/views.ts';
import type { Config, HostPort } from '../config/types.ts';
import { addressAndPort } from '../lib/addresses.ts';
import { fieldsOf, parseJson } from '../lib/json.ts';
import { listen } from '../proxy/listening.ts';
import { trustOf } from '../proxy/trusted-proxies.ts';
import { apiErrorIn, askAdmin } from './admin-client.ts';
import { streamEvidenceFinding } from './check-evidence.ts';
import { describePolicy, type GivenNode } from './check-nodes.ts';
import { type Finding, ok, problemsOf, warn } from './findings.ts';

/** Whether the ports are free, or the running watchdog's. */
export async function portFindings(config: Config, token: string | undefined): Promise<readonly Finding[]> {
  const running = await listenPortsAt(config.admin, token);
  const runs = (flag: string, where: HostPort): Finding =>
    ok(`${flag} ${addressAndPort(where.host, where.port)}: in use by the watchdog that already runs here`);
  const found: Finding[] = [];
  for (const each of config.listen) {
    found.push(...(running?.includes(each.port) ? [runs('--listen', each)] : await canListen(each, '--listen')));
  }
  found.push(...(running !== undefined ? [runs('--admin', config.admin)] : await canListen(config.admin, '--admin')));
  return found;
}

/** Asks an admin server for the ports that its watchdog listens on; undefined without a watchdog there. */
async function listenPortsAt(admin: HostPort, token: string | undefined): Promise<readonly unknown[] | undefined> {
  try {
    const { text } = await askAdmin({ admin, from: undefined }, 'GET', '/readyz', token);
    const { listen } = fieldsOf(parseJson(text));
    return Array.isArray(listen) ? listen.map((address) => fieldsOf(address).port) : undefined;
  } catch {
    return undefined;
  }
}

/** The problems with proxies that a running watchdog has seen. If none is running, those that can be seen without requests. */
export async function frontProxyFindings(
  { admin, trustedProxies }: Config,
  token: string | undefined,
  gateways: readonly string[],
): Promise<readonly Finding[]> {
  const seen = await frontProxiesAt(admin, token);
  if (seen !== undefined) {
    return seen.length === 0
      ? [ok('proxies in front: the watchdog that runs here has found no problem with them')]
      : seen;
  }
  const why = 'a proxy of the container engine or of the host connects from there';
  const untrusted = gateways.filter((each) => !trustOf(trustedProxies)(each));
  return untrusted.map((each) =>
    warn(
      'HSW_PROXY_NOT_TRUSTED',
      `proxies in front: ${each} is the gateway of this container: ${why}, and is not trusted: see docs/proxies.md`,
    ),
  );
}

async function frontProxiesAt(admin: HostPort, token: string | undefined): Promise<readonly Finding[] | undefined> {
  try {
    const { text } = await askAdmin({ admin, from: undefined }, 'GET', '/overview', token);
    const { frontProxies } = fieldsOf(parseJson(text));
    if (!Array.isArray(frontProxies)) return undefined;
    return (frontProxies as Overview['frontProxies']).map(({ code, sentence }) => ({
      level: 'warn',
      code,
      text: `proxies in front: ${sentence}`,
    }));
  } catch {
    return undefined;
  }
}

/** Where the evidence of the running watchdog's streams comes from. */
export async function streamFindings({ admin }: Config, token: string | undefined): Promise<readonly Finding[]> {
  try {
    const { text } = await askAdmin({ admin, from: undefined }, 'GET', '/streams', token);
    const { streams } = fieldsOf(parseJson(text));
    const finding = Array.isArray(streams) ? streamEvidenceFinding(streams as StreamView[]) : undefined;
    return finding === undefined ? [] : [finding];
  } catch {
    return [];
  }
}

async function canListen(where: HostPort, flag: string): Promise<readonly Finding[]> {
  const server = createServer();
  try {
    await listen(server, where, flag);
    await new Promise((resolve) => server.close(resolve));
    return [ok(`${flag} ${addressAndPort(where.host, where.port)}: free`)];
  } catch (error) {
    return problemsOf(error);
  }
}

/** The settings that the running watchdog uses for a node, and whether they are those that were given to `check`. */
export async function runningNode(
  { admin }: Config,
  token: string | undefined,
  asked: string,
  { settings: given, version }: GivenNode,
): Promise<{ readonly findings: readonly Finding[]; readonly settings: PolicyView | null }> {
  const nothing = { findings: [], settings: null };
  const path = `/nodes/${encodeURIComponent(asked)}`;
  const answer = await askAdmin({ admin, from: undefined }, 'GET', path, token).catch(() => undefined);
  if (answer === undefined) return nothing;
  const who = `node ${asked} in the running watchdog`;
  if (answer.status !== 200) {
    const { code, message } = apiErrorIn(answer.text);
    // Something else listens there, and the check of the ports has said so.
    if (code === 'HSW_ADMIN_ANSWER_UNEXPECTED') return nothing;
    return { findings: [warn(null, `${who}: ${message}`)], settings: null };
  }
  const { policy: settings } = fieldsOf(parseJson(answer.text)) as Partial<NodeDetail>;
  // A watchdog of another version may not tell where they come from.
  if (settings?.from === undefined) return nothing;
  const does = describePolicy(settings, version);
  if (given === null || sameValues(given, settings)) return { findings: [ok(`${who}: ${does}`)], settings };
  const why = 'other settings than these, because its flags are others, or the file has changed since';
  return { findings: [warn(null, `${who}: ${does}: ${why}: headscale-watchdog reload applies the file`)], settings };
}

function sameValues(
  { from: _, rule: __, ...one }: PolicyView,
  { from: ___, rule: ____, ...other }: PolicyView,
): boolean {
  return Object.entries(one).every(([name, value]) => other[name as keyof typeof other] === value);
}
