import type { MachineKey } from '../identity/keys.ts';
import type { Clock } from '../lib/clock.ts';
import type { WatchdogEvent } from '../streams/events.ts';
import type { KernelEvidence, Stream, StreamId } from '../streams/stream.ts';
import { type NameOf, sentenceOf } from '../telemetry/describe-event.ts';
import { type Minute, Minutes } from './minutes.ts';

/** One thing that happened, as it was known then. */
export interface Happening {
  /** Counts up from 1, with gaps where nothing was kept. */
  readonly seq: number;
  /** Milliseconds of the Unix epoch. */
  readonly at: number;
  readonly kind: WatchdogEvent['kind'];
  readonly machineKey: MachineKey | undefined;
  readonly stream: StreamId | undefined;
  /** The newcomer that a severed stream made room for, or the old stream of a contest. */
  readonly otherStream: StreamId | undefined;
  readonly address: string | undefined;
  /** A close reason, a verdict, or what it was severed for. */
  readonly reason: string | undefined;
  readonly silentMs: number | undefined;
  readonly kernel: KernelEvidence | undefined;
  readonly sentence: string;
}

/** Which happenings to tell; what is undefined lets all pass. */
export interface HistoryQuery {
  /** Only later ones, oldest first; without it the newest ones. */
  readonly after: number | undefined;
  readonly limit: number;
  readonly machineKeys: ReadonlySet<MachineKey> | undefined;
  readonly stream: StreamId | undefined;
  readonly kinds: ReadonlySet<string> | undefined;
}

export interface HistoryBounds {
  readonly ofNodes: number;
  /** About nobody, or a key that Headscale does not know: whoever knocks at the door must not push the nodes' history out. */
  readonly ofOthers: number;
  readonly ageMs: number;
}

/** @param most how many happenings of nodes are kept. */
export function historyBounds(most: number): HistoryBounds {
  return { ofNodes: most, ofOthers: Math.ceil(most / 10), ageMs: 24 * 3_600_000 };
}

export interface HistoryPorts {
  readonly nameOf: NameOf;
  /** Whether it is a node's as far as can be told. */
  isNode(key: MachineKey): boolean;
}

/** What happened lately: a day, and no more than so many happenings, in memory alone. */
export class History {
  readonly #clock: Clock;
  readonly #ports: HistoryPorts;
  readonly #ofNodes: Recent;
  readonly #ofOthers: Recent;
  readonly #minutes = new Minutes();
  readonly #listeners = new Set<(happening: Happening) => void>();
  readonly #ageMs: number;
  #lastSeq = 0;

  constructor(clock: Clock, ports: HistoryPorts, bounds: HistoryBounds) {
    this.#clock = clock;
    this.#ports = ports;
    this.#ofNodes = new Recent(bounds.ofNodes);
    this.#ofOthers = new Recent(bounds.ofOthers);
    this.#ageMs = bounds.ageMs;
  }

