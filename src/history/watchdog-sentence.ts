import { reasonOf } from '../lib/errors.ts';
import type { FrontProxyEvent, WatchdogEvent } from '../streams/events.ts';
import { whyRefused } from '../telemetry/refused-status.ts';
import { span } from './span.ts';

type HealthEvent = Exclude<
  WatchdogEvent,
  {
    readonly kind:
      | 'stream opened'
      | 'stream closed'
      | 'held'
      | 'released'
      | 'severed'
      | 'would sever'
      | 'contest opened'
      | 'contest ended'
      | 'duplicate machine key';
  }
>;

/** What happened to the watchdog itself, to Headscale, or to somebody who could not be identified. */
export function healthSentence(event: HealthEvent): string {
  switch (event.kind) {
    case 'handshake':
      return handshakeSentence(event);
    case 'upstream up':
      return `Headscale is up at ${event.upstream}${event.version === undefined ? '' : `, version ${event.version}`}.`;
    case 'upstream down':
      return `Headscale cannot be reached at ${event.upstream} (${event.reason}): clients get 502.`;
    case 'upstream silent':
      return event.silence.on === 'requests'
        ? `Headscale accepts connections at ${event.upstream} but does not answer: clients get 504. See its log and load, and restart it.`
        : `Headscale has said nothing on ${event.silence.silent} of ${event.silence.of} control streams for more than two minutes. Unless they wait for a login it hangs: see its log and load, and restart it.`;
    case 'upstream is not Headscale':
      return `What answers at ${event.upstream} is not Headscale: point --upstream at Headscale's listen_addr.`;
    case 'upstream refused':
      return event.streamKind === 'control'
        ? `Headscale refused a control stream from ${event.remoteAddress} with ${event.status}: ${whyRefused(event.status)}.`
        : `Headscale refused an upgrade from ${event.remoteAddress} with ${event.status}.`;
    case 'upstream misled':
      return `Headscale switched a request from ${event.remoteAddress} to ${event.switchedTo || 'no protocol'}, which it was not asked for; the client got 502.`;
    case 'noise key checked':
      return event.matches
        ? "The noise key is Headscale's."
        : "The noise key is not Headscale's, so no node can be told apart: point --noise-key at the running Headscale's noise_private.key.";
    case 'nodes listed':
      return `Headscale lists ${event.nodes} ${event.nodes === 1 ? 'node' : 'nodes'}: they are known by name.`;
    case 'nodes not listed':
      return `Headscale's nodes cannot be listed (${event.reason}): the last known names stay.`;
    case 'node metrics off':
      return `The metrics of single nodes are off: there are more nodes than --metrics-max-nodes, ${event.maxNodes}.`;
    case 'connection refused':
      return `A connection from ${event.address} was refused: ${event.why}.`;
    case 'limit reached':
      return `A limit was reached, ${event.limit.replaceAll('_', ' ')}${event.address === undefined ? '' : ` (${event.address})`}: ${event.why}.`;
    case 'draining':
      return `The watchdog is stopping: ${event.streams} ${event.streams === 1 ? 'stream ends' : 'streams end'} ${event.overMs === 0 ? 'at once' : `one by one over ${span(event.overMs)}`}.`;
    case 'drained':
      return `The watchdog has stopped; all streams had ended after ${span(event.tookMs)}.`;
    case 'redis up':
      return `Redis is up at ${event.url}: the watchdogs that use it know of each other's streams.`;
    case 'redis down':
      return `Redis cannot be used at ${event.url} (${event.reason}): this watchdog goes on alone.`;
    case 'replica not believed':
      return `A message in Redis at ${event.url} was not believed: another watchdog there reads another noise key, or somebody else writes there.`;
    case 'proxy not trusted':
    case 'client addresses hidden':
    case 'upgrade header lost':
      return frontProxySentence(event);
    case 'internal error':
      return `An error of the watchdog while ${event.during} (${reasonOf(event.error)}): traffic flows on, see its log.`;
    default:
      return settingsSentence(event);
  }
}

