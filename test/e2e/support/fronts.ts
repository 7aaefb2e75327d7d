import { expect } from 'vitest';
import type { StreamView } from '../../../src/admin/views.ts';
import { type Certificate, certificateFor } from './certificate.ts';
import type { Lab } from './lab.ts';
import {
  apache,
  CLIENT_PROBES,
  documentedCaddy,
  haproxyTcp,
  type ProxyProgram,
  plainCaddy,
  plainHaproxyHttp,
  plainNginx,
  startProxy,
} from './proxies.ts';
import { type Upstream, Watchdog } from './watchdog.ts';

/** A proxy in front of a watchdog, on its machine and in its network namespace. */
export interface Front {
  readonly name: string;
  readonly proxy: ProxyProgram;
  /** What the watchdog reads there; plain HTTP by default. */
  readonly proxyProtocol?: true;
  readonly scheme: 'http' | 'https';
  /** Whether the proxy tells its clients' ports. */
  readonly by: 'port' | 'address';
  /** As whom it runs. */
  readonly user: 'root' | 'www-data';
}

function front(proxy: ProxyProgram, given: Partial<Front> = {}): Front {
  return { name: proxy.name, proxy, scheme: 'http', by: 'address', user: 'root', ...given };
}

const KEEPALIVE = 'so_keepalive=15s:15s:3';
const PORT_IN_FORWARDED = `http-request set-header Forwarded 'for="%[src]:%[src_port]"'`;
const PORT_BESIDE = 'option forwardfor\n  http-request set-header X-Real-Port %[src_port]';

const CADDY = front(documentedCaddy, { scheme: 'https' });
export const PLAIN_CADDY = front(plainCaddy('Caddy'));
export const CADDY_WITH_PORT = front(
  plainCaddy('Caddy as www-data, X-Real-Port', 'header_up X-Real-Port {remote_port}', 'www-data'),
  { by: 'port', user: 'www-data' },
);

/** Those that probe an idle client themselves, every 15 s. */
export const PROBING: readonly Front[] = [
  CADDY,
  CADDY_WITH_PORT,
  front(plainNginx(`nginx, ${KEEPALIVE}`, KEEPALIVE)),
  front(plainHaproxyHttp('HAProxy, mode http, clitcpka, Forwarded with ports', PORT_IN_FORWARDED, CLIENT_PROBES), {
    by: 'port',
  }),
  front(haproxyTcp('send-proxy-v2', CLIENT_PROBES), {
    name: 'HAProxy, mode tcp, clitcpka, send-proxy-v2',
    proxyProtocol: true,
    by: 'port',
  }),
];

/** Those behind which nothing but what Headscale says shows that a client is gone. */
export const NOT_PROBING: readonly Front[] = [
  front(plainNginx('nginx')),
  front(plainHaproxyHttp('HAProxy, mode http')),
  front(plainHaproxyHttp('HAProxy, mode http, X-Real-Port', PORT_BESIDE), { by: 'port' }),
  front(haproxyTcp('send-proxy-v2'), { proxyProtocol: true, by: 'port' }),
  front(apache, { user: 'www-data' }),
];

const certificates = new WeakMap<Lab, Promise<Certificate>>();

/** One for all proxies of a lab: its phones trust no other. */
function certificateOf(lab: Lab): Promise<Certificate> {
  const made = certificates.get(lab) ?? certificateFor(lab);
  certificates.set(lab, made);
  return made;
}

/** A watchdog, and the proxy in front of it. @returns what clients are to use as their login server. */
export async function startBehind(
  lab: Lab,
  { proxy, proxyProtocol, scheme }: Front,
  upstream: Upstream,
  ...flags: readonly string[]
): Promise<{ readonly watchdog: Watchdog; readonly url: string }> {
  const { address } = lab.server;
  const [listen, inner] = [`${address}:${lab.port()}`, `${address}:${lab.port()}`];
  const more = proxyProtocol ? ['--listen', `http://${inner}?proxy-protocol=true`] : [];
  const watchdog = await Watchdog.start(lab, upstream, '--trusted-proxies', address, ...more, ...flags);
  const target = proxyProtocol ? inner : new URL(watchdog.url).host;
  await startProxy(lab, proxy, { listen, watchdog: target, certificate: await certificateOf(lab) });
  return { watchdog, url: `${scheme}://${listen}` };
}

/** Expects that what is known of this stream's client comes from the socket of the proxy in front. */
export function expectEvidenceFrom({ by, user }: Pick<Front, 'by' | 'user'>, stream: StreamView): void {
  expect(stream.evidence).toEqual({ source: 'proxy', by, user, reason: null });
}

/** Expects that nothing is known of this stream's client, and why. */
export function expectNoEvidence(stream: StreamView, reason: string): void {
  expect(stream.evidence).toEqual({ source: 'none', by: null, user: null, reason });
  expect(stream.kernel).toBeNull();
}
