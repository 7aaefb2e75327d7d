import { readFileSync } from 'node:fs';
import { addressBytes, addressText, type Connection, type Endpoint } from '../lib/addresses.ts';
import { type Clock, type Instant, plus } from '../lib/clock.ts';
import type { Emit } from '../streams/events.ts';
import type { KernelEvidence, NoEvidence } from '../streams/stream.ts';
import type { SurveyedSocket } from './evidence.ts';
import type { DumpFilter, TcpSocket } from './inet-diag.ts';
import { LEFT, ProxiedClient, type ProxySocket, type Survey, surveyFrom } from './proxied-client.ts';
import type { SockDiagFailure, SockDiagOrNot } from './sock-diag.ts';

/** The way from a client to us. `proxy` is the end of the connection to us that the nearest proxy has. */
export type ClientPath =
  | { readonly kind: 'direct' }
  /** One trusted proxy, which saw the client itself. */
  | {
      readonly kind: 'one_proxy';
      readonly proxy: Connection;
      /** The port is unverified, see `toldByProxies`. */
      readonly client: { readonly address: string; readonly port: number | undefined };
      /** Where the client connected. Only the PROXY protocol tells. */
      readonly listener: Endpoint | undefined;
    }
  /** Another trusted proxy, further out, saw the client. */
  | { readonly kind: 'several_proxies'; readonly proxy: Connection }
  /** A trusted proxy did not say who its client is, so the address is that proxy's. */
  | { readonly kind: 'address_hidden'; readonly proxy: Connection };

export interface ProxySocketsOptions {
  readonly clock: Clock;
  readonly emit: Emit;
  readonly diag: SockDiagOrNot;
  /** The name of a user. By default it is read from `/etc/passwd`. */
  readonly userOf?: (uid: number) => string;
}

/** How many listeners of proxies are remembered. Most proxies have one for IPv4 and one for IPv6. */
const MOST_LISTENERS = 16;
/** How many different findings are reported. */
const MOST_REPORTS = 64;
/** To look through all connections takes milliseconds, so it may take a twentieth of the time … */
const LOOK_THROUGH_COST = 20;
/** … in the long run. So much may be spent in advance, in milliseconds of looking. */
const LOOK_THROUGH_ADVANCE_MS = 50;
/** Longer than one look takes for thousands of connections. On a busy machine it waits for its turn, which costs nobody. */
const LONGEST_LOOK_MS = 10;
/** With more ports, Linux reports all: most are of the proxies' own connections to an address that is also a client's. */
const MOST_PORTS = 32;
/** How often a survey looks for clients on other ports, if nothing was found of some. */
const LEARN_PORTS_EVERY_MS = 60_000;
/** A survey takes about 12 µs for each connection, with all that follows from it, and at most a hundredth of the time. */
const SURVEY_EVERY_MS_PER_SOCKET = 1.2;
/** After so many clients, which takes less than a millisecond, a survey lets the event loop turn. */
const CLIENTS_A_TURN = 256;
/** What was found for an address counts for this long. */
const ADDRESS_KNOWN_FOR_MS = 200;
const MOST_ADDRESSES = 256;

/** The client is still on such a connection, or has just left it. All other states begin with the proxy's own end. */
const COUNTED: readonly TcpSocket['state'][] = ['established', 'close_wait'];

/** Since when the surveys have seen a connection like this. */
interface Lasting {
  readonly ackedBytes: number;
  readonly unackedSince: Instant | undefined;
  readonly endedSince: Instant | undefined;
}

/**
 * The connections between clients and the proxies in front of us. Linux shows them to everybody in the same network namespace
 * (man 7 sock_diag). Nothing about a connection is kept but its numbers and its cookie: each judgement asks anew.
 */
export class ProxySockets {
  readonly #clock: Clock;
  readonly #emit: Emit;
  readonly #diag: SockDiagOrNot;
  readonly #userOf: (uid: number) => string;
  /** Where clients of proxies connect to, the last one found first. With it, one short question finds a client. */
  #listeners: readonly Endpoint[] = [];
  readonly #byAddress = new Map<string, { readonly at: Instant; readonly evidence: readonly KernelEvidence[] }>();
  /** Until when the time spent on looking through all connections has been earned. It may lie a little ahead. */
  #earnedUntil: Instant;
  readonly #clients = new Set<ProxiedClient>();
  #surveying: Promise<void> | undefined;
  #nextSurveyAt: Instant;
  /** The ports on which clients without a known port were found, by the user of their proxy. */
  readonly #ports = new Map<number, Set<number>>();
  #learnedAt: Instant;
  /** By cookie. */
  #lasting: ReadonlyMap<bigint, Lasting> = new Map();
  readonly #reported = new Set<string>();

