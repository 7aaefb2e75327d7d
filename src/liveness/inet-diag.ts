import { addressBytes, addressText, type Connection, type Endpoint } from '../lib/addresses.ts';
import type { KernelEvidence } from '../streams/stream.ts';
import { readTcpInfo, TCP_INFO_LENGTH } from './kernel.ts';

/** What goes to and comes from Linux's sock_diag, byte by byte: man 7 sock_diag, man 7 netlink, <linux/inet_diag.h>. */

/** One TCP connection, by what Linux finds it by. Its addresses are lower-case and short, and have no scope. */
export interface BoundConnection extends Connection {
  /** The interface that its socket is bound to (SO_BINDTODEVICE, a link-local address, a VRF). 0, or absent: not bound. */
  readonly interfaceIndex?: number;
}

/** In the order of <net/tcp_states.h>. */
const STATES = [
  'unknown',
  'established',
  'syn_sent',
  'syn_recv',
  'fin_wait1',
  'fin_wait2',
  'time_wait',
  'close',
  'close_wait',
  'last_ack',
  'listen',
  'closing',
] as const;
type TcpState = (typeof STATES)[number];

/** The timer that is running on a socket, in the order of `idiag_timer`. `keepalive`: its owner has it probed. */
const TIMERS = ['none', 'retransmission', 'keepalive', 'time_wait', 'window_probe'] as const;
type TcpTimer = (typeof TIMERS)[number];

export interface TcpSocket extends BoundConnection {
  readonly interfaceIndex: number;
  readonly state: TcpState;
  /**
   * Whose socket it is, seen from our user namespace. Undefined where no process holds it: not accepted yet, closed by its
   * process, TIME_WAIT.
   */
  readonly uid: number | undefined;
  /** 0 where no process holds it. */
  readonly inode: number;
  /** Stays the same in every state, TIME_WAIT included. A new connection with the same numbers has another one. */
  readonly cookie: bigint;
  readonly timer: TcpTimer;
  /** When the timer fires, from now. 0 without one. */
  readonly timerInMs: number;
  /** Undefined where Linux keeps none: in TIME_WAIT, in FIN_WAIT2 without a process, and during the handshake. */
  readonly evidence: KernelEvidence | undefined;
}

/** Which sockets a dump has. What is absent does not matter. Linux applies it, so that others cost almost nothing. */
export interface DumpFilter {
  /** Absent: every state but LISTEN and CLOSE. */
  readonly states?: readonly TcpState[];
  /** The socket has one of these ports. */
  readonly localPorts?: readonly number[];
  readonly remoteAddress?: string;
  readonly remotePort?: number;
}

/*
 * struct nlmsghdr: 4 length | 2 type | 2 flags | 4 sequence | 4 port. Then, in a request, struct inet_diag_req_v2:
 * 1 family | 1 protocol | 1 extensions | 1 – | 4 states | 48 socket; and in an answer, struct inet_diag_msg: 1 family |
 * 1 state | 1 timer | 1 retransmissions | 48 socket | 4 expires | 4 + 4 queues | 4 uid | 4 inode; then attributes.
 * The socket (struct inet_diag_sockid): 2 local port | 2 remote port | 16 local address | 16 remote address | 4 interface |
 * 8 cookie. Ports and addresses are big-endian, everything else is as the machine is.
 */
const HEADER = { type: 4, flags: 6, sequence: 8, length: 16 } as const;
const REQUEST = { family: 16, protocol: 17, extensions: 18, states: 20, socket: 24, length: 72 } as const;
const MESSAGE = { state: 1, timer: 2, socket: 4, expires: 52, uid: 64, inode: 68, length: 72 } as const;
const SOCKET = { localPort: 0, remotePort: 2, local: 4, remote: 20, interface: 36, cookie: 40 } as const;

// <bits/socket.h>, <netinet/in.h>
export const AF_INET = 2;
export const AF_INET6 = 10;
const IPPROTO_TCP = 6;
// <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>
const NLM_F_REQUEST = 1;
const NLM_F_DUMP = 0x300;
const NLM_F_DUMP_INTR = 0x10;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
const SOCK_DIAG_BY_FAMILY = 20;
const INET_DIAG_INFO = 2;
const INET_DIAG_REQ_BYTECODE = 1;
const INET_DIAG_BC_JMP = 1;
const INET_DIAG_BC_S_COND = 7;
const INET_DIAG_BC_D_COND = 8;
const NO_COOKIE = 0xffff_ffff_ffff_ffffn;

