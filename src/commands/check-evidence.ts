import { connect, createServer, type Socket } from 'node:net';
import type { Overview, StreamView } from '../admin/views.ts';
import { TRUSTED_BY_DEFAULT } from '../config/settings.ts';
import type { Cidr, Config } from '../config/types.ts';
import { addressAndPort, isLoopback, ownAddresses, plainAddress } from '../lib/addresses.ts';
import { systemClock } from '../lib/clock.ts';
import { enableKeepAlive } from '../liveness/client-connection.ts';
import { loadKernel } from '../liveness/kernel.ts';
import { loadSockDiag, type SockDiagOrNot } from '../liveness/sock-diag.ts';
import { trustOf } from '../proxy/trusted-proxies.ts';
import type { EvidenceSource } from '../streams/stream.ts';
import { readFromRunning } from './admin-client.ts';
import { type Finding, ok, warn } from './findings.ts';

const SILENCE_ONLY = 'so only their silence shows that they are gone, and gone-after does nothing for them';

/** Whether Linux tells us about clients: about their connections to us, and to the proxies in front. */
export async function evidenceFindings(
  config: Config,
  loadDiag: () => Promise<SockDiagOrNot> = () => loadSockDiag(systemClock),
  addresses: () => readonly string[] = ownAddresses,
): Promise<readonly Finding[]> {
  const found = [await directFinding(), ...listenFindings(config)];
  if (config.trustedProxies.length === 0) return found;
  const diag = await loadDiag();
  const failure = diag.ok ? await whyNotShown(diag) : diag.why;
  if (diag.ok) diag.sockDiag.close();
  return [...found, ...proxyFindings(config, failure, addresses())];
}

async function directFinding(): Promise<Finding> {
  const loaded = await loadKernel();
  if (!loaded.ok) {
    return warn(
      'HSW_KERNEL_EVIDENCE_UNAVAILABLE',
      `kernel evidence: not available, ${loaded.why}: only silence shows that a stream is dead, and gone-after has no effect`,
    );
  }
  const says = await withLoopback((socket) => {
    enableKeepAlive(loaded.kernel, socket, 'waiting client');
    return loaded.kernel.evidenceOf(socket);
  });
  return says === undefined
    ? warn(
        'HSW_KERNEL_EVIDENCE_UNAVAILABLE',
        'kernel evidence: Linux gives no answer, so only silence shows that a stream is dead',
      )
    : ok('kernel evidence: Linux reports on connections, and can probe them');
}

/** Listeners that only a proxy on this machine can reach, which is not trusted. */
function listenFindings({ listen, trustedProxies }: Config): readonly Finding[] {
  const trust = trustOf(trustedProxies);
  return listen.flatMap(({ host, port }) => {
    if (!isLoopback(host) || trust(host === 'localhost' ? '127.0.0.1' : host)) return [];
    const what = `kernel evidence: --listen ${addressAndPort(host, port)} is reached from this machine only`;
    const other = 'clients come through another program on this machine, and its kernel answers for them';
    const advice = 'name it with --trusted-proxies; until then, only silence severs their dead streams';
    return [warn('HSW_PROXY_NOT_TRUSTED', `${what}: ${other}: ${advice}`)];
  });
}

/** @param failure why Linux does not show the connections of other programs. */
function proxyFindings(
  { listen, trustedProxies }: Config,
  failure: string | undefined,
  own: readonly string[],
): readonly Finding[] {
  if (failure !== undefined) {
    const text = `kernel evidence behind a proxy: Linux does not show the proxy's connections (${failure})`;
    // Nobody has said that there is a proxy.
    const isMaybeUnused = trustedProxies === TRUSTED_BY_DEFAULT && !listen.some(({ host }) => isLoopback(host));
    return isMaybeUnused
      ? [ok(`${text}: this only matters if there is a proxy in front`)]
      : [warn('HSW_PROXY_SOCKETS_HIDDEN', `${text}: nothing is known about its clients, ${SILENCE_ONLY}`)];
  }
  const places = trustedProxies.map((proxies) => ({ proxies, ...placeOf(proxies, own) }));
  const here = places.flatMap(({ seen }) => seen);
  const elsewhere = places.filter(({ isAllHere }) => !isAllHere).map(({ proxies }) => proxies);
  const found: Finding[] = [];
  if (here.length > 0) {
    const text = `kernel evidence behind a proxy: Linux shows the connections between a proxy at ${here.join(', ')} and its clients`;
    found.push(ok(text));
  }
  if (elsewhere.length > 0) {
    const whose = here.length > 0 ? 'any other proxy' : 'a proxy';
    const where = `${elsewhere.join(', ')}, outside this machine or network namespace`;
    const advice = "run the watchdog in that proxy's network namespace, or on its machine: see docs/proxies.md";
    const text = `kernel evidence behind a proxy: none about the clients of ${whose} at ${where}, ${SILENCE_ONLY}: ${advice}`;
    found.push(warn('HSW_PROXY_SOCKETS_HIDDEN', text));
  }
  return found;
}

