import { addressAndPort } from '../lib/addresses.ts';
import { formatDuration, formatSize } from '../lib/units.ts';
import { formatListen } from './listen.ts';
import { formatRedisUrl } from './redis.ts';
import type { Config, Hold, NodePolicy } from './types.ts';

/** The differences between two configurations, each as text: `silent-after: 30s → 10s`. */
export interface Changes {
  /** Changes that a running watchdog applies. */
  readonly changes: string[];
  /** Changes that apply only after a restart, because open sockets depend on them. */
  readonly needRestart: string[];
}

export function changesBetween(before: Config, after: Config): Changes {
  const differ = (texts: (config: Config) => readonly (readonly [key: string, value: string])[]): string[] => {
    const now = texts(after);
    return texts(before).flatMap(([key, was], index) => {
      const is = now[index]?.[1];
      return is === was || is === undefined ? [] : [`${key}: ${was} → ${is}`];
    });
  };
  return {
    changes: [...differ(changeable), ...changedRules(before, after), ...changedTargets(before, after)],
    needRestart: differ(fixed),
  };
}

function fixed({
  upstream,
  listen,
  admin,
  adminTokenFile,
  adminReadTokenFile,
  redis,
  historyFile,
  limits,
}: Config): readonly (readonly [string, string])[] {
  return [
    ['upstream', upstream.origin],
    ['listen', listen.map(formatListen).join(', ')],
    ['admin', addressAndPort(admin.host, admin.port)],
    ['admin-token-file', adminTokenFile ?? 'none'],
    ['admin-read-token-file', adminReadTokenFile ?? 'none'],
    ['max-header-size', formatSize(limits.headerBytes)],
    ['header-timeout', formatDuration(limits.headerMs)],
    ['body-timeout', formatDuration(limits.bodyMs)],
    ['max-history', String(limits.history)],
    ['history-file', historyFile ?? 'none'],
    ['max-history-file-size', formatSize(limits.historyFileBytes)],
    ['redis', redis === undefined ? 'none' : formatRedisUrl(redis.url)],
    ['redis-password-file', redis?.passwordFile ?? 'none'],
    ['redis-ca-file', redis?.caFile ?? 'none'],
    ['redis-prefix', redis?.prefix ?? 'none'],
    ['replica-name', redis?.replicaName ?? 'none'],
  ];
}

function changeable(config: Config): readonly (readonly [string, string])[] {
  return [
    ['noise-key', config.noiseKeyFile ?? 'none'],
    ['headscale-api-key-file', config.apiKeyFile ?? 'none'],
    ['headscale-oauth-client-file', config.oauthClientFile ?? 'none'],
    ['trusted-proxies', config.trustedProxies.join(', ') || 'none'],
    ['acme-webroot', config.acmeWebroot ?? 'none'],
    ['admin-cors-origin', config.adminCorsOrigins.join(', ') || 'none'],
    ...policyTexts(config.policy),
    ['reconcile', config.reconcile],
    ['upstream-silent-sever', String(config.upstreamSilentSever)],
    ['drain', durationOrOff(config.drainMs)],
    ...limitTexts(config),
    ['metrics.max-nodes', String(config.metricsMaxNodes)],
    ['log-level', config.logLevel],
  ];
}

function limitTexts({ limits, pace }: Config): readonly (readonly [string, string])[] {
  return [
    ['max-connections', String(limits.connections)],
    ['max-connections-per-address', String(limits.connectionsPerAddress)],
    ['max-handshakes', String(limits.handshakes.perSecond)],
    ['max-handshakes-per-address', String(limits.handshakesPerAddress.perSecond)],
    ['max-streams-per-node', String(limits.streamsPerNode)],
    ['max-held', String(limits.held)],
    ['max-body-size', formatSize(limits.bodyBytes)],
    ['max-early-size', formatSize(limits.earlyBytes)],
    ['upstream-rate', pace === undefined ? 'off' : String(pace.perSecond)],
    ['upstream-burst', pace === undefined ? 'off' : String(pace.burst)],
  ];
}

function policyTexts(policy: NodePolicy): readonly (readonly [string, string])[] {
  return [
    ['silent-after', formatDuration(policy.silentAfterMs)],
    ['gone-after', durationOrOff(policy.goneAfterMs)],
    ['probe-idle', durationOrOff(policy.probeIdleMs)],
    ['hold', formatHold(policy.hold)],
    ['observe-only', String(policy.observeOnly)],
    ['offline-after', durationOrOff(policy.offlineAfterMs)],
  ];
}

function changedRules({ rules: before }: Config, { rules: after }: Config): readonly string[] {
  if (before.length !== after.length)
    return [`nodes: ${countOf(before.length, 'rule')} → ${countOf(after.length, 'rule')}`];
  // load.ts built both, and gives the members of a rule always the same order.
  return JSON.stringify(before) === JSON.stringify(after) ? [] : ['nodes: changed'];
}

/** Only their number, because URLs may hold secrets. */
function changedTargets({ notify: before }: Config, { notify: after }: Config): readonly string[] {
  const number = (targets: Config['notify']): string => countOf(targets.length, 'target');
  if (before.length !== after.length) return [`notify: ${number(before)} → ${number(after)}`];
  return JSON.stringify(before) === JSON.stringify(after) ? [] : ['notify: changed'];
}

function countOf(number: number, noun: string): string {
  return number === 1 ? `1 ${noun}` : `${number} ${noun}s`;
}

/** A duration as text; `off` for 0, which means never in `NodePolicy`. */
export function durationOrOff(ms: number): string {
  return ms === 0 ? 'off' : formatDuration(ms);
}

export function formatHold(hold: Hold): string {
  return hold.kind === 'at most' ? formatDuration(hold.ms) : hold.kind;
}
