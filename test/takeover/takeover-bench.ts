import { type MachineKey, machineKeyOf } from '../../src/identity/keys.ts';
import type { Clock, Instant, Timer } from '../../src/lib/clock.ts';
import type { ProxiedConnection } from '../../src/liveness/liveness-check.ts';
import { Events, type WatchdogEvent } from '../../src/streams/events.ts';
import { Registry } from '../../src/streams/registry.ts';
import {
  CLOSES_WITH,
  type CloseReason,
  type EvidenceSource,
  type KernelEvidence,
  type LossReason,
  type Stream,
  setState,
} from '../../src/streams/stream.ts';
import { type Contestant, Takeover, type TakeoverTerms } from '../../src/takeover/takeover.ts';
import { FakeClock } from '../support/fake-clock.ts';

export const ALICE = machineKeyOf(Buffer.alloc(32, 0xa1));
export const BOB = machineKeyOf(Buffer.alloc(32, 0xb0));

/** A client's connection as its kernel would answer for it, with Linux's rule that only a quiet line is probed. */
export class FakeLine {
  /** Nobody answers any more, as after a phone's battery was pulled. */
  vanished = false;
  evidenceIsThere = true;
  rttMs = 20;
  rttvarMs = 5;
  unackedSegments = 0;
  retransmits = 0;
  probesSent = 0;
  /** How often a probe was asked for; on a line that is not quiet none is sent. */
  probesAsked = 0;
  probing = false;
  #unanswered = 0;
  /** When the first of the probes left that nothing has answered. */
  firstUnansweredAt: Instant | undefined;
  #receivedAt: Instant;
  #keepalive: Timer | undefined;
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#receivedAt = clock.now();
  }

  evidence(): KernelEvidence | undefined {
    if (!this.evidenceIsThere) return undefined;
    const { unackedSegments, retransmits, rttMs, rttvarMs } = this;
    const receivedAgoMs = this.#clock.now() - this.#receivedAt;
    const counts = { unackedSegments, unsentBytes: 0, ackedBytes: 0, retransmits, unansweredProbes: this.#unanswered };
    return { ...counts, receivedAgoMs, rttMs, rttvarMs };
  }

  probe(): void {
    this.probing = true;
    this.probesAsked += 1;
    this.#keepalive?.cancel();
    const quietMs = this.#clock.now() - this.#receivedAt;
    this.#keepalive = this.#clock.after(Math.max(0, 1000 - quietMs), () => this.#sendProbe());
  }

  stopProbing(): void {
    this.probing = false;
    this.#keepalive?.cancel();
  }

  received(): void {
    this.#receivedAt = this.#clock.now();
    this.#unanswered = 0;
    this.firstUnansweredAt = undefined;
  }

  #sendProbe(): void {
    if (this.unackedSegments > 0) return;
    this.probesSent += 1;
    this.#unanswered += 1;
    this.firstUnansweredAt ??= this.#clock.now();
    if (!this.vanished) this.#clock.after(this.rttMs, () => !this.vanished && this.received());
  }
}

/** A node's connection in the tests: what its client does, and what the watchdog did to it. */
export class FakePeer implements Contestant {
  readonly stream: Stream;
  readonly line: FakeLine;
  forwardedAt: Instant | undefined;
  severedAt: Instant | undefined;
  severedBecause: LossReason | undefined;
  /** Set by a test whose client stands behind a proxy: then its line is never probed. */
  behindProxy: ProxiedConnection | undefined;
  source: EvidenceSource = { kind: 'direct' };
  readonly #bench: Bench;

  constructor(bench: Bench, key: MachineKey | undefined, address: string) {
    const now = bench.clock.now();
    this.#bench = bench;
    this.line = new FakeLine(bench.clock);
    this.stream = {
      id: bench.registry.nextId(),
      kind: 'control',
      machineKey: key,
      address,
      remoteAddress: `${address}:1000`,
      openedAt: now,
      heardAt: now,
      spokenAt: undefined,
      firstRecordAt: undefined,
      bytesReceived: 0,
      bytesSent: 0,
      state: { kind: 'connecting' },
      wouldSever: undefined,
    };
  }

  evidence = (): KernelEvidence | undefined => this.line.evidence();
  probe = (): void => this.line.probe();
  stopProbing = (): void => this.line.stopProbing();