function requestOf(family: number, flags: number, sequence: number, length: number): Buffer {
  const request = Buffer.alloc(length);
  request.writeUInt32LE(length, 0);
  request.writeUInt16LE(SOCK_DIAG_BY_FAMILY, HEADER.type);
  request.writeUInt16LE(NLM_F_REQUEST | flags, HEADER.flags);
  request.writeUInt32LE(sequence, HEADER.sequence);
  request.writeUInt8(family, REQUEST.family);
  request.writeUInt8(IPPROTO_TCP, REQUEST.protocol);
  request.writeUInt8(1 << (INET_DIAG_INFO - 1), REQUEST.extensions);
  return request;
}

/**
 * For two IPv4 addresses Linux finds an IPv4 socket, or an IPv6 socket that has them mapped (inet_diag_find_one_icsk).
 *
 * @returns undefined if these are not two addresses of one family, with ports.
 */
export function findRequest(
  { local, remote, interfaceIndex = 0 }: BoundConnection,
  sequence: number,
): Buffer | undefined {
  const [from, to] = [addressBytes(local.address), addressBytes(remote.address)];
  if (from === undefined || from.length !== to?.length || !isPort(local.port) || !isPort(remote.port)) return undefined;
  const request = requestOf(from.length === 4 ? AF_INET : AF_INET6, 0, sequence, REQUEST.length);
  request.writeUInt16BE(local.port, REQUEST.socket + SOCKET.localPort);
  request.writeUInt16BE(remote.port, REQUEST.socket + SOCKET.remotePort);
  from.copy(request, REQUEST.socket + SOCKET.local);
  to.copy(request, REQUEST.socket + SOCKET.remote);
  request.writeUInt32LE(interfaceIndex, REQUEST.socket + SOCKET.interface);
  request.writeBigUInt64LE(NO_COOKIE, REQUEST.socket + SOCKET.cookie);
  return request;
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port >= 0 && port <= 0xffff;
}

const DEFAULT_STATES = STATES.filter((state) => !['unknown', 'listen', 'close'].includes(state));

export function dumpRequest(family: number, filter: DumpFilter, address: Buffer | undefined, sequence: number): Buffer {
  const program = filterProgram(filter, address);
  const attribute = program.length === 0 ? 0 : 4 + program.length;
  const request = requestOf(family, NLM_F_DUMP, sequence, REQUEST.length + attribute);
  const { states = DEFAULT_STATES, localPorts } = filter;
  const mask = localPorts?.length === 0 ? 0 : states.reduce((bits, state) => bits | (1 << STATES.indexOf(state)), 0);
  request.writeUInt32LE(mask, REQUEST.states);
  if (attribute > 0) {
    request.writeUInt16LE(attribute, REQUEST.length);
    request.writeUInt16LE(INET_DIAG_REQ_BYTECODE, REQUEST.length + 2);
    program.copy(request, REQUEST.length + 4);
  }
  return request;
}

/**
 * A program that Linux runs for each socket (inet_diag_bc_run): each operation jumps forward, by `yes` or by `no` bytes. At the
 * program's end the socket is in the answer; four bytes behind it, it is not.
 */
function filterProgram({ localPorts = [], remotePort }: DumpFilter, address: Buffer | undefined): Buffer {
  const remote =
    address === undefined && remotePort === undefined ? [] : [hostCondition(INET_DIAG_BC_D_COND, address, remotePort)];
  const remoteLength = remote.reduce((length, { length: more }) => length + more, 0);
  const program = [...remote];
  // From the last port to the first. Between two ports stands a jump: over the ports that remain, if the one before matched.
  let portsLength = 0;
  for (const port of localPorts.toReversed()) {
    const condition = hostCondition(INET_DIAG_BC_S_COND, undefined, port);
    if (portsLength === 0) {
      condition.writeUInt16LE(condition.length + remoteLength + 4, 2);
    } else {
      const jump = Buffer.from([INET_DIAG_BC_JMP, 4, 0, 0]);
      jump.writeUInt16LE(portsLength + 4, 2);
      condition.writeUInt16LE(condition.length + jump.length, 2);
      program.unshift(jump);
      portsLength += jump.length;
    }
    program.unshift(condition);
    portsLength += condition.length;
  }
  return Buffer.concat(program);
}

/** struct inet_diag_bc_op: 1 code | 1 yes | 2 no; struct inet_diag_hostcond: 1 family | 1 prefix length | 2 – | 4 port | address. */
function hostCondition(code: number, address: Buffer = Buffer.alloc(0), port = -1): Buffer {
  const length = 12 + address.length;
  const condition = Buffer.alloc(length);
  condition.writeUInt8(code, 0);
  condition.writeUInt8(length, 1);
  condition.writeUInt16LE(length + 4, 2);
  // An IPv4 address also matches where an IPv6 socket has it mapped.
  condition.writeUInt8(address.length === 0 ? 0 : address.length === 4 ? AF_INET : AF_INET6, 4);
  condition.writeUInt8(8 * address.length, 5);
  condition.writeInt32LE(port, 8);
  address.copy(condition, 12);
  return condition;
}

