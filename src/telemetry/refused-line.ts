import type { FrontProxyEvent, Limit, RefusalReason, WatchdogEvent } from '../streams/events.ts';
import { frontProxySentence } from './describe-event.ts';
import { whyRefused } from './refused-status.ts';

type Of<K extends WatchdogEvent['kind']> = Extract<WatchdogEvent, { readonly kind: K }>;
type Line = readonly ['warn' | 'debug', fields: object, text: string];

const REFUSED: Readonly<Record<RefusalReason, string>> = {
  untrusted_proxy: 'connection refused: it comes from no trusted proxy',
  bad_proxy_header: 'connection refused: it has no PROXY protocol header that can be read',
  unexpected_proxy_header: 'connection refused: it begins with a PROXY protocol header, and this listener expects none',
  tls_handshake: 'connection refused: no TLS session came about',
  bad_request: 'request refused with 400: it could be read in two ways',
};

export function limitLine({ limit, address, detail, isNews }: Of<'limit_reached'>): Line {
  return [isNews ? 'warn' : 'debug', { limit, address, detail }, LIMITED[limit]];
}

const LIMITED: Readonly<Record<Limit, string>> = {
  connections: 'too many connections: new ones are closed, see --max-connections',
  connections_per_address:
    'too many connections from one address: new ones are closed, see --max-connections-per-address',
  handshakes: 'too many handshakes: new ones get 503, see --max-handshakes',
  handshakes_per_address: 'too many handshakes from one address: new ones get 503, see --max-handshakes-per-address',
  streams_per_node:
    'too many streams of one machine key: the one longest unheard is ended for each new one, see --max-streams-per-node',
  held: 'too many new streams are held: new ones go to Headscale unheld, see --max-held',
  body: 'a request that is too large: it gets 413, see --max-body-size',
  upstream_rate: 'a new stream had to wait for too long for its turn: it gets 503 and comes again, see --upstream-rate',
};

/** Who scans the Internet fails at TLS all day; a proxy that is refused is a mistake of somebody's. */
export function refusedLine({ reason, detail, address, isNews }: Of<'connection_refused'>): Line {
  return [isNews && reason !== 'tls_handshake' ? 'warn' : 'debug', { address, detail }, REFUSED[reason]];
}

/** A node that is refused its control stream is cut off; a relay that is switched off is refused every day. */
export function upstreamRefusedLine({ streamKind, remoteAddress, status, isNews }: Of<'upstream_refused'>): Line {
  const fields = { streamKind, remoteAddress, status };
  if (streamKind !== 'control') return ['debug', fields, `Headscale refused an upgrade with ${status}`];
  return [
    isNews ? 'warn' : 'debug',
    fields,
    `Headscale refused a control stream with ${status}, so this node is cut off: ${whyRefused(status)}`,
  ];
}

export function frontProxyLine(event: FrontProxyEvent): Line {
  const isNews = event.kind !== 'upgrade_header_lost' || event.isNews;
  return [isNews ? 'warn' : 'debug', { address: event.address }, frontProxySentence(event)];
}
