import type { Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { kernelOf } from '../../src/liveness/kernel.ts';

// Offsets and options as in <linux/tcp.h>, written down here a second time on purpose.
const SOL_SOCKET = 1;
const SO_KEEPALIVE = 9;
const [IPPROTO_TCP, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_INFO, TCP_USER_TIMEOUT] = [6, 4, 5, 6, 11, 18];

const socketWith = (fd: number) => ({ _handle: { fd } }) as unknown as Socket;

function bench(fill: (info: Buffer, length: Buffer) => void = () => {}, answer = 0) {
  const calls: number[][] = [];
  const kernel = kernelOf(
    (fd, level, option, info, length) => {
      calls.push([fd as number, level as number, option as number]);
      fill(info as Buffer, length as Buffer);
      return answer;
    },
    (fd, level, option, value) => {
      calls.push([fd as number, level as number, option as number, (value as Buffer).readInt32LE(0)]);
      return 0;
    },
  );
  return { kernel, calls };
}

describe('kernelOf', () => {
  test('reads each field of struct tcp_info at its offset', () => {
    const { kernel, calls } = bench((info) => {
      info.writeUInt8(2, 2); // tcpi_retransmits
      info.writeUInt8(3, 3); // tcpi_probes
      info.writeUInt32LE(5, 24); // tcpi_unacked
      info.writeUInt32LE(7000, 52); // tcpi_last_data_recv
      info.writeUInt32LE(6000, 56); // tcpi_last_ack_recv
      info.writeUInt32LE(20_500, 68); // tcpi_rtt
      info.writeBigUInt64LE(5_000_000_000n, 120); // tcpi_bytes_acked
      info.writeUInt32LE(300, 144); // tcpi_notsent_bytes
      info.writeUInt32LE(1250, 72); // tcpi_rttvar
    });
    expect(kernel.evidenceOf(socketWith(7))).toEqual({
      retransmits: 2,
      unansweredProbes: 3,
      unackedSegments: 5,
      ackedBytes: 5_000_000_000,
      unsentBytes: 300,
      receivedAgoMs: 6000,
      rttMs: 20.5,
      rttvarMs: 1.25,
    });
    expect(calls).toEqual([[7, IPPROTO_TCP, TCP_INFO]]);
  });

  test('data counts as a sign of life, like an acknowledgement', () => {
    const { kernel } = bench((info) => {
      info.writeUInt32LE(10, 52);
      info.writeUInt32LE(9000, 56);
    });
    expect(kernel.evidenceOf(socketWith(7))?.receivedAgoMs).toBe(10);
  });

  test('an answer with the first fields only, as QEMU gives it, is no evidence', () => {
    const { kernel } = bench((_info, length) => length.writeUInt32LE(4));
    expect(kernel.evidenceOf(socketWith(7))).toBeUndefined();
    const { kernel: complete } = bench((_info, length) => length.writeUInt32LE(148));
    expect(complete.evidenceOf(socketWith(7))).toBeDefined();
  });

  test('probe: the kernel sends no probes of its own and does not drop the connection; the idle time is set last', () => {
    const { kernel, calls } = bench();
    kernel.probe(socketWith(7));
    expect(calls).toEqual([
      [7, IPPROTO_TCP, TCP_USER_TIMEOUT, 0],
      [7, IPPROTO_TCP, TCP_KEEPCNT, 127],
      [7, IPPROTO_TCP, TCP_KEEPINTVL, 75],
      [7, SOL_SOCKET, SO_KEEPALIVE, 1],
      [7, IPPROTO_TCP, TCP_KEEPIDLE, 1],
    ]);
  });

  test('applyTimeouts: keepalive is off while the rest is set, durations are whole seconds rounded up, and the idle time is set last', () => {
    const { kernel, calls } = bench();
    kernel.applyTimeouts(socketWith(7), { userTimeoutMs: 120_000, idleMs: 74_001, everyMs: 15_000, probes: 9 });
    expect(calls).toEqual([
      [7, SOL_SOCKET, SO_KEEPALIVE, 0],
      [7, IPPROTO_TCP, TCP_USER_TIMEOUT, 120_000],
      [7, IPPROTO_TCP, TCP_KEEPCNT, 9],
      [7, IPPROTO_TCP, TCP_KEEPINTVL, 15],
      [7, SOL_SOCKET, SO_KEEPALIVE, 1],
      [7, IPPROTO_TCP, TCP_KEEPIDLE, 75],
    ]);
  });

  test('applyTimeouts on a new socket: what is off anyway is not switched off', () => {
    const { kernel, calls } = bench();
    kernel.applyTimeouts(socketWith(7), { userTimeoutMs: 0, idleMs: 75_000, everyMs: 15_000, probes: 9 }, true);
    expect(calls).toEqual([
      [7, IPPROTO_TCP, TCP_KEEPCNT, 9],
      [7, IPPROTO_TCP, TCP_KEEPINTVL, 15],
      [7, SOL_SOCKET, SO_KEEPALIVE, 1],
      [7, IPPROTO_TCP, TCP_KEEPIDLE, 75],
    ]);
    kernel.applyTimeouts(socketWith(8), { userTimeoutMs: 9000, idleMs: 75_000, everyMs: 15_000, probes: 9 }, true);
    expect(calls[4]).toEqual([8, IPPROTO_TCP, TCP_USER_TIMEOUT, 9000]);
  });

  test('applyTimeouts does nothing where these timeouts are set already, unless something was changed since', () => {
    const { kernel, calls } = bench();
    const socket = socketWith(7);
    const timeouts = { userTimeoutMs: 120_000, idleMs: 75_000, everyMs: 15_000, probes: 9 };
    const callsOf = (act: () => void): number => {
      const before = calls.length;
      act();
      return calls.length - before;
    };
    expect(callsOf(() => kernel.applyTimeouts(socket, timeouts))).toBe(6);
    expect(callsOf(() => kernel.applyTimeouts(socket, { ...timeouts }))).toBe(0);
    for (const other of [{ userTimeoutMs: 1 }, { idleMs: 1 }, { everyMs: 1 }, { probes: 1 }]) {
      expect(callsOf(() => kernel.applyTimeouts(socket, { ...timeouts, ...other }))).toBe(6);
    }
    kernel.applyTimeouts(socket, timeouts);
    kernel.probe(socket);
    expect(callsOf(() => kernel.applyTimeouts(socket, timeouts))).toBe(6);
    kernel.setUserTimeout(socket, 1000);
    expect(callsOf(() => kernel.applyTimeouts(socket, timeouts))).toBe(6);
  });

  test('trimMemory calls malloc_trim of glibc, and does nothing with another C library', () => {
    const trimmed: unknown[] = [];
    const nothing = () => 0;
    kernelOf(nothing, nothing, (keep) => trimmed.push(keep)).trimMemory();
    kernelOf(nothing, nothing).trimMemory();
    expect(trimmed).toEqual([0]);
  });

  test('a failed call, or a socket without a descriptor, gives no evidence', () => {
    expect(bench(() => {}, -1).kernel.evidenceOf(socketWith(7))).toBeUndefined();
    const { kernel, calls } = bench();
    expect(kernel.evidenceOf(socketWith(-1))).toBeUndefined();
    kernel.probe(socketWith(-1));
    kernel.applyTimeouts(socketWith(-1), { userTimeoutMs: 1000, idleMs: 75_000, everyMs: 15_000, probes: 9 });
    expect(calls).toEqual([]);
  });
});
