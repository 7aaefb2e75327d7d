import { describe, expect, test } from 'vitest';
import { findProblems, type OverviewOptions } from '../../src/app/overview.ts';
import { loadConfig } from '../../src/config/load.ts';
import { expiryOf } from '../../src/config/secrets.ts';
import type { UpstreamHealth } from '../../src/headscale/checkup.ts';
import type { EvidenceSource } from '../../src/streams/stream.ts';
import { FakeClock } from '../support/fake-clock.ts';

const DAY_MS = 86_400_000;
const HEALTHY: UpstreamHealth = {
  ...{ up: true, silentOn: undefined, isHeadscale: true, reason: undefined, version: '0.29.2', keyMatches: true },
};

interface State {
  readonly health?: Partial<UpstreamHealth>;
  readonly hasNoiseKey?: boolean;
  readonly duplicates?: number;
  readonly isRedisUp?: boolean;
  /** Until the certificate of `--listen` expires. */
  readonly certificateLastsMs?: number;
  /** How long ago it was read: by default at the start, an hour ago. */
  readonly certificateReadAgoMs?: number;
  readonly isSelfSigned?: boolean;
  readonly observeOnly?: boolean;
  /** Undefined without a history file. */
  readonly isHistoryWorking?: boolean;
  readonly isDraining?: boolean;
  /** Where the evidence of each open stream comes from, all opened a minute ago. */
  readonly sources?: readonly EvidenceSource[];
  readonly hasKernel?: boolean;
}

/** A watchdog in this state, of which `findProblems` asks what it needs. */
function problemsOf(state: State) {
  const clock = new FakeClock();
  const startedAt = clock.now();
  clock.advance(3_600_000);
  const now = clock.dateOf(clock.now()).getTime();
  const config = loadConfig({
    ...{ upstream: 'http://127.0.0.1:8080', admin: '127.0.0.1:0', observeOnly: state.observeOnly ?? false },
    listen: '127.0.0.1:0',
  });
  const tls = { certFile: 'cert.pem', keyFile: 'key.pem' };
  const streams = (state.sources ?? []).map((source) => ({
    ...{ kind: 'control', state: { kind: 'open' }, openedAt: clock.now() - 60_000, source },
  }));
  const expires = new Date(now + (state.certificateLastsMs ?? 90 * DAY_MS));
  const readAt = new Date(now - (state.certificateReadAgoMs ?? 3_600_000));
  const options = {
    ...{ clock, startedAt, live: { config: { ...config, listen: [{ ...config.listen[0], tls }] } } },
    checkup: { health: { ...HEALTHY, ...state.health } },
    hasNoiseKey: () => state.hasNoiseKey ?? true,
    takeover: { duplicates: { count: state.duplicates ?? 0 } },
    replicas: state.isRedisUp === undefined ? undefined : { isUp: state.isRedisUp },
    kept: { file: state.isHistoryWorking === undefined ? undefined : { isWorking: state.isHistoryWorking } },
    keys: {
      certificateOf: () => ({
        ...expiryOf(new Date(expires.getTime() - 90 * DAY_MS), expires),
        isSelfSigned: state.isSelfSigned ?? false,
        readAt,
      }),
    },
    frontProxies: { standing: () => [] },
    kernel: state.hasKernel === false ? undefined : {},
    registry: { all: () => streams },
    acceptor: { sourceOf: (stream: (typeof streams)[number]) => stream.source },
    isDraining: () => state.isDraining ?? false,
  } as unknown as OverviewOptions;
  return findProblems(options).map(({ since, ...rest }) => ({
    ...rest,
    ...(since !== undefined && { sinceDays: Math.round((since - now) / DAY_MS), sinceMs: since - now }),
  }));
}

describe('what the state of the watchdog shows to be wrong', () => {
  test('nothing, if all is well', () => {
    expect(problemsOf({ isRedisUp: true, isHistoryWorking: true, sources: [{ kind: 'direct' }] })).toEqual([]);
  });

  test.each([
    [{ health: { up: false, reason: 'connection refused' } }, 'upstream_down', 'error', 'connection refused'],
    [{ health: { up: false, silentOn: 'requests' } }, 'upstream_silent', 'error', 'does not answer'],
    [{ health: { silentOn: 'streams' } }, 'upstream_silent', 'error', 'sends nothing on its streams'],
    [{ health: { isHeadscale: false } }, 'upstream_not_headscale', 'error', 'is not Headscale'],
    [{ health: { keyMatches: false } }, 'noise_key_mismatch', 'error', "not Headscale's"],
    [{ hasNoiseKey: false }, 'noise_key_missing', 'warn', 'There is no Noise key'],
    [{ duplicates: 2 }, 'machine_keys_duplicated', 'warn', '2 such keys'],
    [{ isRedisUp: false }, 'redis_down', 'error', 'Redis is away'],
    [{ isHistoryWorking: false }, 'history_file_failed', 'error', 'cannot be written'],
    [{ certificateLastsMs: 5 * DAY_MS }, 'certificate_expiring', 'warn', 'in 5 days: cert.pem.'],
    [
      { certificateLastsMs: -3 * DAY_MS },
      'certificate_expiring',
      'error',
      '3 days ago, so clients refuse it: cert.pem.',
    ],
    [{ isSelfSigned: true }, 'certificate_self_signed', 'warn', 'is self-signed'],
    [{ observeOnly: true }, 'observe_only', 'info', 'Observe-only'],
    [{ isDraining: true }, 'draining', 'info', 'is stopping'],
    [{ hasKernel: false }, 'evidence_missing', 'warn', 'Linux cannot be asked'],
    [
      { sources: [{ kind: 'none', reason: 'proxy_elsewhere' }] },
      ...(['evidence_missing', 'info', 'No evidence about 1 stream: the proxy runs on another machine'] as const),
    ],
    [
      {
        sources: [
          { kind: 'none', reason: 'address_hidden' },
          { kind: 'none', reason: 'address_hidden' },
          { kind: 'direct' },
        ],
      },
      ...([
        'evidence_missing',
        'warn',
        'No evidence about 2 streams: the proxy does not say who its client is',
      ] as const),
    ],
  ] satisfies readonly (readonly [State, string, string, string])[])('%j: %s', (state, kind, level, text) => {
    const [found, ...more] = problemsOf(state);
    expect(more).toEqual([]);
    expect(found).toMatchObject({ kind, level, sentence: expect.stringContaining(text) });
    expect(found?.advice).toMatch(/^[A-Z].*\.$/);
    expect(found?.sentence).toMatch(/^[A-Z].*\.$/);
  });

  test('a beginning that the state knows is the beginning', () => {
    const certificateReadAgoMs = 80 * DAY_MS;
    expect(problemsOf({ certificateLastsMs: 5 * DAY_MS, certificateReadAgoMs })[0]?.sinceDays).toBe(-9);
    expect(problemsOf({ certificateLastsMs: -3 * DAY_MS, certificateReadAgoMs })[0]?.sinceDays).toBe(-3);
    // The watchdog cannot have noticed before it read the certificate.
    for (const days of [5, -3]) expect(problemsOf({ certificateLastsMs: days * DAY_MS })[0]?.sinceMs).toBe(-3_600_000);
    expect(problemsOf({ isSelfSigned: true })[0]?.sinceMs).toBe(-3_600_000);
    expect(problemsOf({ hasNoiseKey: false })[0]?.sinceMs).toBe(-3_600_000);
    expect(problemsOf({ sources: [{ kind: 'none', reason: 'address_hidden' }] })[0]?.sinceMs).toBe(-60_000);
  });
});
