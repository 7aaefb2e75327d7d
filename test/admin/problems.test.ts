import { describe, expect, test } from 'vitest';
import { type Finding, Problems } from '../../src/admin/problems.ts';
import { FakeClock } from '../support/fake-clock.ts';

const REDIS: Finding = {
  ...{ kind: 'redis_down', level: 'error', code: 'HSW_REDIS_UNREACHABLE' },
  ...{ sentence: 'Redis is away.', advice: 'Check it.' },
};
const OBSERVE: Finding = { ...REDIS, kind: 'observe_only', level: 'info', code: null };

function bench() {
  const clock = new FakeClock();
  const start = clock.dateOf(clock.now()).getTime();
  const state = { found: [] as readonly Finding[] };
  const problems = new Problems({ clock, find: () => state.found });
  /** Each problem that stands, and how many seconds after the start it began. */
  const standing = () => problems.standing().map(({ kind, since }) => [kind, (Date.parse(since) - start) / 1000]);
  return { clock, state, problems, standing };
}

const LIMIT = { kind: 'limit_reached', limit: 'body', address: '192.0.2.1', detail: '1 GiB', isNews: true } as const;

describe('what is wrong', () => {
  test('is since the event that shows it, even if nobody has looked meanwhile', () => {
    const { clock, state, problems, standing } = bench();
    clock.advance(5000);
    state.found = [REDIS];
    problems.listen({ kind: 'redis_down', url: 'redis://r', detail: 'refused' });
    clock.advance(60_000);
    expect(standing()).toEqual([['redis_down', 5]]);
    // It comes back and goes again, and nobody looks in between.
    state.found = [];
    problems.listen({ kind: 'redis_up', url: 'redis://r' });
    clock.advance(5000);
    state.found = [REDIS];
    problems.listen({ kind: 'redis_down', url: 'redis://r', detail: 'refused' });
    clock.advance(5000);
    expect(standing()).toEqual([['redis_down', 70]]);
  });

  test('comes with the worst first, then the oldest', () => {
    const { clock, state, problems, standing } = bench();
    state.found = [OBSERVE];
    standing();
    clock.advance(1000);
    problems.listen(LIMIT);
    clock.advance(1000);
    problems.listen({ ...LIMIT, limit: 'held' });
    clock.advance(1000);
    state.found = [OBSERVE, REDIS];
    expect(standing()).toEqual([
      ['redis_down', 3],
      ['limit_reached', 1],
      ['limit_reached', 2],
      ['observe_only', 0],
    ]);
  });

  test('a limit stands until nothing has exceeded it for ten minutes', () => {
    const { clock, problems, standing } = bench();
    problems.listen(LIMIT);
    clock.advance(9 * 60_000);
    problems.listen({ ...LIMIT, isNews: false });
    clock.advance(9 * 60_000);
    expect(standing()).toEqual([['limit_reached', 0]]);
    expect(problems.standing()[0]).toMatchObject({ level: 'warn', code: 'HSW_LIMIT_REACHED' });
    clock.advance(60_000);
    expect(standing()).toEqual([]);
    problems.listen(LIMIT);
    expect(standing()).toEqual([['limit_reached', 18 * 60 + 60]]);
  });

  test('a failure stands until the same succeeds', () => {
    const { clock, problems, standing } = bench();
    const reload = { kind: 'settings_reload_failed', code: 'HSW_CONFIG_INVALID', problems: ['--hold: …'] } as const;
    problems.listen(reload);
    clock.advance(1000);
    problems.listen(reload);
    problems.listen({ kind: 'nodes_list_failed', detail: '401' });
    const failed = { kind: 'notification_delayed', about: 'Test', detail: '500', isNews: true } as const;
    problems.listen({ ...failed, target: 'a' });
    problems.listen({ ...failed, target: 'b' });
    problems.listen({ ...failed, target: 'b', isNews: false });
    problems.listen({ kind: 'key_file_reload_failed', code: 'HSW_NOISE_KEY_UNREADABLE', detail: 'gone' });
    expect(standing()).toEqual([
      ['settings_reload_failed', 0],
      ['key_file_reload_failed', 1],
      ['nodes_list_failed', 1],
      ['notifications_failing', 1],
      ['notifications_failing', 1],
    ]);
    problems.listen({ kind: 'notification_sent', target: 'a', about: 'Test', worksAgain: true });
    problems.listen({ kind: 'nodes_listed', nodes: 3 });
    problems.listen({ kind: 'settings_reloaded', changes: [], needRestart: [] });
    problems.listen({ kind: 'key_file_reloaded', key: 'Noise key', file: 'f' });
    expect(standing()).toEqual([['notifications_failing', 1]]);
    // It was repeated, which the log does not show as a warning any more.
    expect(problems.standing()).toMatchObject([{ level: 'warn', code: 'HSW_NOTIFICATION_DELAYED' }]);
  });
});