  constructor({ clock, emit, diag, userOf = userName }: ProxySocketsOptions) {
    this.#clock = clock;
    this.#emit = emit;
    this.#diag = diag;
    this.#userOf = userOf;
    this.#earnedUntil = clock.now();
    this.#nextSurveyAt = clock.now();
    this.#learnedAt = clock.now();
  }

  /** Whether Linux can be asked about the connections of other programs. */
  get isAvailable(): boolean {
    return this.#diag.ok;
  }

  /** Finds a client's connection to its proxy. @returns undefined for a client that connects to us. */
  clientOf(path: ClientPath): ProxiedClient | undefined {
    if (path.kind === 'direct') return undefined;
    const { address } = path.proxy.local;
    if (path.kind !== 'one_proxy') return this.#hidden(address, path.kind);
    if (!this.#diag.ok) return this.#hidden(address, 'netlink_unavailable', this.#diag);
    const proxy = this.#diag.sockDiag.find(path.proxy);
    if (!proxy.ok) return this.#hidden(address, 'netlink_unavailable', proxy);
    const { uid } = proxy.socket ?? {};
    if (uid === undefined) return this.#hidden(address, 'proxy_elsewhere');
    const { port } = path.client;
    const socket = port === undefined ? undefined : this.#locate(uid, { ...path.client, port }, path.listener);
    if (port !== undefined && socket === undefined) return this.#hidden(address, 'socket_not_found');
    const by = port === undefined ? 'address' : 'port';
    const source = { kind: 'proxy', by, user: this.#userOf(uid) } as const;
    const client = new ProxiedClient(this, source, address, shortest(path.client.address), uid, socket);
    this.#clients.add(client);
    // By address alone, the next survey shows whether there is one.
    if (socket !== undefined) this.#reportSource(client);
    return client;
  }

  /** Call this when the client's stream has closed. */
  forget(client: ProxiedClient): void {
    this.#clients.delete(client);
  }

  /**
   * Looks at all connections at once, in small steps, and notes what has become of each client: see `ProxiedClient.surveyed`.
   * How long it takes does not depend on how many clients there are, and it is skipped if it would take too much time.
   */
  survey(): Promise<void> {
    const isDue = this.#clients.size > 0 && this.#clock.now() >= this.#nextSurveyAt;
    if (this.#surveying === undefined && isDue) {
      this.#surveying = this.#surveyNow().finally(() => {
        this.#surveying = undefined;
      });
    }
    return this.#surveying ?? Promise.resolve();
  }

