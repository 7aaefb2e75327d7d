import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import type { BoundConnection as Connection } from '../../src/liveness/inet-diag.ts';
import { type NetlinkCalls, sockDiagOf } from '../../src/liveness/sock-diag.ts';
import { FakeClock } from '../support/fake-clock.ts';

// Numbers and offsets as in <linux/netlink.h> and <linux/inet_diag.h>, written down here a second time on purpose.
const [NLMSG_ERROR, NLMSG_DONE, SOCK_DIAG_BY_FAMILY] = [2, 3, 20];
const [NLM_F_MULTI, NLM_F_DUMP_INTR] = [0x2, 0x10];
const [AF_INET, AF_INET6] = [2, 10];
const [ESTABLISHED, TIME_WAIT, LISTEN] = [1, 6, 10];
const { EAFNOSUPPORT, EAGAIN, EBUSY, EINVAL, EMFILE, ENOBUFS, ENOENT, EPERM, EPROTONOSUPPORT } = constants.errno;

const CONNECTION: Connection = {
  local: { address: '192.0.2.1', port: 443 },
  remote: { address: '198.51.100.7', port: 50_000 },
};

interface MadeUpSocket {
  readonly family?: number;
  readonly state?: number;
  readonly inode?: number;
  readonly remotePort?: number;
  /** The length of TCP_INFO; 0 for none. */
  readonly infoLength?: number;
  fill?(message: Buffer): void;
}

function message(type: number, sequence: number, flags: number, body: Buffer): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(16 + body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags, 6);
  header.writeUInt32LE(sequence, 8);
  return Buffer.concat([header, body, Buffer.alloc((4 - (body.length % 4)) % 4)]);
}

const number = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes;
};
const done = (sequence: number, errno = 0): Buffer => message(NLMSG_DONE, sequence, NLM_F_MULTI, number(-errno));
const refused = (sequence: number, errno: number): Buffer =>
  message(NLMSG_ERROR, sequence, 0, Buffer.concat([number(-errno), Buffer.alloc(16)]));

function socket(sequence: number, made: MadeUpSocket = {}, flags = 0): Buffer {
  const { family = AF_INET, state = ESTABLISHED, inode = 77, remotePort = 50_000, infoLength = 240, fill } = made;
  const body = Buffer.alloc(72);
  body.writeUInt8(family, 0);
  body.writeUInt8(state, 1);
  body.writeUInt16BE(443, 4);
  body.writeUInt16BE(remotePort, 6);
  body.set(family === AF_INET ? [192, 0, 2, 1] : Buffer.from('20010db8000000000000000000000001', 'hex'), 8);
  body.set(family === AF_INET ? [198, 51, 100, 7] : Buffer.from('20010db8000000000000000000000007', 'hex'), 24);
  body.writeUInt32LE(33, 64);
  body.writeUInt32LE(inode, 68);
  // INET_DIAG_SHUTDOWN comes before INET_DIAG_INFO, and takes one byte and three of padding.
  const shutdown = Buffer.from([5, 0, 8, 0, 0, 0, 0, 0]);
  const info = Buffer.alloc(infoLength === 0 ? 0 : 4 + infoLength);
  if (infoLength > 0) {
    info.writeUInt16LE(info.length, 0);
    info.writeUInt16LE(2, 2);
    if (infoLength > 24) info.writeUInt32LE(5, 4 + 24); // tcpi_unacked
  }
  const whole = Buffer.concat([body, shutdown, info]);
  fill?.(whole);
  return message(SOCK_DIAG_BY_FAMILY, sequence, flags, whole);
}

/** What a netlink socket gives next: bytes, a negated errno, or a length that did not fit. */
type Given = Buffer | number;
type Answers = (request: Buffer, sequence: number) => readonly Given[];

/** Linux, made up: `answer` says what is received after each request. */
class MadeUpNetlink implements NetlinkCalls {
  answer: Answers;
  opens = 0;
  failOpen = 0;
  failSend = 0;
  readonly open_ = new Map<number, Given[]>();
  readonly requests: Buffer[] = [];
  /** Background calls wait until `release` while this is set. */
  held: (() => void)[] | undefined;

  constructor(answer: Answers) {
    this.answer = answer;
  }

  open(): number {
    if (this.failOpen > 0) return -this.failOpen;
    this.opens++;
    this.open_.set(100 + this.opens, []);
    return 100 + this.opens;
  }

