import { lookup } from 'node:dns/promises';
import { createServer } from 'node:net';
import type { PolicyView } from '../admin/views.ts';
import { formatTarget, isSigned } from '../config/notify.ts';
import { formatRedisUrl, redisTargetOf } from '../config/redis.ts';
import {
  certificateProblems,
  readAdminTokens,
  readCertificate,
  readNoiseKey,
  readNotifySecret,
} from '../config/secrets.ts';
import type { Config, HostPort, NotifyTarget } from '../config/types.ts';
import { adviceOn, type HeadscaleApi, headscaleApi } from '../headscale/api.ts';
import { POINT_AT_HEADSCALE } from '../headscale/node-requests.ts';
import { inspectHistoryFile } from '../history/history-reading.ts';
import { formatNoiseKey } from '../identity/noise.ts';
import { addressAndPort, hostAndPortOf, isEveryAddress, isLoopback, ownAddresses } from '../lib/addresses.ts';
import { systemClock } from '../lib/clock.ts';
import { type ErrorCode, NoAnswerError, reasonOf, StartError } from '../lib/errors.ts';
import { fieldsOf } from '../lib/json.ts';
import { deliverOnce, poster } from '../notify/delivery.ts';
import { testMessage } from '../notify/messages.ts';
import { gatewaysOfContainer } from '../proxy/front-proxies.ts';
import { listen } from '../proxy/listening.ts';
import { readFromRunning } from './admin-client.ts';
import { evidenceFindings, frontProxyFindings, streamFindings } from './check-evidence.ts';
import { givenNode, listNodes, runningNode } from './check-nodes.ts';
import { type Finding, fail, ok, problemsOf, warn } from './findings.ts';
import { type Colour, type Console, coloured, EXIT, type ExitCode } from './terminal.ts';

export interface CheckOptions {
  /** A node's name, id, machine key or node key, to print its settings too. */
  readonly node?: string | undefined;
  /** Print one JSON object. */
  readonly json?: boolean;
}

/** What `check --json` prints. Members may be added, and none changes its meaning. */
interface CheckReport {
  /** Whether nothing has failed. */
  readonly ok: boolean;
  readonly counts: Readonly<Record<Finding['level'], number>>;
  readonly findings: readonly NamedFinding[];
  /** With `--node`: its settings according to these flags, variables and file, and in the running watchdog. */
  readonly node: CheckedNode | null;
}

interface CheckedNode {
  readonly asked: string;
  /** Null if nobody knows the node. */
  readonly given: PolicyView | null;
  /** Null if no watchdog runs, or it does not know the node. */
  readonly running: PolicyView | null;
}

/** A finding, and what was checked. */
interface NamedFinding extends Finding {
  readonly check: CheckName;
}

type CheckName =
  | (
      | 'settings'
      | 'headscale'
      | 'noise-key'
      | 'nodes-api'
      | 'certificates'
      | 'notify'
      | 'history-file'
      | 'redis'
      | 'evidence'
      | 'admin-token'
    )
  | ('ports' | 'front-proxies' | 'streams' | 'node');

const COLOURS: Readonly<Record<Finding['level'], Colour>> = { ok: 'green', warn: 'yellow', fail: 'red' };

/**
 * Checks whether `serve` would work with this configuration on this machine. Prints one line for each finding, and how many
 * there are.
 *
 * @param gateways of the container that this process runs in.
 * @returns the exit code: 1 if something failed; as with `serve`, 2 if the settings themselves cannot be used.
 */
export async function runCheck(
  readConfig: () => Config,
  { node: asked, json }: CheckOptions,
  out: Pick<Console, 'stdout' | 'colours'>,
  gateways: () => readonly string[] = gatewaysOfContainer,
): Promise<ExitCode> {
  const counts = { ok: 0, warn: 0, fail: 0 };
  const found: NamedFinding[] = [];
  let node: CheckedNode | null = null;
  const print = (text: string): unknown => (json === true ? undefined : out.stdout.write(`${text}\n`));
  for await (const [check, checked] of findingsOf(readConfig, asked, gateways)) {
    node = checked.node ?? null;
    for (const finding of checked.findings) {
      const { level, code, text } = finding;
      counts[level] += 1;
      found.push({ check, level, code, text });
      print(`${coloured(out, COLOURS[level], level.padEnd(5))} ${code === null ? '' : `[${code}] `}${text}`);
    }
  }
  print(`\n${coloured(out, counts.fail > 0 ? 'red' : counts.warn > 0 ? 'yellow' : 'green', summaryOf(counts))}`);
  const report: CheckReport = { ok: counts.fail === 0, counts, findings: found, node };
  if (json) out.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
  if (found.some(({ check, level }) => check === 'settings' && level === 'fail')) return EXIT.usage;
  return report.ok ? EXIT.done : EXIT.failed;
}

