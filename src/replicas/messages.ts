import { type MachineKey, parseMachineKey } from '../identity/keys.ts';
import type { StreamId } from '../streams/stream.ts';
import type { Order } from './order.ts';

/** A stream as its replica tells of it. Durations in milliseconds: no two replicas' clocks are ever compared. */
export interface StreamReport {
  readonly id: StreamId;
  readonly machineKey: MachineKey;
  readonly address: string;
  readonly remoteAddress: string;
  readonly openedAgoMs: number;
  readonly heardAgoMs: number;
  /** Since the client's first whole record; undefined before it. */
  readonly firstRecordAgoMs: number | undefined;
  /** Its replica's clock has not stood still since it opened: see `Ages`. */
  readonly isAgeSure: boolean;
  readonly order: Order;
}

/** What replicas say to each other. `from` is the sender's name. */
export type Message =
  /** Judge your older streams of this newcomer's node; and how it is now. `askedAt`: it answers that `ask`. */
  | {
      readonly kind: 'contest';
      readonly from: string;
      readonly newcomer: StreamReport;
      readonly askedAt: number | undefined;
    }
  /**
   * Let your streams of this node contest mine, with my `askedAt` in them: by how long that took I know how old they are
   * at most. `inTurn`: and ask me for mine, for I may have newer ones.
   */
  | {
      readonly kind: 'ask';
      readonly from: string;
      readonly machineKey: MachineKey;
      readonly askedAt: number;
      readonly inTurn: boolean;
    }
  /** That newcomer has ended. */
  | { readonly kind: 'left'; readonly from: string; readonly id: StreamId }
  /** Nothing here needs that newcomer of yours to be held any more. */
  | { readonly kind: 'clear'; readonly from: string; readonly id: StreamId; readonly verdict: 'ended' | 'answered' }
  /** No stream here is contested by that newcomer of yours any more. */
  | { readonly kind: 'over'; readonly from: string; readonly id: StreamId }
  /** A stream of this key was severed by rule 2. Addresses without ports. */
  | {
      readonly kind: 'turn';
      readonly from: string;
      readonly machineKey: MachineKey;
      readonly loser: string;
      readonly winner: string;
      readonly loserAnswers: boolean;
      /** Whether its kernel could be asked; a replica of an earlier version does not say. */
      readonly isAsked?: boolean;
    }
  /** A stream of this key, of which one was severed not long ago, has come here. */
  | {
      readonly kind: 'came';
      readonly from: string;
      readonly machineKey: MachineKey;
      readonly address: string;
      readonly openedAgoMs: number;
    }
  | {
      readonly kind: 'duplicate';
      readonly from: string;
      readonly machineKey: MachineKey;
      readonly addresses: readonly [string, string];
    }
  /** I am there. */
  | { readonly kind: 'here'; readonly from: string }
  /** An operator wants a stream of yours severed. */
  | { readonly kind: 'sever'; readonly from: string; readonly id: StreamId }
  /** Show me your streams. */
  | { readonly kind: 'show'; readonly from: string; readonly request: number }
  /** Some of them, as `/streams` has them. */
  | {
      readonly kind: 'shown';
      readonly from: string;
      readonly request: number;
      readonly streams: readonly object[];
      readonly isLast: boolean;
    };

type Fields = Readonly<Record<string, unknown>>;

/** Whether it is one: another version may write others. */
export function isMessage(value: unknown): value is Message {
  return isFields(value) && isText(value.from) && isOfItsKind(value);
}

function isOfItsKind(fields: Fields): boolean {
  switch (fields.kind) {
    case 'contest':
      return (
        isFields(fields.newcomer) &&
        isToldStream(fields.newcomer) &&
        (fields.askedAt === undefined || isDuration(fields.askedAt))
      );
    case 'ask':
      return isMachineKey(fields.machineKey) && isDuration(fields.askedAt) && typeof fields.inTurn === 'boolean';
    case 'here':
      return true;
    case 'left':
    case 'over':
    case 'sever':
      return isCount(fields.id);
    case 'clear':
      return isCount(fields.id) && (fields.verdict === 'ended' || fields.verdict === 'answered');
    case 'turn':
      return (
        isMachineKey(fields.machineKey) &&
        [fields.loser, fields.winner].every(isText) &&
        typeof fields.loserAnswers === 'boolean' &&
        (fields.isAsked === undefined || typeof fields.isAsked === 'boolean')
      );
    case 'came':
      return isMachineKey(fields.machineKey) && isText(fields.address) && isDuration(fields.openedAgoMs);
    case 'duplicate':
      return (
        isMachineKey(fields.machineKey) &&
        Array.isArray(fields.addresses) &&
        fields.addresses.length === 2 &&
        fields.addresses.every(isText)
      );
    case 'show':
      return isCount(fields.request);
    case 'shown':
      return (
        isCount(fields.request) &&
        Array.isArray(fields.streams) &&
        fields.streams.every(isShown) &&
        typeof fields.isLast === 'boolean'
      );
    default:
      return false;
  }
}

function isToldStream(fields: Fields): boolean {
  const { id, machineKey, address, remoteAddress, openedAgoMs, heardAgoMs, firstRecordAgoMs, isAgeSure, order } =
    fields;
  return (
    isCount(id) &&
    isMachineKey(machineKey) &&
    [address, remoteAddress].every(isText) &&
    [openedAgoMs, heardAgoMs].every(isDuration) &&
    (firstRecordAgoMs === undefined || isDuration(firstRecordAgoMs)) &&
    typeof isAgeSure === 'boolean' &&
    isFields(order) &&
    isText(order.epoch) &&
    isCount(order.place) &&
    typeof order.isExact === 'boolean'
  );
}

/** As far as those who list it need it to be. */
function isShown(value: unknown): boolean {
  if (!isFields(value) || !isCount(value.id)) return false;
  const { kind, state, replica, remoteAddress, openedAt, lastHeardAt, bytesReceived, bytesSent } = value;
  const { machineKey, node, kernel, contests } = value;
  return (
    [kind, state, replica, remoteAddress, openedAt, lastHeardAt].every(isText) &&
    [bytesReceived, bytesSent].every(isDuration) &&
    (machineKey === null || isText(machineKey)) &&
    (node === null || (isFields(node) && [node.id, node.name, node.user, node.nodeKey].every(isText))) &&
    (kernel === null || (isFields(kernel) && isDuration(kernel.rttMs))) &&
    Array.isArray(contests) &&
    contests.every(isFields)
  );
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null;
}

function isMachineKey(value: unknown): boolean {
  return typeof value === 'string' && parseMachineKey(`mkey:${value}`) !== undefined;
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= 300;
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function isDuration(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}
