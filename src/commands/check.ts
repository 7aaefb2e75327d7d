import { createServer } from 'node:net';
import type { Overview, StreamView } from '../admin/views.ts';
import { formatTarget, isSigned } from '../config/notify.ts';
import {
  certificateProblems,
  readAdminToken,
  readCertificate,
  readNoiseKey,
  readNotifySecret,
} from '../config/secrets.ts';
import type { Config, HostPort, NotifyTarget } from '../config/types.ts';
import { type HeadscaleApi, headscaleApi } from '../headscale/api.ts';
import { formatNoiseKey } from '../identity/noise.ts';
import { addressAndPort, isLoopback } from '../lib/addresses.ts';
import { systemClock } from '../lib/clock.ts';
import { type ErrorCode, NoAnswerError, reasonOf, StartError } from '../lib/errors.ts';
import { fieldsOf, parseJson } from '../lib/json.ts';
import { deliverOnce, poster } from '../notify/delivery.ts';
import { testMessage } from '../notify/messages.ts';
import { gatewaysOfContainer } from '../proxy/front-proxies.ts';
import { listen } from '../proxy/listening.ts';
import { trustOf } from '../proxy/trusted-proxies.ts';
import { askAdmin } from './admin-client.ts';
import { evidenceFindings, streamEvidenceFinding } from './check-evidence.ts';
import { listNodes, nodeFinding } from './check-nodes.ts';
import { type Finding, fail, ok, problemsOf, warn } from './findings.ts';
import { EXIT, type ExitCode } from './terminal.ts';

export interface CheckOptions {
  /** A node's name, id, machine key or node key, to print its policy too. */
  readonly node?: string | undefined;
  /** Print each finding as JSON. */
  readonly json?: boolean;
}

/**
 * Checks whether `serve` would work with this configuration on this machine. Prints one line for each finding.
 *
 * @param gateways of the container that this process runs in.
 * @returns the exit code: 1 if something failed.
 */
export async function runCheck(
  readConfig: () => Config,
  { node, json }: CheckOptions,
  out: { write(text: string): unknown },
  gateways: () => readonly string[] = gatewaysOfContainer,
): Promise<ExitCode> {
  let failed = false;
  for await (const finding of findings(readConfig, node, gateways)) {
    const { level, code, text } = finding;
    failed ||= level === 'fail';
    const line = `${level.padEnd(5)} ${code === null ? '' : `[${code}] `}${text}`;
    out.write(`${json === true ? JSON.stringify(finding) : line}\n`);
  }
  return failed ? EXIT.failed : EXIT.done;
}

async function* findings(
  readConfig: () => Config,
  node: string | undefined,
  gateways: () => readonly string[],
): AsyncGenerator<Finding> {
  let config: Config;
  try {
    config = readConfig();
  } catch (error) {
    yield* problemsOf(error);
    return;
  }
  yield ok(
    `configuration: valid${config.rules.length > 0 ? `, ${config.rules.length} ${config.rules.length === 1 ? 'rule' : 'rules'} for nodes` : ''}`,
  );
  const api = headscaleApi(config.upstream);
  try {
    const headscale = await askHeadscale(api, config.upstream);
    yield headscale.finding;
    yield* noiseKeyFindings(config, headscale.key);
    const listed = await listNodes(api, config, headscale.version);
    yield* listed.findings;
    yield* certificateFindings(config);
    yield* findingsOfTargets(config);
    yield* await evidenceFindings(config);
    const { token, findings: ofToken } = readToken(config);
    yield* ofToken;
    yield* await portFindings(config, token);
    yield* await frontProxyFindings(config, token, gateways());
    yield* await streamFindings(config, token);
    if (node !== undefined) yield nodeFinding(config, node, listed.nodes, headscale.version);
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

async function askHeadscale(api: HeadscaleApi, upstream: URL): Promise<AskedHeadscale> {
  const where = `Headscale at ${upstream.origin}`;
  try {
    const [key, version] = await Promise.all([api.noisePublicKey(), api.version()]);
    const finding =
      key === undefined
        ? fail(
            'HSW_UPSTREAM_NOT_HEADSCALE',
            `${where}: something answers, but not Headscale: point --upstream at Headscale's listen_addr`,
          )
        : ok(`${where}: answers${version === undefined ? ', older than 0.27' : `, ${version}`}`);
    return { finding, key, version };
  } catch (error) {
    const code = error instanceof NoAnswerError ? 'HSW_UPSTREAM_SILENT' : 'HSW_UPSTREAM_UNREACHABLE';
    const advice = "start it, or point --upstream at Headscale's listen_addr";
    return { finding: fail(code, `${where}: ${reasonOf(error)}: ${advice}`), key: undefined, version: undefined };
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

function certificateFindings({ listen }: Config): readonly Finding[] {
  return listen.flatMap(({ tls }) => {
    if (tls === undefined) return [];
    try {
      const certificate = readCertificate(tls);
      const { expires, names, key } = certificate;
      key.fill(0);
      const what = `certificate ${tls.certFile}`;
      const problems = certificateProblems(certificate, systemClock.dateOf(systemClock.now()));
      if (problems.length === 0) return [ok(`${what}: for ${names}, until ${expires.toISOString().slice(0, 10)}`)];
      return problems.map(({ level, code, text }) => ({ level, code, text: `${what} for ${names} ${text}` }));
    } catch (error) {
      return problemsOf(error);
    }
  });
}

function readToken({ adminTokenFile }: Config): {
  readonly token: string | undefined;
  readonly findings: readonly Finding[];
} {
  if (adminTokenFile === undefined) return { token: undefined, findings: [] };
  try {
    return { token: readAdminToken(adminTokenFile), findings: [ok('admin token: read')] };
  } catch (error) {
    return { token: undefined, findings: problemsOf(error) };
  }
}

async function portFindings(config: Config, token: string | undefined): Promise<readonly Finding[]> {
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
async function frontProxyFindings(
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
async function streamFindings({ admin }: Config, token: string | undefined): Promise<readonly Finding[]> {
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