/** Also in the log, in `/overview` and in what `check` says: each says what to do. */
export function frontProxySentence(event: FrontProxyEvent): string {
  const { address } = event;
  switch (event.kind) {
    case 'proxy not trusted': {
      const dropped = `so the header is ignored and every client behind it counts as ${address}`;
      const what = event.isEngine
        ? `${address} sends ${event.header} and is not trusted, ${dropped}. It is an address or a gateway of this machine, so these connections most likely come through a proxy of the container engine: publish the port on 127.0.0.1 only, so that nobody but your own proxy can use it`
        : `${address} sends ${event.header} and is not trusted, ${dropped}. If it is your proxy`;
      return `${what}${event.isEngine ? ', and' : ','} set --trusted-proxies ${event.setting}.`;
    }
    case 'client addresses hidden':
      return hiddenSentence(event);
    case 'upgrade header lost': {
      const from = event.isTrusted ? `the proxy at ${address}` : address;
      const lost = event.header === 'upgrade' ? 'Upgrade' : 'X-Tailscale-Handshake';
      return `A request for /ts2021 from ${from} has no ${lost} header, so no node can log in with it. A proxy in front of the watchdog must pass on Upgrade, Connection and X-Tailscale-Handshake, with HTTP/1.1 (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;): see docs/proxies.md.`;
    }
    default:
      return event satisfies never;
  }
}

function hiddenSentence({
  address,
  isTrusted,
  isEngine,
}: Extract<FrontProxyEvent, { readonly kind: 'client addresses hidden' }>): string {
  const many = `Several nodes come from ${address}, so their own addresses are not known`;
  if (isEngine) {
    return `${many}. It is an address or a gateway of this machine: a proxy of the container engine (docker-proxy, rootless Docker, slirp4netns, pasta) puts its own address there. Use the host's network for the watchdog's container, or put a proxy on the host in front that sends X-Forwarded-For: see docs/proxies.md.`;
  }
  if (isTrusted) {
    return `${many}: the proxy there is trusted, and says nothing of its clients. Have it send X-Forwarded-For (HAProxy: option forwardfor) or the PROXY protocol: see docs/proxies.md.`;
  }
  return `${many}. A proxy of the container engine (docker-proxy, rootless Docker, slirp4netns, pasta), a NAT or a proxy that sends no X-Forwarded-For puts its own address there: see docs/proxies.md.`;
}

type SettingsEvent = Extract<
  HealthEvent,
  { readonly kind: 'key read again' | 'key not read again' | 'reloaded' | 'not reloaded' }
>;

function settingsSentence(event: SettingsEvent): string {
  switch (event.kind) {
    case 'key read again':
      return `The ${event.key} was read again, since its file has changed.`;
    case 'key not read again':
      return `A key file has changed and cannot be used, so the key in use stays: ${event.problem}.`;
    case 'reloaded': {
      const changed = event.changes.length === 0 ? 'no setting has changed' : event.changes.join(', ');
      const waiting =
        event.needRestart.length === 0 ? '' : `; these wait for a restart: ${event.needRestart.join(', ')}`;
      return `The settings were reloaded: ${changed}${waiting}.`;
    }
    case 'not reloaded':
      return `The settings were not reloaded, and nothing has changed: ${event.problems.join('; ')}.`;
    default:
      return event satisfies never;
  }
}

function handshakeSentence(event: Extract<WatchdogEvent, { readonly kind: 'handshake' }>): string {
  const { result, remoteAddress, why } = event;
  const passedOn = 'it was passed on without knowing whose it is';
  switch (result) {
    case 'identified':
      return `A handshake from ${remoteAddress} was read.`;
    case 'unreadable':
      return `A handshake from ${remoteAddress} could not be read${why === undefined ? '' : ` (${why})`}: ${passedOn}.`;
    case 'missing':
      return `A connection from ${remoteAddress} had no handshake: ${passedOn}.`;
    case 'replayed':
      return `A handshake from ${remoteAddress} had been seen before: ${passedOn}.`;
    default:
      return result satisfies never;
  }
}