function summaryOf({ ok: well, warn: warnings, fail: failed }: CheckReport['counts']): string {
  const many = `${well} ok, ${warnings} ${warnings === 1 ? 'warning' : 'warnings'}, ${failed} failed`;
  if (failed > 0) return `${many}: correct what failed, and check again`;
  return warnings > 0
    ? `${many}: serve would work here, and the warnings say what it would lack`
    : `${many}: serve would work here`;
}

interface Checked {
  readonly findings: readonly Finding[];
  readonly node?: CheckedNode;
}

async function* findingsOf(
  readConfig: () => Config,
  asked: string | undefined,
  gateways: () => readonly string[],
): AsyncGenerator<readonly [CheckName, Checked]> {
  const named = (check: CheckName, findings: readonly Finding[]) => [check, { findings }] as const;
  let config: Config;
  try {
    config = readConfig();
  } catch (error) {
    yield named('settings', problemsOf(error));
    return;
  }
  const { length } = config.rules;
  yield named('settings', [
    ok(`configuration: valid${length > 0 ? `, ${length} ${length === 1 ? 'rule' : 'rules'} for nodes` : ''}`),
  ]);
  const api = headscaleApi(config.upstream);
  try {
    const headscale = (await ownListener(config)) ?? (await askHeadscale(api, config.upstream));
    yield named('headscale', [headscale.finding]);
    yield named('noise-key', noiseKeyFindings(config, headscale.key));
    const listed = await listNodes(api, config, headscale.version);
    yield named('nodes-api', listed.findings);
    yield named('certificates', certificateFindings(config));
    yield named('notify', findingsOfTargets(config));
    yield named('history-file', historyFindings(config));
    yield named('redis', redisFindings(config));
    yield named('evidence', await evidenceFindings(config));
    const { token, findings: ofToken } = readToken(config);
    yield named('admin-token', ofToken);
    yield named('ports', await portFindings(config, token));
    yield named('front-proxies', await frontProxyFindings(config, token, gateways()));
    yield named('streams', await streamFindings(config, token));
    if (asked === undefined) return;
    const given = givenNode(config, asked, listed.nodes, headscale.version);
    const running = await runningNode(config, token, asked, given);
    const node = { asked, given: given.settings, running: running.settings };
    yield ['node', { findings: [given.finding, ...running.findings], node }];
  } finally {
    await api.close();
  }
}

interface AskedHeadscale {
  readonly finding: Finding;
  /** `mkey:` and 64 hex digits; undefined if Headscale has not sent its key. */
  readonly key: string | undefined;
  readonly version: string | undefined;
}

/** The settings know addresses alone. Here DNS and the machine's own addresses show whether `--upstream` leads back to the watchdog. */
async function ownListener({ upstream, listen: listens }: Config): Promise<AskedHeadscale | undefined> {
  const { host, port } = hostAndPortOf(upstream);
  const addresses = (await lookup(host, { all: true }).catch(() => [])).map(({ address }) => address);
  const here = ownAddresses();
  const isOwn = (each: HostPort): boolean =>
    each.port === port && addresses.some((to) => to === each.host || (isEveryAddress(each.host) && here.includes(to)));
  const own = listens.find(isOwn);
  if (own === undefined) return undefined;
  const text = `--upstream ${upstream.origin} leads to the watchdog's own --listen ${addressAndPort(own.host, own.port)}, so each request would go round in circles: name Headscale's listen_addr`;
  return { finding: fail('HSW_CONFIG_INVALID', text), key: undefined, version: undefined };
}