/** Which of a range of trusted proxies are on this machine, and whether all are. */
function placeOf(
  proxies: Cidr,
  own: readonly string[],
): { readonly seen: readonly string[]; readonly isAllHere: boolean } {
  const [address = '', bits] = proxies.split('/');
  const isSingle = bits === undefined || bits === (address.includes(':') ? '128' : '32');
  if (isLoopback(plainAddress(address)) && (isSingle || Number(bits) >= 8)) return { seen: [proxies], isAllHere: true };
  const seen = own.filter(trustOf([proxies]));
  return { seen, isAllHere: isSingle && seen.length > 0 };
}

/** Looks for the other end of a connection, as the watchdog does for a proxy's. @returns why it was not found. */
function whyNotShown({ sockDiag }: SockDiagOrNot & { ok: true }): Promise<string | undefined> {
  return withLoopback(({ localAddress = '', localPort = 0, remoteAddress = '', remotePort = 0 }) => {
    const [local, remote] = [
      { address: localAddress, port: localPort },
      { address: remoteAddress, port: remotePort },
    ];
    const found = sockDiag.find({ local: remote, remote: local });
    if (!found.ok) return found.why;
    return found.socket === undefined ? 'it does not find one that is there' : undefined;
  });
}

/** Calls `ask` with a connection of this process to itself. */
function withLoopback<T>(ask: (socket: Socket) => T): Promise<T> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.on('error', () => {}).resume());
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      const client = connect({ port, host: '127.0.0.1' }, () => {
        const answer = ask(client);
        client.destroy();
        server.close(() => resolve(answer));
      });
      client.once('error', reject);
    });
  });
}

/** Where a running watchdog has the evidence of its streams from. @returns undefined if it has no streams. */
export function streamEvidenceFinding(streams: readonly Pick<StreamView, 'evidence'>[]): Finding | undefined {
  if (streams.length === 0) return undefined;
  const from = (source: EvidenceSource['kind']) => streams.filter(({ evidence }) => evidence.source === source);
  const none = from('none');
  const reasons = [...new Set(none.map(({ evidence }) => evidence.reason ?? 'unknown'))];
  const text = [
    `kernel evidence of the ${streams.length} open ${streams.length === 1 ? 'stream' : 'streams'}:`,
    `${from('direct').length} from the client's own connection, ${from('proxy').length} from the proxy's,`,
    `${none.length} without${none.length === 0 ? '' : ` (${reasons.join(', ')}): see docs/proxies.md`}`,
  ].join(' ');
  return none.length === 0 ? ok(text) : warn('HSW_PROXY_SOCKETS_HIDDEN', text);
}

/** The problems with proxies that a running watchdog has seen. If none is running, those that can be seen without requests. */
export async function frontProxyFindings(
  config: Config,
  token: string | undefined,
  gateways: readonly string[],
): Promise<readonly Finding[]> {
  const seen = await readFromRunning(config, '/overview', token, ({ frontProxies }) =>
    Array.isArray(frontProxies) ? (frontProxies as Overview['frontProxies']).map(frontProxyFinding) : undefined,
  );
  if (seen !== undefined) {
    return seen.length === 0
      ? [ok('proxies in front: the watchdog that runs here has found no problem with them')]
      : seen;
  }
  const why = 'a proxy of the container engine or of the host connects from there';
  const untrusted = gateways.filter((each) => !trustOf(config.trustedProxies)(each));
  return untrusted.map((each) =>
    warn(
      'HSW_PROXY_NOT_TRUSTED',
      `proxies in front: ${each} is the gateway of this container: ${why}, and is not trusted: see docs/proxies.md`,
    ),
  );
}

function frontProxyFinding({ code, sentence }: Overview['frontProxies'][number]): Finding {
  return { level: 'warn', code, text: `proxies in front: ${sentence}` };
}

/** Where the evidence of the running watchdog's streams comes from. */
export async function streamFindings(config: Config, token: string | undefined): Promise<readonly Finding[]> {
  const finding = await readFromRunning(config, '/streams', token, ({ streams }) =>
    Array.isArray(streams) ? streamEvidenceFinding(streams as StreamView[]) : undefined,
  );
  return finding === undefined ? [] : [finding];
}
