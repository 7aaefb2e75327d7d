import type { Instant } from '../lib/clock.ts';
import type { EvidenceSource, KernelEvidence } from '../streams/stream.ts';
import { liveliest, type SurveyedSocket } from './evidence.ts';
import type { BoundConnection } from './inet-diag.ts';
import type { ProxiedConnection } from './liveness-check.ts';

/** What is said of a connection that is there no longer. */
export const LEFT: KernelEvidence = {
  ...{ unackedSegments: 0, unsentBytes: 0, ackedBytes: 0, retransmits: 0, unansweredProbes: 0 },
  ...{ receivedAgoMs: 0, rttMs: 0, rttvarMs: 0, ended: true },
};

/** One connection of a proxy. A new connection with the same numbers has another cookie. */
export interface ProxySocket {
  readonly connection: BoundConnection;
  readonly cookie: bigint;
}

/** What a survey has seen of one client's connections. */
export interface Survey {
  readonly sockets: readonly SurveyedSocket[];
  readonly liveliest: KernelEvidence | undefined;
}

export function surveyFrom(sockets: readonly SurveyedSocket[]): Survey {
  return { sockets, liveliest: liveliest(sockets.map(({ evidence }) => evidence)) };
}

const NOT_FOUND: EvidenceSource = { kind: 'none', reason: 'socket_not_found' };

/** Who asks Linux. */
export interface ProxySocketSource {
  evidenceOf(socket: ProxySocket): KernelEvidence | undefined;
  evidenceAt(address: string, uid: number): readonly KernelEvidence[] | undefined;
  forget(client: ProxiedClient): void;
}

/** A client behind a proxy, and its connection to that proxy as far as Linux shows it. */
export class ProxiedClient implements ProxiedConnection {
  /** The address of the proxy. */
  readonly proxy: string;
  readonly address: string;
  /** The user that the proxy runs as. */
  readonly uid: number;
  /** Undefined without the client's port: then every connection of the proxy to `address` may be the client's. */
  readonly socket: ProxySocket | undefined;
  readonly #sockets: ProxySocketSource;
  readonly #source: EvidenceSource;
  /** Whether a survey has seen a connection that may be its own. Undefined while none has looked at every connection. */
  #isSeen: boolean | undefined;
  #survey: Survey = surveyFrom([]);
  #leftSince: Instant | undefined;

  constructor(
    sockets: ProxySocketSource,
    source: EvidenceSource,
    proxy: string,
    address: string,
    uid: number,
    socket: ProxySocket | undefined,
  ) {
    this.#sockets = sockets;
    this.#source = source;
    this.proxy = proxy;
    this.address = address;
    this.uid = uid;
    this.socket = socket;
  }

  /** Where its evidence comes from. If the proxy has no connection to the address that it names, there is none. */
  get source(): EvidenceSource {
    return this.#isSeen === false ? NOT_FOUND : this.#source;
  }

  get isExact(): boolean {
    return this.socket !== undefined;
  }

  sockets(): readonly KernelEvidence[] | undefined {
    if (this.#source.kind === 'none') return undefined;
    if (this.socket === undefined) return this.#sockets.evidenceAt(this.address, this.uid);
    const evidence = this.#sockets.evidenceOf(this.socket);
    return evidence && [evidence];
  }

  /** What the last survey saw, and for how long surveys have seen the same. Empty if it saw nothing. */
  get surveyed(): readonly SurveyedSocket[] {
    return this.#survey.sockets;
  }

  /** What there is to show without asking Linux: of several connections, the one that looks most alive. */
  get lastEvidence(): KernelEvidence | undefined {
    return this.#survey.liveliest;
  }

  /**
   * Notes what a survey has seen of the connections that may be the client's.
   *
   * @param isWhole whether it has looked at every connection of this machine.
   * @returns whether it shows for the first time where the evidence comes from.
   */
  note(survey: Survey, isWhole = false): boolean {
    const before = this.#isSeen;
    if (survey.sockets.length > 0) this.#isSeen = true;
    else if (isWhole) this.#isSeen ??= false;
    // A dump may miss a connection that is there.
    this.#leftSince = undefined;
    this.#survey = survey;
    return before !== this.#isSeen;
  }

  /** Notes that a survey has not seen the client's connection. */
  noteLeft(now: Instant): void {
    this.#leftSince ??= now;
    this.#survey = surveyFrom([{ evidence: LEFT, unackedForMs: 0, endedForMs: now - this.#leftSince }]);
  }

  /** Call this when the client's stream has closed. */
  close(): void {
    this.#sockets.forget(this);
  }
}