async function askHeadscale(api: HeadscaleApi, upstream: URL): Promise<AskedHeadscale> {
  const where = `Headscale at ${upstream.origin}`;
  try {
    const [key, version] = await Promise.all([api.noisePublicKey(), api.version()]);
    const finding =
      key === undefined
        ? fail(
            'HSW_UPSTREAM_NOT_HEADSCALE',
            `${where}: something answers, but not Headscale: ${upstream.protocol === 'http:' ? `write https://${upstream.host} if Headscale listens with TLS, or ` : ''}${POINT_AT_HEADSCALE}`,
          )
        : ok(`${where}: answers${version === undefined ? ', older than 0.27' : `, ${version}`}`);
    return { finding, key, version };
  } catch (error) {
    const code = error instanceof NoAnswerError ? 'HSW_UPSTREAM_SILENT' : 'HSW_UPSTREAM_UNREACHABLE';
    const text = `${where}: ${reasonOf(error)}: ${adviceOn(error, upstream)}`;
    return { finding: fail(code, text), key: undefined, version: undefined };
  }
}

function noiseKeyFindings({ noiseKeyFile }: Config, theirs: string | undefined): readonly Finding[] {
  if (noiseKeyFile === undefined) {
    const text = 'Noise key: not set, so the watchdog cannot tell nodes apart and contests no stream: set --noise-key';
    return [warn('HSW_NOISE_KEY_MISSING', text)];
  }
  try {
    const ours = formatNoiseKey(readNoiseKey(noiseKeyFile));
    if (theirs === undefined) {
      return [warn(null, 'Noise key: read, but not compared, because Headscale has not sent its key')];
    }
    if (ours === theirs) return [ok('Noise key: the same as that of the running Headscale')];
    const text = `Noise key: ${noiseKeyFile} holds ${ours}, Headscale has ${theirs}: point --noise-key at the file that its noise.private_key_path names`;
    return [fail('HSW_NOISE_KEY_MISMATCH', text)];
  } catch (error) {
    return problemsOf(error);
  }
}

function historyFindings({ historyFile }: Config): readonly Finding[] {
  if (historyFile === undefined) return [];
  return unlessItThrows(() => {
    const { bytes } = inspectHistoryFile(historyFile);
    return ok(`history file ${historyFile}: ${bytes === 0 ? 'can be made' : `${bytes} bytes`}`);
  });
}

/** Redis is not asked: without it, each watchdog works on alone. */
function redisFindings({ redis }: Config): readonly Finding[] {
  if (redis === undefined) return [];
  return unlessItThrows(() => {
    redisTargetOf(redis);
    return ok(`Redis at ${formatRedisUrl(redis.url)}: the settings can be used; it was not asked`);
  });
}

function unlessItThrows(find: () => Finding): readonly Finding[] {
  try {
    return [find()];
  } catch (error) {
    return problemsOf(error);
  }
}

function certificateFindings({ listen }: Config): readonly Finding[] {
  return listen.flatMap(({ tls }) => {
    if (tls === undefined) return [];
    try {
      const certificate = readCertificate(tls);
      const { expires, names, key, isRsa } = certificate;
      key.fill(0);
      const what = `certificate ${tls.certFile}`;
      const problems = certificateProblems(certificate, systemClock.dateOf(systemClock.now()));
      // To sign with RSA takes most of the time of a TLS handshake.
      const advice = isRsa ? '; its key is RSA: with a P-256 key, new connections take much less processor time' : '';
      const until = expires.toISOString().slice(0, 10);
      if (problems.length === 0) return [ok(`${what}: for ${names}, until ${until}${advice}`)];
      return problems.map(({ level, code, text }) => ({ level, code, text: `${what} for ${names} ${text}` }));
    } catch (error) {
      return problemsOf(error);
    }
  });
}

function readToken(config: Config): {
  readonly token: string | undefined;
  readonly findings: readonly Finding[];
} {
  if (config.adminTokenFile === undefined) return { token: undefined, findings: [] };
  try {
    const { all, read } = readAdminTokens(config);
    const ofRead = read === undefined ? [] : [ok('admin token that may only read: read')];
    return { token: all, findings: [ok('admin token: read'), ...ofRead] };
  } catch (error) {
    return { token: undefined, findings: problemsOf(error) };
  }
}

