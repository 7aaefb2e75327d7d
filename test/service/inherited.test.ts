import { describe, expect, test } from 'vitest';
import { takeInheritedSockets } from '../../src/service/inherited.ts';

const PID = 4711;
const passed = (count: string, names?: string, pid = String(PID)): NodeJS.ProcessEnv => ({
  LISTEN_FDS: count,
  LISTEN_PID: pid,
  ...(names === undefined ? {} : { LISTEN_FDNAMES: names }),
});

describe('takeInheritedSockets', () => {
  test('gives the descriptors from 3 on to --listen in their order, and clears the environment', () => {
    const env = { ...passed('2'), HOME: '/root' };
    const sockets = takeInheritedSockets(env, PID);
    expect([0, 1, 2].map((i) => sockets.forListener(i))).toEqual([3, 4, undefined]);
    expect(sockets).toMatchObject({ listeners: 2, forAdmin: undefined, unusedReason: undefined });
    expect(env).toEqual({ HOME: '/root' });
  });

  test('gives the descriptor named admin to the admin server, at any position', () => {
    const sockets = takeInheritedSockets(passed('3', 'web:admin:web'), PID);
    expect(sockets.forAdmin).toBe(4);
    expect([0, 1].map((i) => sockets.forListener(i))).toEqual([3, 5]);
    expect(sockets.listeners).toBe(2);
    expect(takeInheritedSockets(passed('1', 'headscale-watchdog.socket'), PID).forAdmin).toBeUndefined();
  });

  test('takes no sockets that are meant for another process, and says what may be in between', () => {
    const env = passed('1', undefined, '12');
    const sockets = takeInheritedSockets(env, PID);
    expect(sockets.forListener(0)).toBeUndefined();
    expect(sockets.unusedReason).toContain(
      'passed to process 12, but this is process 4711: let ExecStart= start node itself',
    );
    expect(env).toEqual({});
  });

  test.each(['', 'many', '-1', '99999'])('takes no sockets if LISTEN_FDS is %j', (count) => {
    const sockets = takeInheritedSockets(passed(count), PID);
    expect(sockets.listeners).toBe(0);
    expect(sockets.unusedReason).toContain('LISTEN_FDS is');
  });

  test.each([{}, passed('0')])('without sockets it reports nothing: %o', (env) => {
    expect(takeInheritedSockets(env, PID)).toMatchObject({ listeners: 0, unusedReason: undefined });
  });
});
