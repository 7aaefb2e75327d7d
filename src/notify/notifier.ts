import { formatTarget } from '../config/notify.ts';
import { matchesNode, policyFor } from '../config/policy.ts';
import type { Config, NotifyTarget } from '../config/types.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Clock, Instant, Timer } from '../lib/clock.ts';
import { span } from '../lib/units.ts';
import { type Emit, type EventKind, type EventOf, hasBegun, type WatchdogEvent } from '../streams/events.ts';
import { type HandedMessages, Outbox, type OutboxOptions, type Poster } from './delivery.ts';
import { messagesFor } from './messages.ts';
import { type Change, ExpiryWatch, NodeTracker } from './tracker.ts';

export interface NotifierOptions extends Omit<OutboxOptions, 'post'> {
  readonly poster: Poster;
  readonly live: { readonly config: Config };
  /** What a target's `secret-file` holds. */
  readonly keys: { notifySecretOf(target: NotifyTarget): string | undefined };
  /** Headscale's nodes. */
  readonly directory: {
    readonly loaded: boolean;
    nodeOf(key: MachineKey): NodeInfo | undefined;
    all(): readonly NodeInfo[];
  };
  /** A node that leaves may be on another replica. Undefined if this is the only watchdog. */
  readonly replicas: { readonly isFirst: boolean; remoteKeys(): Promise<ReadonlySet<MachineKey>> } | undefined;
  /** Whether another process delivers until `goOn`. */
  readonly isPaused?: boolean;
}

/**
 * The events that are told as they happen, and how. To tell another kind of event, add a row. Nodes that are offline, and Headscale's
 * outages, depend on time: see `NodeTracker`.
 */
const TOLD: { readonly [K in EventKind]?: (event: EventOf<K>) => Change | undefined } = {
  machine_key_duplicated: ({ machineKey, addresses: [one, other] }) => ({
    ...{ type: 'node.duplicate', machineKey },
    says: `shares its machine key with another machine (${one === other ? `both at ${one}` : `at ${one} and ${other}`})`,
  }),
  node_disagrees: ({ machineKey, disagreement, forMs }) => ({
    ...{ type: 'node.disagrees', machineKey },
    says: `${DISAGREES[disagreement]}, for ${span(forMs)} already`,
  }),
  noise_key_checked: ({ matches }) =>
    matches
      ? undefined
      : { type: 'key.mismatch', text: "The Noise key is not Headscale's, so the watchdog cannot tell nodes apart." },
  stream_severed: ({ stream: { machineKey }, reason, silentMs }) =>
    machineKey && {
      ...{ type: 'takeover', machineKey },
      says: `took over from its old stream, which was ${reason} (its client had sent nothing for ${span(silentMs)})`,
    },
};

const DISAGREES: Readonly<Record<EventOf<'node_disagrees'>['disagreement'], string>> = {
  shown_offline: 'is connected, and Headscale shows it as offline',
  shown_online: 'has no connection here, and Headscale shows it as online',
  deleted: 'was deleted in Headscale, and is still connected',
};

/** How often the tracker is asked while a node is away. */
const LOOK_EVERY_MS = 5000;
/** How often other replicas are asked while nodes are told as offline. */
const ASK_REPLICAS_EVERY_MS = 60_000;
/** The same about the same node is not told again within this time. */
const REPEAT_AFTER_MS = 3_600_000;
const MOST_REMEMBERED = 1000;
/** How long a stop waits for what can still be delivered. */
const STOP_WITHIN_MS = 1500;

/** Turns what happens into notifications, and has them delivered. */
export class Notifier {
  readonly #options: NotifierOptions;
  readonly #clock: Clock;
  readonly #emit: Emit;
  readonly #tracker: NodeTracker;
  readonly #expiry: ExpiryWatch;
  /** In the order of `notify:`. */
  #outboxes: readonly (readonly [identity: string, target: NotifyTarget, outbox: Outbox])[] = [];
  /** To be told at the next look, together. */
  #changes: Change[] = [];
  readonly #toldAt = new Map<string, Instant>();
  #askedReplicasAt: Instant | undefined;
  #timer: Timer | undefined;
  #isStopping = false;
  /** Another process delivers what there is to tell, until `goOn`. */
  #isPaused: boolean;
  /** In a process that takes over: what the one before it gave, if anything. */
  #taken: HandedMessages[] | undefined;
  /** Whether this process has begun to deliver. */
  #hasBegun: boolean;