/** Whether the ports are free, or the running watchdog's. */
async function portFindings(config: Config, token: string | undefined): Promise<readonly Finding[]> {
  const running = await listenPorts(config, token);
  const at = (flag: string, { host, port }: HostPort): string => `${flag} ${addressAndPort(host, port)}`;
  const runs = (what: string): Finding => ok(`${what}: in use by the watchdog that already runs here`);
  const found: Finding[] = [];
  for (const each of config.listen) {
    const what = at('--listen', each);
    if (running?.ports?.includes(each.port)) found.push(runs(what));
    else if (running === undefined || running.ports !== undefined) found.push(...(await canListen(each, '--listen')));
    else {
      const isFree = (await canListen(each, '--listen')).every(({ level }) => level === 'ok');
      found.push(isFree ? ok(`${what}: free`) : warn(null, `${what}: in use, perhaps by the watchdog that runs here`));
    }
  }
  const admin = at('--admin', config.admin);
  if (running === undefined) found.push(...(await canListen(config.admin, '--admin')));
  else if (running.ports !== undefined) found.push(runs(admin));
  else {
    const why =
      config.adminTokenFile === undefined
        ? 'asks for its token'
        : `does not accept the token in ${config.adminTokenFile}`;
    const advice = 'give the file that its own --admin-token-file names';
    found.push(warn(null, `${admin}: the watchdog that runs here ${why}, so it was not asked about itself: ${advice}`));
  }
  return found;
}

/**
 * Asks an admin server for the ports that its watchdog listens on. Without its token it does not say.
 *
 * @returns undefined without a watchdog there.
 */
function listenPorts(
  config: Config,
  token: string | undefined,
): Promise<{ readonly ports: readonly unknown[] | undefined } | undefined> {
  return readFromRunning(config, '/readyz', token, ({ listen, ready }) => {
    if (Array.isArray(listen)) return { ports: listen.map((address) => fieldsOf(address).port) };
    return typeof ready === 'boolean' ? { ports: undefined } : undefined;
  });
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

/** Sends a test to each target, once, and prints a line for each. @returns 1 if one failed, 3 if there are no targets. */
export async function sendTests({ notify }: Config, out: { write(text: string): unknown }): Promise<ExitCode> {
  if (notify.length === 0) {
    out.write('nobody to notify: add notify: to the file that --config names\n');
    return EXIT.nothing;
  }
  const { post, close } = poster();
  try {
    // All at once, because a receiver that hangs takes ten seconds.
    const tests = await Promise.all(notify.map((target) => testOf(target, post)));
    for (const [i, { code, detail }] of tests.entries()) {
      const what = `target ${i + 1} (${formatTarget(notify[i] as NotifyTarget)})`;
      out.write(`${code === undefined ? 'ok   ' : `fail  [${code}]`} ${what}: ${detail}\n`);
    }
    return tests.every(({ code }) => code === undefined) ? EXIT.done : EXIT.failed;
  } finally {
    await close();
  }
}

async function testOf(
  target: NotifyTarget,
  post: Parameters<typeof deliverOnce>[0]['post'],
): Promise<{ readonly code?: ErrorCode; readonly detail: string }> {
  try {
    const { secretFile } = target;
    const secret = secretFile === undefined ? undefined : readNotifySecret(secretFile, isSigned(target));
    const message = testMessage(systemClock.dateOf(systemClock.now()));
    const { kind, detail } = await deliverOnce({ clock: systemClock, post }, target, secret, message);
    if (kind === 'sent') return { detail };
    return { code: kind === 'failed' ? 'HSW_NOTIFICATION_DELAYED' : 'HSW_NOTIFICATION_DROPPED', detail };
  } catch (error) {
    if (error instanceof StartError) return { code: error.code, detail: error.message };
    throw error;
  }
}

/** What `check` says about the targets. Nothing is sent: that is what `notify --test` is for. */
function findingsOfTargets({ notify }: Config): readonly Finding[] {
  return notify.flatMap((target, i): readonly Finding[] => {
    const what = `notify: target ${i + 1} (${formatTarget(target)})`;
    const { url, secretFile, types, nodes } = target;
    try {
      if (secretFile !== undefined) readNotifySecret(secretFile, isSigned(target));
    } catch (error) {
      if (error instanceof StartError) return [{ level: 'fail', code: error.code, text: `${what}: ${error.message}` }];
      throw error;
    }
    const whose = nodes === undefined ? '' : ', of some nodes';
    const found: Finding[] = [ok(`${what}: ${types.join(', ')}${whose}`)];
    const doubt = (text: string): void => void found.push(warn(null, `${what}: ${text}`));
    if (url.protocol === 'http:' && !isLoopback(url.hostname.replace(/^\[|\]$/g, '')))
      doubt('http is not encrypted: write https if the receiver speaks it');
    if (isSigned(target) && secretFile === undefined)
      doubt('not signed, so the receiver cannot know who sends: set secret-file');
    return found;
  });
}