/** What a datagram from Linux was. */
export type Answer =
  | 'more'
  | 'done'
  /** Sockets changed so much during the dump that it has to be made again. */
  | 'interrupted'
  /** It did not fit, it is the answer to another request, or it cannot be read. */
  | 'truncated'
  | 'stale'
  | 'malformed'
  /** The errno with which Linux refused. */
  | { readonly errno: number };

/** Reads one datagram from Linux, and appends the sockets in it. @param length its length before it was cut to fit. */
export function readAnswer(bytes: Buffer, length: number, sequence: number, sockets: TcpSocket[]): Answer {
  if (length > bytes.length) return 'truncated';
  let previous: number | undefined;
  for (let at = 0; at < length; ) {
    if (at + HEADER.length > length) return 'malformed';
    const messageLength = bytes.readUInt32LE(at);
    if (messageLength < HEADER.length || at + messageLength > length) return 'malformed';
    if (bytes.readUInt32LE(at + HEADER.sequence) !== sequence) return 'stale';
    const type = bytes.readUInt16LE(at + HEADER.type);
    const body = at + HEADER.length;
    const bodyLength = messageLength - HEADER.length;
    if ((bytes.readUInt16LE(at + HEADER.flags) & NLM_F_DUMP_INTR) !== 0) return 'interrupted';
    if (type === NLMSG_DONE || type === NLMSG_ERROR) {
      const result = bodyLength >= 4 ? bytes.readInt32LE(body) : 0;
      return result < 0 ? { errno: -result } : 'done';
    }
    if (type !== SOCK_DIAG_BY_FAMILY || bodyLength < MESSAGE.length) return 'malformed';
    const isSameLocal = previous !== undefined && haveSameLocal(bytes, previous, body);
    sockets.push(readSocket(bytes, body, at + messageLength, isSameLocal ? sockets.at(-1)?.local : undefined));
    previous = body;
    at += (messageLength + 3) & ~3;
  }
  return 'more';
}

/** Whether two sockets have the same local end. Those of one server mostly do, and then share one object for it. */
function haveSameLocal(bytes: Buffer, a: number, b: number): boolean {
  const [first, second] = [a + MESSAGE.socket, b + MESSAGE.socket];
  if (bytes.readUInt16BE(first + SOCKET.localPort) !== bytes.readUInt16BE(second + SOCKET.localPort)) return false;
  return (
    bytes.compare(bytes, first + SOCKET.local, first + SOCKET.remote, second + SOCKET.local, second + SOCKET.remote) ===
    0
  );
}

/** Reads the struct inet_diag_msg at `at`, and the attribute with TCP_INFO behind it. */
function readSocket(bytes: Buffer, at: number, end: number, local: Endpoint | undefined): TcpSocket {
  const socket = at + MESSAGE.socket;
  const addressLength = bytes[at] === AF_INET ? 4 : 16;
  const inode = bytes.readUInt32LE(at + MESSAGE.inode);
  return {
    local: local ?? {
      address: addressText(bytes, socket + SOCKET.local, addressLength),
      port: bytes.readUInt16BE(socket + SOCKET.localPort),
    },
    remote: {
      address: addressText(bytes, socket + SOCKET.remote, addressLength),
      port: bytes.readUInt16BE(socket + SOCKET.remotePort),
    },
    interfaceIndex: bytes.readUInt32LE(socket + SOCKET.interface),
    state: STATES[bytes.readUInt8(at + MESSAGE.state)] ?? 'unknown',
    // Linux may say 0, which is root, if there is no process.
    uid: inode === 0 ? undefined : bytes.readUInt32LE(at + MESSAGE.uid),
    inode,
    cookie: bytes.readBigUInt64LE(socket + SOCKET.cookie),
    timer: TIMERS[bytes.readUInt8(at + MESSAGE.timer)] ?? 'none',
    timerInMs: bytes.readUInt32LE(at + MESSAGE.expires),
    evidence: readEvidence(bytes, at + MESSAGE.length, end),
  };
}

/** struct nlattr: 2 length | 2 type. The next one begins at a multiple of four bytes. */
function readEvidence(bytes: Buffer, from: number, end: number): KernelEvidence | undefined {
  for (let at = from; at + 4 <= end; ) {
    const length = bytes.readUInt16LE(at);
    if (length < 4 || at + length > end) return undefined;
    if (bytes.readUInt16LE(at + 2) === INET_DIAG_INFO && length >= 4 + TCP_INFO_LENGTH)
      return readTcpInfo(bytes, at + 4);
    at += (length + 3) & ~3;
  }
  return undefined;
}