  send(fd: number, request: Buffer): number {
    if (this.failSend > 0) return -this.failSend;
    this.requests.push(Buffer.from(request));
    this.open_.get(fd)?.push(...this.answer(request, request.readUInt32LE(8)));
    return request.length;
  }

  receive(fd: number, answer: Buffer): number {
    const next = this.open_.get(fd)?.shift() ?? -EAGAIN;
    if (typeof next === 'number') return next;
    next.copy(answer);
    return next.length;
  }

  async sendInBackground(fd: number, request: Buffer): Promise<number> {
    await this.#wait();
    return this.send(fd, request);
  }

  async receiveInBackground(fd: number, answer: Buffer): Promise<number> {
    await this.#wait();
    return this.receive(fd, answer);
  }

  close(fd: number): void {
    expect(this.open_.delete(fd), `descriptor ${fd} is open`).toBe(true);
  }

  async #wait(): Promise<void> {
    if (this.held === undefined) return;
    const { held } = this;
    await new Promise<void>((resolve) => held.push(resolve));
  }

  release(): void {
    const held = this.held ?? [];
    this.held = undefined;
    for (const go of held) go();
  }
}

function bench(answer: Answers = (_request, sequence) => [socket(sequence)]) {
  const netlink = new MadeUpNetlink(answer);
  const clock = new FakeClock();
  return { netlink, clock, sockDiag: sockDiagOf(netlink, clock) };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('find', () => {
  test('asks for the four numbers, without a cookie, and for TCP_INFO', () => {
    const { netlink, sockDiag } = bench();
    sockDiag.find(CONNECTION);
    const [request = Buffer.alloc(0)] = netlink.requests;
    expect(request.length).toBe(72);
    expect(request.readUInt32LE(0)).toBe(72);
    expect(request.readUInt16LE(4)).toBe(SOCK_DIAG_BY_FAMILY);
    expect(request.readUInt16LE(6)).toBe(1); // NLM_F_REQUEST
    expect([...request.subarray(16, 20)]).toEqual([AF_INET, 6, 2, 0]); // IPPROTO_TCP, INET_DIAG_INFO
    expect([request.readUInt16BE(24), request.readUInt16BE(26)]).toEqual([443, 50_000]);
    expect(request.toString('hex', 28, 44)).toBe('c0000201000000000000000000000000');
    expect(request.toString('hex', 44, 60)).toBe('c6336407000000000000000000000000');
    expect(request.readUInt32LE(60)).toBe(0);
    expect(request.toString('hex', 64)).toBe('ffffffffffffffff'); // INET_DIAG_NOCOOKIE
  });

  test('asks for IPv6 addresses with their interface, and for mapped ones as the IPv4 addresses that they are', () => {
    const { netlink, sockDiag } = bench();
    sockDiag.find({
      local: { address: 'fe80::1%eth0', port: 443 },
      remote: { address: 'fe80::7', port: 1 },
      interfaceIndex: 3,
    });
    sockDiag.find({
      local: { address: '::ffff:192.0.2.1', port: 443 },
      remote: { address: '::ffff:c633:6407', port: 1 },
    });
    const [six = Buffer.alloc(0), mapped = Buffer.alloc(0)] = netlink.requests;
    expect(six[16]).toBe(AF_INET6);
    expect(six.toString('hex', 28, 60)).toBe('fe800000000000000000000000000001fe800000000000000000000000000007');
    expect(six.readUInt32LE(60)).toBe(3);
    expect(mapped[16]).toBe(AF_INET);
    expect(mapped.toString('hex', 28, 32)).toBe('c0000201');
    expect(mapped.toString('hex', 44, 48)).toBe('c6336407');
  });

  test('reads each field at its place', () => {
    const fill = (bytes: Buffer): void => {
      bytes.writeUInt8(2, 2); // idiag_timer: keepalive
      bytes.writeUInt32LE(4, 40); // idiag_if
      bytes.writeBigUInt64LE(0xffff_fff0_0000_0001n, 44); // idiag_cookie
      bytes.writeUInt32LE(15_000, 52); // idiag_expires
      const info = 72 + 8 + 4;
      bytes.writeUInt8(3, info + 2); // tcpi_retransmits
      bytes.writeUInt8(2, info + 3); // tcpi_probes
      bytes.writeUInt32LE(7000, info + 52); // tcpi_last_data_recv
      bytes.writeUInt32LE(6000, info + 56); // tcpi_last_ack_recv
      bytes.writeUInt32LE(20_500, info + 68); // tcpi_rtt
      bytes.writeUInt32LE(1250, info + 72); // tcpi_rttvar
      bytes.writeBigUInt64LE(5_000_000_000n, info + 120); // tcpi_bytes_acked
      bytes.writeUInt32LE(300, info + 144); // tcpi_notsent_bytes
    };
    const { sockDiag } = bench((_request, sequence) => [socket(sequence, { fill })]);
    expect(sockDiag.find(CONNECTION)).toEqual({
      ok: true,
      socket: {
        ...CONNECTION,
        interfaceIndex: 4,
        state: 'established',
        uid: 33,
        inode: 77,
        cookie: 0xffff_fff0_0000_0001n,
        timer: 'keepalive',
        timerInMs: 15_000,
        evidence: {
          unackedSegments: 5,
          unsentBytes: 300,
          ackedBytes: 5_000_000_000,
          retransmits: 3,
          unansweredProbes: 2,
          receivedAgoMs: 6000,
          rttMs: 20.5,
          rttvarMs: 1.25,
        },
      },
    });
  });

  test('TIME_WAIT has no TCP_INFO and no user; a TCP_INFO that is too short is none', () => {
    const { netlink, sockDiag } = bench((_request, sequence) => [
      socket(sequence, { state: TIME_WAIT, inode: 0, infoLength: 0 }),
    ]);
    expect(sockDiag.find(CONNECTION)).toMatchObject({
      ok: true,
      socket: { state: 'time_wait', uid: undefined, inode: 0, evidence: undefined },
    });
    netlink.answer = (_request, sequence) => [socket(sequence, { infoLength: 147 })];
    expect(sockDiag.find(CONNECTION)).toMatchObject({ ok: true, socket: { uid: 33, evidence: undefined } });
    netlink.answer = (_request, sequence) => [socket(sequence, { infoLength: 148 })];
    expect(sockDiag.find(CONNECTION)).toMatchObject({ ok: true, socket: { evidence: { unackedSegments: 5 } } });
  });

  test('no socket, or only one that listens, is none', () => {
    const { netlink, sockDiag } = bench((_request, sequence) => [refused(sequence, ENOENT)]);
    expect(sockDiag.find(CONNECTION)).toEqual({ ok: true, socket: undefined });
    netlink.answer = (_request, sequence) => [socket(sequence, { state: LISTEN })];
    expect(sockDiag.find(CONNECTION)).toEqual({ ok: true, socket: undefined });
    expect(netlink.opens).toBe(1);
  });

  const brokenHeader = (sequence: number): Buffer => {
    const bytes = socket(sequence);
    bytes.writeUInt32LE(0, 0);
    return bytes;
  };
  test.each<[string, Answers, string, RegExp]>([
    ['an errno', (_r, sequence) => [refused(sequence, EINVAL)], 'EINVAL', /sock_diag: EINVAL/],
    ['no answer', () => [], 'EAGAIN', /recv: EAGAIN: Linux has not answered/],
    ['an answer that was lost', () => [-ENOBUFS], 'ENOBUFS', /recv: ENOBUFS: /],
    [
      'an answer that is too long',
      (_r, s) => [Buffer.concat([socket(s), Buffer.alloc(40_000)])],
      'ANSWER',
      /truncated/,
    ],
    ['the answer to another request', (_r, sequence) => [socket(sequence - 1)], 'ANSWER', /stale/],
    ['an acknowledgement', (_r, sequence) => [refused(sequence, 0)], 'ANSWER', /malformed/],
    ['nothing', () => [Buffer.alloc(0)], 'ANSWER', /malformed/],
    ['half a header', (_r, sequence) => [socket(sequence).subarray(0, 10)], 'ANSWER', /malformed/],
    ['a message of length 0', (_r, sequence) => [brokenHeader(sequence)], 'ANSWER', /malformed/],
    ['half a socket', (_r, s) => [message(SOCK_DIAG_BY_FAMILY, s, 0, Buffer.alloc(40))], 'ANSWER', /malformed/],
    ['a message that was cut', (_r, sequence) => [socket(sequence).subarray(0, 100)], 'ANSWER', /malformed/],
    ['another kind of message', (_r, s) => [message(99, s, 0, Buffer.alloc(72))], 'ANSWER', /malformed/],
  ])('%s is a failure, and the next question goes to a new socket', (_name, answer, code, why) => {
    const { netlink, sockDiag } = bench(answer);
    expect(sockDiag.find(CONNECTION)).toEqual({ ok: false, code, why: expect.stringMatching(why) });
    expect(netlink.open_.size).toBe(0);
    netlink.answer = (_request, sequence) => [socket(sequence)];
    expect(sockDiag.find(CONNECTION)).toMatchObject({ ok: true, socket: { uid: 33 } });
    expect(netlink.opens).toBe(2);
  });

  test('what Linux still sends for a question that failed is not taken for the answer to the next one', () => {
    const { netlink, sockDiag } = bench((_request, sequence) => [-ENOBUFS, socket(sequence + 1, { inode: 1 })]);
    expect(sockDiag.find(CONNECTION).ok).toBe(false);
    netlink.answer = (_request, sequence) => [refused(sequence, ENOENT)];
    expect(sockDiag.find(CONNECTION)).toEqual({ ok: true, socket: undefined });
  });

  test.each([
    [EAFNOSUPPORT, 'EAFNOSUPPORT', /RestrictAddressFamilies=/],
    [EPERM, 'EPERM', /seccomp/],
    [EPROTONOSUPPORT, 'EPROTONOSUPPORT', /module inet_diag/],
    [EMFILE, 'EMFILE', /LimitNOFILE=/],
  ])('a socket that is refused with %i says what to do', async (errno, code, why) => {
    const { netlink, sockDiag } = bench();
    netlink.failOpen = errno;
    const failure = { ok: false, code, why: expect.stringMatching(why) };
    expect(sockDiag.find(CONNECTION)).toEqual(failure);
    expect(await sockDiag.dump({})).toEqual(failure);
  });

  test.each<[string, Connection]>([
    ['a name', { ...CONNECTION, remote: { address: 'unknown', port: 1 } }],
    ['two families', { ...CONNECTION, remote: { address: '::1', port: 1 } }],
    ['a port that is none', { ...CONNECTION, remote: { address: '198.51.100.7', port: 65_536 } }],
    ['no port', { ...CONNECTION, remote: { address: '198.51.100.7', port: Number.NaN } }],
  ])('%s is a failure, and Linux is not asked', (_name, connection) => {
    const { netlink, sockDiag } = bench();
    expect(sockDiag.find(connection)).toMatchObject({ ok: false, code: 'ADDRESS' });
    expect(netlink.requests).toEqual([]);
  });

  test('nothing is asked after it was closed', async () => {
    const { netlink, sockDiag } = bench();
    sockDiag.find(CONNECTION);
    sockDiag.close();
    sockDiag.close();
    expect(sockDiag.find(CONNECTION).ok).toBe(false);
    expect((await sockDiag.dump({})).ok).toBe(false);
    expect(sockDiag.list({}).ok).toBe(false);
    expect(netlink.open_.size).toBe(0);
    expect(netlink.requests.length).toBe(1);
  });
});

/** Both families: two sockets in two pieces for IPv4, one for IPv6. */
const dumped: Answers = (request, sequence) =>
  request[16] === AF_INET
    ? [
        socket(sequence, { remotePort: 1 }, NLM_F_MULTI),
        Buffer.concat([socket(sequence, { remotePort: 2 }, NLM_F_MULTI), done(sequence)]),
      ]
    : [Buffer.concat([socket(sequence, { family: AF_INET6, remotePort: 3 }, NLM_F_MULTI), done(sequence)])];

describe('dump', () => {
  test('has the sockets of both families, in all states but LISTEN and CLOSE, and leaves no socket open', async () => {
    const { netlink, clock, sockDiag } = bench(dumped);
    const result = await sockDiag.dump({});
    expect(result.ok && result.sockets.map(({ remote }) => `${remote.address} ${remote.port}`)).toEqual([
      '198.51.100.7 1',
      '198.51.100.7 2',
      '2001:db8::7 3',
    ]);
    expect(netlink.requests.map((request) => [request[16], request.readUInt16LE(6), request.length])).toEqual([
      [AF_INET, 0x301, 72],
      [AF_INET6, 0x301, 72],
    ]);
    // Bit 1 is ESTABLISHED, bit 7 CLOSE, bit 10 LISTEN, bit 11 CLOSING.
    expect(netlink.requests[0]?.readUInt32LE(20).toString(2)).toBe('101101111110');
    expect(netlink.open_.size).toBe(0);
    expect(clock.timers).toBe(0);
  });

  test('sockets of one datagram each have their own local end', async () => {
    const elsewhere = (bytes: Buffer): void => void bytes.set([192, 0, 2, 9], 8);
    const otherPort = (bytes: Buffer): void => void bytes.writeUInt16BE(8443, 4);
    const made = [{}, {}, { fill: elsewhere }, { fill: otherPort }, {}];
    const { sockDiag } = bench((_request, sequence) => [
      Buffer.concat([...made.map((each) => socket(sequence, each, NLM_F_MULTI)), done(sequence)]),
    ]);
    const result = await sockDiag.dump({});
    const locals = result.ok ? result.sockets.slice(0, made.length).map(({ local }) => local) : [];
    expect(locals.map(({ address, port }) => `${address} ${port}`)).toEqual([
      '192.0.2.1 443',
      '192.0.2.1 443',
      '192.0.2.9 443',
      '192.0.2.1 8443',
      '192.0.2.1 443',
    ]);
    expect(locals[1]).toBe(locals[0]);
  });

  test('an errno without a name is a failure as well', async () => {
    const { sockDiag } = bench((_request, sequence) => [refused(sequence, 524)]);
    expect(await sockDiag.dump({})).toMatchObject({ ok: false, code: expect.stringContaining('524') });
  });

  test('asks only IPv6 sockets for an IPv6 address', async () => {
    const { netlink, sockDiag } = bench(dumped);
    await sockDiag.dump({ remoteAddress: '2001:db8::7' });
    await sockDiag.dump({ remoteAddress: '::ffff:198.51.100.7' });
    expect(netlink.requests.map((request) => request[16])).toEqual([AF_INET6, AF_INET, AF_INET6]);
  });

  const failures: readonly (readonly [string, Answers, string])[] = [
    ['an errno at once', (_r, sequence) => [refused(sequence, EBUSY)], 'EBUSY'],
    ['an errno at the end', (_r, sequence) => [socket(sequence), done(sequence, ENOENT)], 'ENOENT'],
    ['a piece that is missing', (_r, sequence) => [socket(sequence)], 'EAGAIN'],
    ['a piece that was lost', (_r, sequence) => [socket(sequence), -ENOBUFS, done(sequence)], 'ENOBUFS'],
    ['a piece that is too long', (_r, s) => [socket(s), Buffer.concat([done(s), Buffer.alloc(40_000)])], 'ANSWER'],
    ['a piece of another dump', (_r, sequence) => [socket(sequence), socket(sequence - 1), done(sequence)], 'ANSWER'],
  ];
  test.each(failures)('%s is a failure, on the event loop and off it', async (_name, answer, code) => {
    const { netlink, sockDiag } = bench(answer);
    expect(await sockDiag.dump({})).toMatchObject({ ok: false, code });
    expect(sockDiag.list({})).toMatchObject({ ok: false, code });
    expect(netlink.open_.size).toBe(0);
  });

  test('a refused request is a failure', async () => {
    const { netlink, sockDiag } = bench();
    netlink.failSend = EPERM;
    const failure = { ok: false, code: 'EPERM', why: expect.stringMatching(/^send: EPERM/) };
    expect(await sockDiag.dump({})).toMatchObject(failure);
    expect(sockDiag.list({})).toMatchObject(failure);
    expect(netlink.open_.size).toBe(0);
  });

  test('is made again, once, when sockets changed meanwhile', async () => {
    const { netlink, sockDiag } = bench(dumped);
    let interruptions = 0;
    netlink.answer = (request, sequence) =>
      interruptions-- > 0 ? [socket(sequence, { inode: 1 }, NLM_F_MULTI | NLM_F_DUMP_INTR)] : dumped(request, sequence);
    for (const ask of [() => sockDiag.dump({}), () => sockDiag.list({})]) {
      interruptions = 1;
      const result = await ask();
      expect(result.ok && result.sockets.map(({ inode }) => inode)).toEqual([77, 77, 77]);
      interruptions = 2;
      expect(await ask()).toMatchObject({ ok: false, code: 'INTERRUPTED' });
    }
    expect(netlink.opens).toBe(8);
    expect(netlink.open_.size).toBe(0);
  });

  test('a list during a dump has the same sockets, and disturbs neither the dump nor a find', async () => {
    const { netlink, sockDiag } = bench(dumped);
    netlink.held = [];
    const result = sockDiag.dump({});
    await turn();
    const list = sockDiag.list({});
    netlink.release();
    expect(list).toEqual(await result);
    expect(list).toMatchObject({ ok: true, sockets: { length: 3 } });
    netlink.answer = (_request, sequence) => [socket(sequence, { inode: 5 })];
    expect(sockDiag.find(CONNECTION)).toMatchObject({ ok: true, socket: { inode: 5 } });
  });

  test('dumps wait for each other, and equal ones that have not begun are one', async () => {
    const { netlink, sockDiag } = bench(dumped);
    netlink.held = [];
    const first = sockDiag.dump({ localPorts: [443] });
    await turn();
    const second = sockDiag.dump({ localPorts: [443] });
    const third = sockDiag.dump({ localPorts: [443] });
    const other = sockDiag.dump({ localPorts: [8443] });
    await turn();
    expect(netlink.opens).toBe(1);
    expect(second).not.toBe(first);
    expect(third).toBe(second);
    netlink.release();
    const results = await Promise.all([first, second, other]);
    expect(results.map((result) => result.ok && result.sockets.length)).toEqual([3, 3, 3]);
    expect(netlink.opens).toBe(3);
  });

  test('a find in between has its own answer', async () => {
    const { netlink, sockDiag } = bench((request, sequence) =>
      request.readUInt16LE(6) === 1 ? [socket(sequence, { inode: 5 })] : dumped(request, sequence),
    );
    netlink.held = [];
    const result = sockDiag.dump({});
    await turn();
    expect(sockDiag.find(CONNECTION)).toMatchObject({ ok: true, socket: { inode: 5 } });
    netlink.release();
    expect(await result).toMatchObject({ ok: true, sockets: { length: 3 } });
  });

  test('one that takes too long is a failure, and stops at the next piece; so do those that wait for it', async () => {
    const { netlink, clock, sockDiag } = bench(dumped);
    netlink.held = [];
    const slow = sockDiag.dump({});
    await turn();
    const behind = sockDiag.dump({ localPorts: [443] });
    clock.advance(2000);
    expect(await slow).toMatchObject({ ok: false, code: 'TIMED_OUT' });
    expect(await behind).toMatchObject({ ok: false, code: 'TIMED_OUT' });
    const again = sockDiag.dump({ localPorts: [443] });
    netlink.release();
    expect(await again).toMatchObject({ ok: true, sockets: { length: 3 } });
    // The slow one sent its first request, the one behind it none.
    expect(netlink.requests.length).toBe(3);
    expect(netlink.open_.size).toBe(0);
    expect(clock.timers).toBe(0);
  });

  test('one that is under way stops when all is closed', async () => {
    const { netlink, sockDiag } = bench(dumped);
    netlink.held = [];
    const result = sockDiag.dump({});
    await turn();
    sockDiag.close();
    netlink.release();
    expect(await result).toMatchObject({ ok: false });
    expect(netlink.open_.size).toBe(0);
  });

  test('a system call that throws is a failure, and the next dump is made', async () => {
    const { netlink, sockDiag } = bench(() => {
      throw new Error('koffi cannot');
    });
    expect(await sockDiag.dump({})).toEqual({ ok: false, code: 'INTERNAL', why: 'koffi cannot' });
    netlink.answer = dumped;
    expect(await sockDiag.dump({})).toMatchObject({ ok: true });
    expect(netlink.open_.size).toBe(0);
  });

  test('an address that is none is a failure; a filter by no port lets nothing through', async () => {
    const { netlink, sockDiag } = bench(dumped);
    expect(await sockDiag.dump({ remoteAddress: 'unknown' })).toMatchObject({ ok: false, code: 'ADDRESS' });
    expect(netlink.requests).toEqual([]);
    await sockDiag.dump({ localPorts: [] });
    expect(netlink.requests[0]?.readUInt32LE(20)).toBe(0);
  });
});