  close(): void {
    if (this.#diag.ok) this.#diag.sockDiag.close();
  }

  /** What Linux says now about one connection. @returns undefined if it cannot be asked. */
  evidenceOf({ connection, cookie }: ProxySocket): KernelEvidence | undefined {
    const found = this.#diag.ok ? this.#diag.sockDiag.find(connection) : this.#diag;
    if (!found.ok) return undefined;
    return found.socket?.cookie === cookie ? evidenceOf(found.socket) : LEFT;
  }

  /** What Linux says about every connection of this user to that address. @returns undefined if it cannot be asked now. */
  evidenceAt(address: string, uid: number): readonly KernelEvidence[] | undefined {
    const now = this.#clock.now();
    const key = `${uid} ${address}`;
    const known = this.#byAddress.get(key);
    if (known !== undefined && now - known.at < ADDRESS_KNOWN_FOR_MS) return known.evidence;
    const sockets = this.#lookThrough({ remoteAddress: address });
    if (sockets === undefined) return undefined;
    const evidence = sockets.filter((socket) => isOfProxy(socket, uid)).map(evidenceOf);
    if (this.#byAddress.size >= MOST_ADDRESSES) this.#byAddress.clear();
    this.#byAddress.set(key, { at: now, evidence });
    return evidence;
  }

  async #surveyNow(): Promise<void> {
    if (!this.#diag.ok) return;
    const startedAt = this.#clock.now();
    const clients = [...this.#clients];
    const ports = this.#portsToSurvey(clients, startedAt);
    const dump = await this.#diag.sockDiag.dump({ states: COUNTED, ...(ports && { localPorts: ports }) });
    const now = this.#clock.now();
    if (!dump.ok) return;
    this.#nextSurveyAt = plus(startedAt, SURVEY_EVERY_MS_PER_SOCKET * dump.sockets.length);
    const byCookie = new Map<bigint, TcpSocket>();
    const byAddress = new Map<string, TcpSocket[]>();
    for (const { socket, address } of clients) if (socket === undefined) byAddress.set(address, []);
    for (const socket of dump.sockets) {
      byCookie.set(socket.cookie, socket);
      byAddress.get(socket.remote.address)?.push(socket);
    }
    const lasting = new Map<bigint, Lasting>();
    const surveyOf = (sockets: readonly TcpSocket[]): Survey =>
      surveyFrom(
        sockets.map((socket) => {
          const evidence = evidenceOf(socket);
          const since = lastingSince(this.#lasting.get(socket.cookie), evidence, now);
          lasting.set(socket.cookie, since);
          return surveyed(evidence, since, now);
        }),
      );
    // Thousands of clients may share one address, so they share what was seen there, too.
    const shared = new Map<string, Survey>();
    for (const [i, client] of clients.entries()) {
      if (i % CLIENTS_A_TURN === CLIENTS_A_TURN - 1) await turnOfTheLoop();
      const { socket: own, address, uid } = client;
      if (own !== undefined) {
        const socket = byCookie.get(own.cookie);
        if (socket === undefined) client.noteLeft(now);
        else client.note(surveyOf([socket]));
        continue;
      }
      const key = `${uid} ${address}`;
      const known = shared.get(key) ?? surveyOf((byAddress.get(address) ?? []).filter((each) => isOfProxy(each, uid)));
      shared.set(key, known);
      if (client.note(known, ports === undefined)) this.#reportSource(client);
    }
    this.#lasting = lasting;
    if (ports === undefined) this.#learnPorts(clients, byAddress);
  }

  /**
   * The ports of the proxies' listeners, so that Linux reports no other connections. Undefined if some are not known: then it
   * reports all, at most once a minute for clients of which nothing was found. Before a stream ends, all ports are looked at.
   */
  #portsToSurvey(clients: readonly ProxiedClient[], now: Instant): readonly number[] | undefined {
    const isUnknown = ({ socket, uid }: ProxiedClient): boolean => socket === undefined && !this.#ports.has(uid);
    const isNew = clients.some(isUnknown);
    const isUnseen = clients.some(({ socket, surveyed }) => socket === undefined && surveyed.length === 0);
    if (isNew || (isUnseen && now - this.#learnedAt >= LEARN_PORTS_EVERY_MS)) {
      this.#learnedAt = now;
      return undefined;
    }
    const exact = clients.flatMap(({ socket }) => (socket === undefined ? [] : [socket.connection.local.port]));
    const ports = new Set([...exact, ...[...this.#ports.values()].flatMap((each) => [...each])]);
    return ports.size > MOST_PORTS ? undefined : [...ports];
  }

  #learnPorts(clients: readonly ProxiedClient[], byAddress: ReadonlyMap<string, readonly TcpSocket[]>): void {
    this.#ports.clear();
    const learned = new Set<string>();
    for (const { socket, uid, address } of clients) {
      if (socket !== undefined) continue;
      const ports = this.#ports.get(uid) ?? new Set();
      this.#ports.set(uid, ports);
      // Thousands of clients may share one address, with thousands of connections.
      const key = `${uid} ${address}`;
      if (learned.has(key)) continue;
      learned.add(key);
      for (const each of byAddress.get(address) ?? []) if (isOfProxy(each, uid)) ports.add(each.local.port);
    }
  }

  /** The proxy's connection with this client. */
  #locate(uid: number, remote: Endpoint, listener: Endpoint | undefined): ProxySocket | undefined {
    if (!this.#diag.ok) return undefined;
    for (const local of listener === undefined ? this.#listeners : [listener, ...this.#listeners]) {
      if (local.address.includes(':') !== remote.address.includes(':')) continue;
      const found = this.#diag.sockDiag.find({ local, remote });
      if (found.ok && found.socket !== undefined && isOfProxy(found.socket, uid)) return this.#located(found.socket);
    }
    const all = this.#lookThrough({ remoteAddress: remote.address, remotePort: remote.port });
    const socket = all?.find((each) => isOfProxy(each, uid));
    return socket && this.#located(socket);
  }

  #located({ local, remote, interfaceIndex, cookie }: TcpSocket): ProxySocket {
    const others = this.#listeners.filter(({ address, port }) => address !== local.address || port !== local.port);
    this.#listeners = [local, ...others].slice(0, MOST_LISTENERS);
    return { connection: { local, remote, interfaceIndex }, cookie };
  }

  /** @returns undefined if Linux cannot be asked, or has been asked too often. */
  #lookThrough(wanted: DumpFilter): readonly TcpSocket[] | undefined {
    const startedAt = this.#clock.now();
    if (!this.#diag.ok || this.#earnedUntil > startedAt + LOOK_THROUGH_COST * LOOK_THROUGH_ADVANCE_MS) return undefined;
    const list = this.#diag.sockDiag.list({ states: COUNTED, ...wanted });
    const tookMs = Math.min(this.#clock.now() - startedAt, LONGEST_LOOK_MS);
    this.#earnedUntil = plus(startedAt, Math.max(0, this.#earnedUntil - startedAt) + LOOK_THROUGH_COST * tookMs);
    return list.ok ? list.sockets : undefined;
  }

  #hidden(address: string, reason: NoEvidence, failure?: SockDiagFailure): ProxiedClient {
    this.#reportHidden(address, reason, failure);
    return new ProxiedClient(this, { kind: 'none', reason }, address, address, 0, undefined);
  }

  #reportSource({ proxy: address, source }: ProxiedClient): void {
    if (source.kind === 'none') this.#reportHidden(address, source.reason);
    if (source.kind !== 'proxy') return;
    const { user, by } = source;
    this.#report(`${address} ${by}`, () => this.#emit({ kind: 'proxy_sockets_found', address, user, by }));
  }

  #reportHidden(address: string, reason: NoEvidence, failure?: SockDiagFailure): void {
    const report = (): void => this.#emit({ kind: 'proxy_sockets_hidden', address, reason, detail: failure?.why });
    this.#report(`${address} ${reason}`, report);
  }

  #report(what: string, report: () => void): void {
    if (this.#reported.has(what) || this.#reported.size >= MOST_REPORTS) return;
    this.#reported.add(what);
    report();
  }
}

function turnOfTheLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function surveyed(evidence: KernelEvidence, { unackedSince, endedSince }: Lasting, now: Instant): SurveyedSocket {
  return {
    evidence,
    unackedForMs: unackedSince === undefined ? 0 : now - unackedSince,
    endedForMs: endedSince === undefined ? undefined : now - endedSince,
  };
}

function lastingSince(before: Lasting | undefined, evidence: KernelEvidence, now: Instant): Lasting {
  const { ackedBytes } = evidence;
  const isSame = before?.ackedBytes === ackedBytes;
  return {
    ackedBytes,
    unackedSince: evidence.unackedSegments > 0 ? ((isSame ? before.unackedSince : undefined) ?? now) : undefined,
    endedSince: evidence.ended ? (before?.endedSince ?? now) : undefined,
  };
}

/** An address as Linux's answers are written: a proxy may write an IPv6 address in another form. */
function shortest(address: string): string {
  const bytes = addressBytes(address);
  return bytes === undefined ? address : addressText(bytes, 0, bytes.length);
}

function isOfProxy(socket: TcpSocket, uid: number): boolean {
  return socket.uid === uid && COUNTED.includes(socket.state);
}

function evidenceOf({ evidence, state, timer, timerInMs }: TcpSocket): KernelEvidence {
  if (evidence === undefined) return LEFT;
  if (state !== 'established') return { ...evidence, ended: true };
  return timer === 'keepalive' ? { ...evidence, nextProbeInMs: timerInMs } : evidence;
}

/** `caddy`, or `998` where the system has no name for it. Reads `/etc/passwd` once for each user, not for each stream. */
function userName(uid: number): string {
  const known = userNames.get(uid);
  if (known !== undefined) return known;
  const line = passwd().find((each) => each.split(':')[2] === String(uid));
  const name = line?.split(':')[0] ?? String(uid);
  if (line !== undefined) userNames.set(uid, name);
  return name;
}

const userNames = new Map<number, string>();

function passwd(): readonly string[] {
  try {
    return readFileSync('/etc/passwd', 'utf8').split('\n');
  } catch {
    return [];
  }
}
