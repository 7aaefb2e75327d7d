import { readdirSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import type { Finding, Problems } from '../admin/problems.ts';
import type { Overview, Readiness } from '../admin/views.ts';
import { certificateProblems } from '../config/secrets.ts';
import type { Checkup } from '../headscale/checkup.ts';
import type { NodeDirectory } from '../headscale/nodes.ts';
import type { History } from '../history/history.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import { version } from '../lib/version.ts';
import type { Kernel } from '../liveness/kernel.ts';
import type { ProxySockets } from '../liveness/proxy-sockets.ts';
import { descriptorLimit } from '../pipeline/admission.ts';
import type { StreamAcceptor } from '../pipeline/stream-acceptor.ts';
import type { FrontProxies } from '../proxy/front-proxies.ts';
import type { ClientListener } from '../proxy/listener.ts';
import type { Replicas } from '../replicas/replicas.ts';
import type { FrontProxyEvent } from '../streams/events.ts';
import type { Registry } from '../streams/registry.ts';
import type { NoEvidence } from '../streams/stream.ts';
import type { Takeover } from '../takeover/takeover.ts';
import { describeEvent, errorCodeOf } from '../telemetry/event-table.ts';
import type { KeptHistory } from './history.ts';
import type { KeyFiles } from './key-files.ts';
import type { LiveConfig } from './live-config.ts';

/** The parts of the running watchdog that its state as a whole depends on. */
export interface OverviewOptions {
  readonly clock: Clock;
  readonly startedAt: Instant;
  readonly registry: Registry;
  readonly takeover: Takeover;
  readonly acceptor: StreamAcceptor;
  /** Undefined if the kernel gives no evidence. */
  readonly kernel: Kernel | undefined;
  readonly proxySockets: ProxySockets;
  /** Undefined if this is the only watchdog. */
  readonly replicas: Replicas | undefined;
  readonly checkup: Checkup;
  readonly directory: NodeDirectory;
  readonly live: LiveConfig;
  readonly keys: KeyFiles;
  readonly listeners: readonly ClientListener[];
  readonly frontProxies: FrontProxies;
  readonly kept: KeptHistory;
  hasNoiseKey(): boolean;
  isDraining(): boolean;
}

export function readinessOf({ listeners, checkup, live, isDraining }: OverviewOptions): Readiness {
  const { up, silentOn, reason, version: headscaleVersion, keyMatches, isHeadscale } = checkup.health;
  return {
    ready: listeners.every(({ server }) => server.listening),
    draining: isDraining(),
    listen: listeners.map(({ server }) => server.address() as AddressInfo | null),
    upstream: {
      url: live.config.upstream.origin,
      up: up ?? null,
      silentOn: silentOn ?? null,
      isHeadscale: isHeadscale ?? null,
      detail: reason ?? null,
      version: headscaleVersion ?? null,
    },
    noiseKeyMatches: keyMatches ?? null,
  };
}

/** The head and the foot of the status page. */
export function overviewOf(
  options: OverviewOptions,
  history: History,
  problems: Problems,
): Omit<Overview, 'needsToken' | 'mayChange'> {
  const { registry, live, takeover, clock, replicas, frontProxies, kernel, proxySockets, keys, directory } = options;
  const byState = { held: 0, connecting: 0, open: 0, closing: 0, closed: 0 };
  let contested = 0;
  for (const stream of registry.all()) {
    byState[stream.state.kind] += 1;
    if (takeover.contestsOf(stream).length > 0) contested += 1;
  }
  const minutes = history.lastHour();
  const sum = (of: (minute: (typeof minutes)[number]) => number): number =>
    minutes.reduce((total, minute) => total + of(minute), 0);
  const iso = (instant: Instant): string => clock.dateOf(instant).toISOString();
  return {
    version,
    now: iso(clock.now()),
    startedAt: iso(options.startedAt),
    ...readinessOf(options),
    observeOnly: live.config.policy.observeOnly,
    duplicateKeys: takeover.duplicates.count,
    redisUp: replicas?.isUp ?? null,
    replica: replicas?.name ?? null,
    evidence: { direct: kernel !== undefined, proxy: proxySockets.isAvailable },
    nodesListedAt: directory.listedAt === undefined ? null : iso(directory.listedAt),
    certificateExpiresAt: keys.firstCertificateToExpire?.toISOString() ?? null,
    descriptors: descriptors(),
    problems: problems.standing(),
    frontProxies: frontProxies.standing().map((event) => ({
      kind: event.kind,
      code: errorCodeOf(event) ?? null,
      remoteAddress: event.address,
      sentence: describeEvent(event, () => undefined),
    })),
    streams: { total: registry.size, contested, ...byState },
    lastHour: {
      takeovers: sum((minute) => minute.takeovers),
      gone: sum((minute) => minute.gone),
      minutes: minutes.map(({ at, ...counts }) => ({ at: new Date(at).toISOString(), ...counts })),
    },
    lastSeq: history.lastSeq,
  };
}

/** How many descriptors this process has open, and how many it may have. Null where Linux does not say. */
function descriptors(): Overview['descriptors'] {
  try {
    const limit = descriptorLimit();
    return limit === undefined ? null : { open: readdirSync('/proc/self/fd').length, limit };
  } catch {
    return null;
  }
}

/** What is wrong, as far as the state shows it. */
export function findProblems(options: OverviewOptions): readonly Finding[] {
  const { clock, live, replicas, frontProxies, startedAt, isDraining } = options;
  const started = clock.dateOf(startedAt).getTime();
  return [
    ...upstreamProblems(options),
    ...keyProblems(options, started),
    ...duplicates(options),
    ...(replicas !== undefined && !replicas.isUp ? [REDIS_DOWN] : []),
    ...certificates(options),
    ...frontProxies.standing().map(frontProxyProblem),
    ...evidenceProblems(options, started),
    ...(options.kept.file?.isWorking === false ? [HISTORY_FILE_FAILED] : []),
    ...(live.config.policy.observeOnly ? [OBSERVE_ONLY] : []),
    ...(isDraining() ? [DRAINING] : []),
  ];
}

const REDIS_DOWN: Finding = {
  ...{ kind: 'redis_down', level: 'error', code: 'HSW_REDIS_UNREACHABLE' },
  sentence: 'Redis is away, so this watchdog knows only its own streams.',
  advice: 'Check that Redis runs and that --redis and its password are right. The watchdog tries again by itself.',
};

const HISTORY_FILE_FAILED: Finding = {
  ...{ kind: 'history_file_failed', level: 'error', code: 'HSW_HISTORY_FILE_FAILED' },
  sentence: 'The history file cannot be written, so a restart would lose what has happened since then.',
  advice: 'Make room on its disk; the log says what failed. The watchdog tries again by itself.',
};

const OBSERVE_ONLY: Finding = {
  ...{ kind: 'observe_only', level: 'info', code: null },
  sentence: 'Observe-only mode: the watchdog judges and counts, but holds and severs nothing.',
  advice: 'To let it act, remove --observe-only.',
};

const DRAINING: Finding = {
  ...{ kind: 'draining', level: 'info', code: null },
  sentence: 'The watchdog is stopping: it accepts no more connections and ends its streams one by one.',
  advice: 'Nodes come back through whatever takes its place.',
};

function upstreamProblems({ checkup, live }: OverviewOptions): readonly Finding[] {
  const { up, silentOn, isHeadscale, reason } = checkup.health;
  const url = live.config.upstream.origin;
  if (silentOn !== undefined) {
    const where = silentOn === 'requests' ? 'accepts connections but does not answer' : 'sends nothing on its streams';
    return [
      {
        ...{ kind: 'upstream_silent', level: 'error', code: 'HSW_UPSTREAM_SILENT' },
        sentence: `Headscale at ${url} ${where}.`,
        advice: 'Look at its log and its load. A restart of Headscale usually helps.',
      },
    ];
  }
  if (up === false) {
    return [
      {
        ...{ kind: 'upstream_down', level: 'error', code: 'HSW_UPSTREAM_UNREACHABLE' },
        sentence: `Headscale cannot be reached at ${url} (${reason ?? 'no answer'}), so clients get 502.`,
        advice: 'Check that Headscale runs, and that --upstream is its listen_addr.',
      },
    ];
  }
  if (isHeadscale !== false) return [];
  return [
    {
      ...{ kind: 'upstream_not_headscale', level: 'error', code: 'HSW_UPSTREAM_NOT_HEADSCALE' },
      sentence: `What answers at ${url} is not Headscale.`,
      advice: "Point --upstream at Headscale's listen_addr.",
    },
  ];
}

function keyProblems({ checkup, hasNoiseKey }: OverviewOptions, since: number): readonly Finding[] {
  if (!hasNoiseKey()) {
    return [
      {
        ...{ kind: 'noise_key_missing', level: 'warn', code: 'HSW_NOISE_KEY_MISSING', since },
        sentence: 'There is no Noise key, so the watchdog cannot tell nodes apart and never takes over.',
        advice: "Set --noise-key to Headscale's noise_private.key.",
      },
    ];
  }
  if (checkup.health.keyMatches !== false) return [];
  return [
    {
      ...{ kind: 'noise_key_mismatch', level: 'error', code: 'HSW_NOISE_KEY_MISMATCH' },
      sentence: "The Noise key is not Headscale's, so the watchdog cannot tell nodes apart and never takes over.",
      advice: "Point --noise-key at the running Headscale's noise_private.key.",
    },
  ];
}

function duplicates({ takeover }: OverviewOptions): readonly Finding[] {
  const { count } = takeover.duplicates;
  if (count === 0) return [];
  return [
    {
      ...{ kind: 'machine_keys_duplicated', level: 'warn', code: 'HSW_MACHINE_KEY_DUPLICATED' },
      sentence: `Two machines use one machine key${count === 1 ? '' : ` (${count} such keys)`}, so neither works well.`,
      advice:
        "The nodes' filter Duplicate shows which. Delete tailscaled's state on the clone, and log the clone in again.",
    },
  ];
}

function certificates({ live, keys, clock }: OverviewOptions): readonly Finding[] {
  const now = clock.dateOf(clock.now());
  return live.config.listen.flatMap(({ tls }, i): readonly Finding[] => {
    const certificate = keys.certificateOf(i);
    if (certificate === undefined || tls === undefined) return [];
    return certificateProblems(certificate, now).map(({ level, code, text }) => {
      const [fact = text, advice = ''] = text.split(': ', 2);
      const isOld = code === 'HSW_CERTIFICATE_EXPIRING';
      return {
        kind: isOld ? 'certificate_expiring' : 'certificate_self_signed',
        ...{ of: tls.certFile, level: level === 'fail' ? 'error' : 'warn', code },
        // The file comes last: where there is little room, the beginning is seen.
        sentence: `A certificate ${fact}: ${tls.certFile}.`,
        advice: `${advice.charAt(0).toUpperCase()}${advice.slice(1)}.`,
        // The watchdog notices it when it reads the file, or later, when the end has come near.
        since: Math.max(
          certificate.readAt.getTime(),
          isOld ? (level === 'fail' ? certificate.expires : certificate.warnsAt).getTime() : 0,
        ),
      };
    });
  });
}

function frontProxyProblem(event: FrontProxyEvent): Finding {
  const [fact = '', ...advice] = describeEvent(event, () => undefined).split(/(?<=\.) (?=[A-Z])/);
  return {
    ...{ kind: event.kind, of: event.address, level: 'warn', code: errorCodeOf(event) ?? null },
    sentence: fact,
    advice: advice.join(' '),
  };
}

const WHY: Readonly<Record<NoEvidence, readonly [level: Finding['level'], why: string, advice: string]>> = {
  kernel_unavailable: [
    'warn',
    'Linux cannot be asked about connections',
    'See headscale-watchdog check for what is missing. Dead streams are severed only after --silent-after.',
  ],
  netlink_unavailable: [
    'warn',
    "Linux cannot be asked about the proxy's connections",
    'Allow AF_NETLINK sockets: RestrictAddressFamilies= of the unit, or the seccomp profile.',
  ],
  proxy_elsewhere: [
    'info',
    'the proxy runs on another machine or in another network namespace',
    "Run the watchdog in the proxy's network namespace, or accept that dead streams are severed only after --silent-after.",
  ],
  several_proxies: [
    'info',
    'the client is connected to another proxy, further out',
    'Nothing needs to be done. Dead streams are severed only after --silent-after.',
  ],
  address_hidden: [
    'warn',
    'the proxy does not say who its client is',
    'Have the proxy send X-Forwarded-For or a PROXY protocol header.',
  ],
  socket_not_found: [
    'warn',
    'the proxy has no connection with the client that it names',
    'Have the proxy send the address and port of its own client, and not what another proxy has told it.',
  ],
};
/** A younger stream does not count: the watchdog finds a proxy's connection only a moment after the stream opens. */
const NO_EVIDENCE_AFTER_MS = 10_000;

function evidenceProblems({ registry, acceptor, kernel, clock }: OverviewOptions, started: number): readonly Finding[] {
  const without = new Map<NoEvidence, { count: number; since: number }>();
  const old = clock.now() - NO_EVIDENCE_AFTER_MS;
  for (const stream of registry.all()) {
    if (stream.kind !== 'control' || stream.state.kind !== 'open' || stream.openedAt > old) continue;
    const source = acceptor.sourceOf(stream);
    if (source.kind !== 'none') continue;
    const found = without.get(source.reason) ?? { count: 0, since: Number.POSITIVE_INFINITY };
    found.count += 1;
    found.since = Math.min(found.since, clock.dateOf(stream.openedAt).getTime());
    without.set(source.reason, found);
  }
  if (kernel === undefined && !without.has('kernel_unavailable'))
    without.set('kernel_unavailable', { count: 0, since: started });
  return [...without].map(([reason, { count, since }]) => {
    const [level, why, advice] = WHY[reason];
    const whose = count === 0 ? '' : ` about ${count} ${count === 1 ? 'stream' : 'streams'}`;
    return {
      ...{ kind: 'evidence_missing', of: reason, level, since, advice },
      code: reason === 'kernel_unavailable' ? 'HSW_KERNEL_EVIDENCE_UNAVAILABLE' : 'HSW_PROXY_SOCKETS_HIDDEN',
      sentence: `No evidence${whose}: ${why}.`,
    };
  });
}