  /** Headscale takes it, and the client's first record follows, both at once. */
  forward(): void {
    if (this.forwardedAt !== undefined) throw new Error('forwarded twice');
    this.forwardedAt = this.#bench.clock.now();
    setState(this.stream, { kind: 'connecting' });
    if (!this.#bench.sessionsOpen) return;
    setState(this.stream, { kind: 'open' });
    this.speaksFirst();
  }

  sever(because: LossReason): void {
    if (this.severedAt !== undefined) throw new Error('severed twice');
    this.severedAt = this.#bench.clock.now();
    this.severedBecause = because;
    this.#close(CLOSES_WITH[because], this.#bench.closingTakesMs);
  }

  /** Its client's first whole record. */
  speaksFirst(): void {
    this.stream.firstRecordAt = this.#bench.clock.now();
    this.#bench.takeover.firstRecord(this.stream);
  }

  /** Its client sends a byte. */
  speaks(): void {
    this.stream.heardAt = this.#bench.clock.now();
    this.line.received();
  }

  /** Its client, or Headscale, ends it. */
  leaves(reason: CloseReason = 'client_closed'): void {
    this.#close(reason, 0);
  }

  #close(reason: CloseReason, tookMs: number): void {
    const { takeover, registry, clock, closing } = this.#bench;
    setState(this.stream, { kind: 'closing', reason });
    closing.add(this.stream);
    takeover.streamEnding(this.stream, reason);
    clock.after(tookMs, () => {
      closing.delete(this.stream);
      setState(this.stream, { kind: 'closed', reason });
      takeover.upstreamClosed(this.stream);
      registry.remove(this.stream);
    });
  }
}

/** Takeover on virtual time, with peers instead of sockets. */
export class Bench {
  #addresses = 0;
  readonly clock = new FakeClock();
  readonly registry = new Registry();
  readonly events: WatchdogEvent[] = [];
  /** Hears each event as it happens. */
  heard: (event: WatchdogEvent) => void = () => {};
  /** As `hold: auto` has it; where a test sets it alone to less, the shorter counts. */
  holdMs = 5000;
  holdUsuallyMs = 1500;
  silentAfterMs = 30_000;
  observeOnly = false;
  /** Whether Headscale takes what is forwarded, and clients speak at once. */
  sessionsOpen = true;
  /** Whose connection to Headscale is about to close. */
  readonly closing = new Set<Stream>();
  /** How long an upstream connection takes to close once it is severed. */
  closingTakesMs = 2;
  readonly takeover: Takeover;
  /** Addresses that say nothing. */
  readonly untelling = new Set<string>();
  /** Where a node has a rule of its own. */
  readonly termsOfKey = new Map<MachineKey, Partial<TakeoverTerms>>();

  /** @param random what the guard puts off by. */
  constructor(random: () => number = () => 0.5) {
    const bus = new Events();
    bus.listen((event) => {
      this.events.push(event);
      this.heard(event);
    });
    const terms = ({ machineKey }: Stream) => {
      const { silentAfterMs, holdMs, holdUsuallyMs, observeOnly } = this;
      return { silentAfterMs, holdMs, holdUsuallyMs, observeOnly, ...(machineKey && this.termsOfKey.get(machineKey)) };
    };
    this.takeover = new Takeover(this.clock, this.registry, terms, bus.emit, undefined, {
      random,
      isTelling: (address) => !this.untelling.has(address),
    });
  }

  /** A node opens a stream, from an address it never had before unless one is named; `made` sees it before takeover does. */
  opens(
    key: MachineKey | 'nobody' = ALICE,
    address = `192.0.2.${++this.#addresses}`,
    made: (peer: FakePeer) => void = () => {},
  ): FakePeer {
    const peer = new FakePeer(this, key === 'nobody' ? undefined : key, address);
    made(peer);
    this.registry.add(peer.stream);
    this.takeover.admit(peer);
    return peer;
  }

  verdicts(): readonly string[] {
    return this.events.flatMap((event) => (event.kind === 'contest_ended' ? [event.verdict] : []));
  }

  kinds(): readonly string[] {
    return this.events.map((event) => event.kind);
  }
}
