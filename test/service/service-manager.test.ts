import { describe, expect, test } from 'vitest';
import { connectServiceManager, createServiceManager, socketAddress } from '../../src/service/service-manager.ts';
import { FakeClock } from '../support/fake-clock.ts';

function stage(watchdogMs?: number) {
  const clock = new FakeClock();
  const sent: string[] = [];
  const send = (text: string): boolean => {
    sent.push(text);
    return true;
  };
  return { clock, sent, manager: createServiceManager(send, clock, watchdogMs, undefined) };
}

describe('ServiceManager', () => {
  test('learns of the start, and of the stop with the time that it may take', () => {
    const { sent, manager } = stage();
    manager.ready('listening on 0.0.0.0:80');
    manager.stopping('ending the streams over 20s', 20_000);
    // A SIGHUP while it stops: it is not ready again.
    manager.reloading();
    manager.ready('listening on 0.0.0.0:80');
    expect(sent).toEqual([
      'READY=1\nSTATUS=listening on 0.0.0.0:80',
      'STOPPING=1\nSTATUS=ending the streams over 20s\nEXTEND_TIMEOUT_USEC=30000000',
    ]);
  });

  test('learns of a reload with the monotonic time, and of its end by ready', () => {
    const { sent, manager } = stage();
    manager.ready('a');
    const before = process.hrtime.bigint() / 1000n;
    manager.reloading();
    manager.ready('a');
    expect(sent[1]).toMatch(/^RELOADING=1\nMONOTONIC_USEC=\d+$/);
    const told = BigInt(sent[1]?.split('MONOTONIC_USEC=')[1] ?? 0);
    expect(told >= before && told <= before + 5_000_000n).toBe(true);
    expect(sent[2]).toBe('READY=1\nSTATUS=a');
  });

  test('gets a sign of life at half of WATCHDOG_USEC, from ready until close, also while stopping', () => {
    const { clock, sent, manager } = stage(10_000);
    const signs = (): number => sent.filter((text) => text === 'WATCHDOG=1').length;
    clock.advance(20_000);
    expect(signs()).toBe(0);
    manager.ready('a');
    expect(signs()).toBe(1);
    clock.advance(4999);
    expect(signs()).toBe(1);
    clock.advance(1);
    expect(signs()).toBe(2);
    manager.ready('again, after a reload');
    manager.stopping('b', 0);
    clock.advance(10_000);
    expect(signs()).toBe(4);
    manager.close();
    expect(clock.timers).toBe(0);
  });

  test('without one, nothing happens', async () => {
    const clock = new FakeClock();
    const env = { WATCHDOG_USEC: '1000000', HOME: '/root' };
    const manager = await connectServiceManager(env, 1, clock);
    manager.ready('a');
    manager.reloading();
    manager.stopping('b', 0);
    expect(manager.unreachableReason).toBeUndefined();
    expect(clock.timers).toBe(0);
    expect(env).toEqual({ HOME: '/root' });
  });

  test('one that does not listen any more, or has an invalid address, does no harm', async () => {
    const gone = await connectServiceManager({ NOTIFY_SOCKET: '/nonexistent/notify' }, 1, new FakeClock());
    gone.ready('a');
    const none = await connectServiceManager({ NOTIFY_SOCKET: 'vsock:2:1' }, 1, new FakeClock());
    none.ready('a');
    expect(none.unreachableReason).toContain("NOTIFY_SOCKET is 'vsock:2:1'");
  });
});

describe('socketAddress', () => {
  const AF_UNIX = process.platform === 'linux' ? [1, 0] : undefined;
  test.runIf(AF_UNIX)('is a sockaddr_un: a path with its NUL, an abstract name with a NUL before it', () => {
    expect([...(socketAddress('/a') ?? [])]).toEqual([1, 0, 0x2f, 0x61, 0]);
    expect([...(socketAddress('@a') ?? [])]).toEqual([1, 0, 0, 0x61]);
  });

  test.each(['', 'relative', 'vsock:1:2', '@', `/${'x'.repeat(107)}`, `@${'x'.repeat(108)}`])(
    'is none of %j',
    (text) => {
      expect(socketAddress(text)).toBeUndefined();
    },
  );

  test('accepts the longest path that fits', () => {
    expect(socketAddress(`/${'x'.repeat(106)}`)).toHaveLength(2 + 108);
    expect(socketAddress(`@${'x'.repeat(107)}`)).toHaveLength(2 + 108);
  });
});