  readonly listen = (event: WatchdogEvent): void => {
    const at = this.#now();
    this.#minutes.listen(event, at);
    // The same again would push out what is not: it is counted, and in the log at debug.
    if ('isNews' in event && !event.isNews) return;
    // Of those that were read the opened stream tells.
    if (event.kind === 'handshake_checked' && event.result === 'identified') return;
    const about = aboutOf(event);
    const sentence = sentenceOf(event, this.#ports.nameOf);
    const happening: Happening = { seq: ++this.#lastSeq, at, kind: event.kind, ...about, sentence };
    const isOfNode = about.machineKey !== undefined && this.#ports.isNode(about.machineKey);
    (isOfNode ? this.#ofNodes : this.#ofOthers).add(happening);
    for (const listener of this.#listeners) listener(happening);
  };

  /** @returns what ends the listening. */
  onHappening(listener: (happening: Happening) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get lastSeq(): number {
    return this.#lastSeq;
  }

  get size(): number {
    this.#forget();
    return this.#ofNodes.size + this.#ofOthers.size;
  }

  /** What matches, oldest first. */
  find(query: HistoryQuery): readonly Happening[] {
    this.#forget();
    const { after = 0, limit } = query;
    const found = [...this.#ofNodes.all(), ...this.#ofOthers.all()].filter((each) => matches(each, query, after));
    found.sort((a, b) => a.seq - b.seq);
    return query.after === undefined ? found.slice(Math.max(0, found.length - limit)) : found.slice(0, limit);
  }

  lastHour(): readonly Minute[] {
    return this.#minutes.lastHour(this.#now());
  }

  #forget(): void {
    const oldest = this.#now() - this.#ageMs;
    for (const recent of [this.#ofNodes, this.#ofOthers]) recent.forgetBefore(oldest);
  }

  #now(): number {
    return this.#clock.dateOf(this.#clock.now()).getTime();
  }
}

export function matches(each: Happening, query: Omit<HistoryQuery, 'limit' | 'after'>, after: number): boolean {
  const { machineKeys, stream, kinds } = query;
  if (each.seq <= after) return false;
  if (kinds !== undefined && !kinds.has(each.kind)) return false;
  if (stream !== undefined && each.stream !== stream && each.otherStream !== stream) return false;
  return machineKeys === undefined || (each.machineKey !== undefined && machineKeys.has(each.machineKey));
}

/** The newest happenings, oldest first, no more than `most`. */
export class Recent {
  readonly #most: number;
  #kept: Happening[] = [];
  /** How many at the beginning of `#kept` are forgotten already: they go together, since to shift each costs the length. */
  #forgotten = 0;

  constructor(most: number) {
    this.#most = most;
  }

  get size(): number {
    return this.#kept.length - this.#forgotten;
  }

  add(happening: Happening): void {
    this.#kept.push(happening);
    if (this.size > this.#most) this.#forgotten += 1;
    this.#tidy();
  }

  all(): readonly Happening[] {
    return this.#forgotten === 0 ? this.#kept : this.#kept.slice(this.#forgotten);
  }

  forgetBefore(at: number): void {
    while (this.#forgotten < this.#kept.length && (this.#kept[this.#forgotten]?.at ?? at) < at) this.#forgotten += 1;
    this.#tidy();
  }

  #tidy(): void {
    if (this.#forgotten < 1 + this.#most / 10 && this.size > 0) return;
    this.#kept = this.#kept.slice(this.#forgotten);
    this.#forgotten = 0;
  }
}

type About = Omit<Happening, 'seq' | 'at' | 'kind' | 'sentence'>;

const NOBODY: About = {
  machineKey: undefined,
  stream: undefined,
  otherStream: undefined,
  address: undefined,
  reason: undefined,
  silentMs: undefined,
  kernel: undefined,
};

/** Whom and which streams an event is about. Nothing of the stream itself is kept: it would live as long as the history. */
export function aboutOf(event: WatchdogEvent): About {
  switch (event.kind) {
    case 'stream_opened':
    case 'stream_held':
      return of(event.stream);
    case 'stream_released':
      return { ...of(event.stream), reason: event.reason };
    case 'stream_closed':
      return { ...of(event.stream), reason: event.reason };
    case 'stream_severed': {
      const { stream, newcomer, reason, silentMs, kernel } = event;
      return { ...of(stream), otherStream: newcomer.id, reason, silentMs: Math.round(silentMs), kernel };
    }
    case 'would_sever':
      return { ...of(event.stream), reason: event.reason };
    case 'upstream_silent':
      return { ...NOBODY, reason: event.silence.on };
    case 'contest_opened':
      return { ...of(event.newcomer), otherStream: event.old.id };
    case 'contest_ended':
      return { ...of(event.newcomer), otherStream: event.old.id, reason: event.verdict };
    case 'machine_key_duplicated':
      return { ...NOBODY, machineKey: event.machineKey };
    case 'handshake_checked':
      return { ...NOBODY, address: event.remoteAddress, reason: event.result };
    case 'limit_reached':
      return { ...NOBODY, address: event.address, reason: event.limit };
    case 'noise_key_checked':
      return { ...NOBODY, reason: event.matches ? 'matches' : 'differs' };
    case 'proxy_not_trusted':
    case 'client_addresses_hidden':
    case 'upgrade_header_lost':
      return { ...NOBODY, address: event.address };
    case 'connection_refused':
      return { ...NOBODY, address: event.address, reason: event.reason };
    case 'upstream_refused':
    case 'upstream_protocol_mismatched':
      return { ...NOBODY, address: event.remoteAddress };
    default:
      return NOBODY;
  }
}

function of({ machineKey, id, remoteAddress }: Stream): About {
  return { ...NOBODY, machineKey, stream: id, address: remoteAddress };
}