  constructor(options: NotifierOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#emit = options.emit;
    const { live, directory, isPaused = false } = options;
    this.#isPaused = isPaused;
    this.#hasBegun = !isPaused;
    this.#expiry = new ExpiryWatch(options.notes);
    this.#tracker = new NodeTracker(
      {
        isListed: () => directory.loaded,
        nodeOf: (key) => directory.nodeOf(key),
        offlineAfterMs: (machineKey) =>
          policyFor(live.config, { machineKey, node: directory.nodeOf(machineKey) }).offlineAfterMs,
      },
      options.clock.now(),
    );
    this.apply();
  }

  /** How many messages wait to be delivered. */
  get waiting(): number {
    return this.#outboxes.reduce((sum, [, , { waiting }]) => sum + waiting, 0);
  }

  /** Uses the targets of the configuration in use. What waits for an unchanged address stays. */
  apply(): void {
    const left = [...this.#outboxes];
    this.#outboxes = this.#options.live.config.notify.map((target, i) => {
      const identity = JSON.stringify([target.url.href, target.format, target.secretFile]);
      const found = left.findIndex(([other]) => other === identity);
      const [kept] = found === -1 ? [] : left.splice(found, 1);
      const secret = this.#options.keys.notifySecretOf(target);
      const label = `${i + 1} (${formatTarget(target)})`;
      const outbox =
        kept?.[2] ??
        new Outbox({ ...this.#options, post: this.#options.poster.post }, label, target, secret, this.#isPaused);
      outbox.use(label, secret);
      return [identity, target, outbox];
    });
    for (const [, , outbox] of left) void outbox.stop(AbortSignal.abort(), 'removed');
  }

  readonly listen = (event: WatchdogEvent): void => {
    if (this.#isStopping) return;
    const now = this.#clock.now();
    switch (event.kind) {
      case 'stream_opened':
      case 'stream_handed_over':
      case 'stream_closed': {
        const { machineKey, kind } = event.stream;
        if (machineKey === undefined || kind !== 'control') break;
        if (hasBegun(event)) this.#tracker.opened(machineKey, event.stream, now);
        else this.#tracker.closed(machineKey, event.stream, now);
        break;
      }
      case 'upstream_down':
        this.#tracker.upstreamDown(`Headscale cannot be reached (${event.detail}).`, now);
        break;
      case 'upstream_silent':
        this.#tracker.upstreamDown('Headscale accepts connections but does not answer.', now);
        break;
      case 'upstream_not_headscale':
        this.#tracker.upstreamDown('Something answers in place of Headscale, but it is not Headscale.', now);
        break;
      case 'upstream_up':
        this.#changes.push(...this.#tracker.upstreamUp(now));
        break;
      case 'replica_gone':
        this.#tracker.replicaGone(event.lastHeardAt, now);
        break;
      case 'drain_started':
        // From here on streams end because we end them.
        this.#isStopping = true;
        break;
      default: {
        const told = TOLD[event.kind] as ((event: WatchdogEvent) => Change | undefined) | undefined;
        const change = told?.(event);
        if (change !== undefined && this.#isNews(change, now)) this.#changes.push(change);
      }
    }
    this.#schedule();
  };

  /** Headscale has listed its nodes. */
  nodesListed(): void {
    const { directory } = this.#options;
    if (!directory.loaded || this.#isStopping) return;
    const all = directory.all();
    this.#tracker.listed(all, (instant) => this.#clock.dateOf(instant));
    this.#changes.push(...this.#expiry.due(all, this.#clock.dateOf(this.#clock.now())));
    this.#schedule();
  }

  /** Delivers nothing more, because another process does. */
  async pause(): Promise<void> {
    this.#tell(this.#changes.splice(0));
    this.#isPaused = true;
    await Promise.all(this.#outboxes.map(([, , outbox]) => outbox.pause()));
  }

  /** What waits, for that process. */
  handed(): readonly HandedMessages[] {
    return this.#outboxes.map(([, , outbox]) => outbox.handed);
  }

  /** Takes what the process before this one had waiting, piece by piece. It is delivered after `goOn`. @throws when it is garbled. */
  take([notesOf, messages]: HandedMessages): void {
    this.#taken ??= [];
    this.#taken.push([notesOf, [...messages]]);
  }

  /** From now on this process delivers. */
  goOn(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    for (const [, , outbox] of this.#outboxes) {
      if (this.#hasBegun) outbox.goOn();
      else outbox.takeOver(this.#taken);
    }
    this.#hasBegun = true;
    this.#taken = undefined;
  }

  /** Tries for a moment to deliver what waits, and ends. */
  async close(): Promise<void> {
    this.#isStopping = true;
    this.#timer?.cancel();
    this.#tell(this.#changes.splice(0));
    const end = new AbortController();
    const timer = this.#clock.after(STOP_WITHIN_MS, () => end.abort());
    await Promise.all(this.#outboxes.map(([, , outbox]) => outbox.stop(end.signal, 'stopped')));
    timer.cancel();
    await this.#options.poster.close();
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#isStopping) return;
    const asksReplicas = this.#options.replicas !== undefined && this.#tracker.toldOffline > 0;
    if (this.#changes.length === 0 && !this.#tracker.isWaiting && !asksReplicas) return;
    this.#timer = this.#clock.after(LOOK_EVERY_MS, () => {
      const seen = this.#mustAskReplicas() ? this.#options.replicas?.remoteKeys() : undefined;
      if (seen === undefined) this.#look(undefined);
      else void seen.catch(() => undefined).then((elsewhere) => this.#look(elsewhere));
    });
  }

  /** @param elsewhere the keys with a session on another replica, if it matters. */
  #look(elsewhere: ReadonlySet<MachineKey> | undefined): void {
    this.#timer = undefined;
    if (this.#isStopping) return;
    try {
      const tellsExpected = this.#options.replicas?.isFirst ?? true;
      this.#tell([...this.#changes.splice(0), ...this.#tracker.due(this.#clock.now(), elsewhere, tellsExpected)]);
    } catch (error) {
      this.#emit({ kind: 'internal_error', during: 'looking for what to notify of', error });
    }
    this.#schedule();
  }

  #mustAskReplicas(): boolean {
    if (this.#options.replicas === undefined) return false;
    const now = this.#clock.now();
    const isTurn = this.#askedReplicasAt === undefined || now - this.#askedReplicasAt >= ASK_REPLICAS_EVERY_MS;
    if (!this.#tracker.hasDue(now) && !(isTurn && this.#tracker.toldOffline > 0)) return false;
    this.#askedReplicasAt = now;
    return true;
  }

  #tell(changes: readonly Change[]): void {
    if (changes.length === 0) return;
    const at = this.#clock.dateOf(this.#clock.now());
    const nodeOf = (key: MachineKey): NodeInfo | undefined => this.#options.directory.nodeOf(key);
    for (const [, { types, nodes }, outbox] of this.#outboxes) {
      const wanted = changes.filter((change) => {
        if (!types.includes(change.type)) return false;
        if (nodes === undefined || !('machineKey' in change)) return true;
        const { machineKey } = change;
        return nodes.some((match) => matchesNode(match, { machineKey, node: nodeOf(machineKey) }));
      });
      for (const message of messagesFor(wanted, at, nodeOf)) outbox.send(message);
    }
  }

  /** A clone causes an event each time that it comes back. */
  #isNews(change: Change, now: Instant): boolean {
    if (!('machineKey' in change) || change.type === 'takeover') return true;
    const what = `${change.type} ${change.machineKey}`;
    const last = this.#toldAt.get(what);
    if (last !== undefined && now - last < REPEAT_AFTER_MS) return false;
    const [oldest] = this.#toldAt.keys();
    if (oldest !== undefined && this.#toldAt.size >= MOST_REMEMBERED) this.#toldAt.delete(oldest);
    this.#toldAt.delete(what);
    this.#toldAt.set(what, now);
    return true;
  }
}
