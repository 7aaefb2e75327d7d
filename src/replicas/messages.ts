import { type MachineKey, parseMachineKey } from '../identity/keys.ts';
import { hasFields, type JsonFields } from '../lib/json.ts';
import type { StreamId } from '../streams/stream.ts';
import type { Order } from './order.ts';

/** A stream as its replica reports it. It holds durations in milliseconds, because clocks of two machines cannot be compared. */
export interface StreamReport {
  readonly id: StreamId;
  readonly machineKey: MachineKey;
  readonly address: string;
  readonly remoteAddress: string;
  readonly openedAgoMs: number;
  readonly heardAgoMs: number;
  /** Time since the client's first whole Noise record; undefined before it. */
  readonly firstRecordAgoMs: number | undefined;
  /** Whether the replica's clock has certainly run since the stream opened: see `Ages`. */
  readonly isAgeSure: boolean;
  readonly order: Order;
}

/** What replicas send each other. `from` is the sender's name. Replicas of other versions send these too: keep the names. */
export type Message =
  /** Judge your older streams of this newcomer's node; also reports its present state. `askedAt` is copied from an `ask`. */
  | {
      readonly kind: 'contest';
      readonly from: string;
      readonly newcomer: StreamReport;
      readonly askedAt: number | undefined;
    }
  /**
   * Let your streams of this node contest mine, and send `askedAt` back unchanged: the round trip limits how old your report
   * can be. `inTurn`: then ask for my streams as well, because mine may be newer.
   */
  | {
      readonly kind: 'ask';
      readonly from: string;
      readonly machineKey: MachineKey;
      readonly askedAt: number;
      readonly inTurn: boolean;
    }
  /** My newcomer has ended. */
  | { readonly kind: 'left'; readonly from: string; readonly id: StreamId }
  /** No stream here requires that your newcomer is held any longer. */
  | { readonly kind: 'clear'; readonly from: string; readonly id: StreamId; readonly verdict: 'ended' | 'answered' }
  /** Your newcomer no longer contests any stream here. */
  | { readonly kind: 'over'; readonly from: string; readonly id: StreamId }
  /** A stream of this key was severed because it was silent. Addresses without ports. */
  | {
      readonly kind: 'turn';
      readonly from: string;
      readonly machineKey: MachineKey;
      readonly loser: string;
      readonly winner: string;
      readonly loserAnswers: boolean;
      /** Whether the loser's kernel could be asked. Earlier versions leave this out. */
      readonly isAsked?: boolean;
    }
  /** A stream of this key has arrived here, soon after one was severed. */
  | {
      readonly kind: 'came';
      readonly from: string;
      readonly machineKey: MachineKey;
      readonly address: string;
      readonly openedAgoMs: number;
    }
  /** Two machines use this key. */
  | {
      readonly kind: 'duplicate';
      readonly from: string;
      readonly machineKey: MachineKey;
      readonly addresses: readonly [string, string];
    }
  /** I am alive. */
  | { readonly kind: 'here'; readonly from: string }
  /** An operator asks you to sever one of your streams. */
  | { readonly kind: 'sever'; readonly from: string; readonly id: StreamId }
  /** An operator asks for your streams. */
  | { readonly kind: 'show'; readonly from: string; readonly request: number }
  /** Some of my streams, as `/streams` shows them. */
  | {
      readonly kind: 'shown';
      readonly from: string;
      readonly request: number;
      readonly streams: readonly object[];
      readonly isLast: boolean;
    };

/** Whether a value is a message of a known kind. Replicas of other versions may send kinds that this one does not know. */
export function isMessage(value: unknown): value is Message {
  return hasFields(value) && isText(value.from) && hasFieldsOfItsKind(value);
}

function hasFieldsOfItsKind(fields: JsonFields): boolean {
  switch (fields.kind) {
    case 'contest':
      return (
        hasFields(fields.newcomer) &&
        isStreamReport(fields.newcomer) &&
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
        fields.streams.every(isStreamView) &&
        typeof fields.isLast === 'boolean'
      );
    default:
      return false;
  }
}

function isStreamReport(fields: JsonFields): boolean {
  const { id, machineKey, address, remoteAddress, openedAgoMs, heardAgoMs, firstRecordAgoMs, isAgeSure, order } =
    fields;
  return (
    isCount(id) &&
    isMachineKey(machineKey) &&
    [address, remoteAddress].every(isText) &&
    [openedAgoMs, heardAgoMs].every(isDuration) &&
    (firstRecordAgoMs === undefined || isDuration(firstRecordAgoMs)) &&
    typeof isAgeSure === 'boolean' &&
    hasFields(order) &&
    isText(order.epoch) &&
    isCount(order.place) &&
    typeof order.isExact === 'boolean'
  );
}

/** Checks the fields that a list of streams reads. */
function isStreamView(value: unknown): boolean {
  if (!hasFields(value) || !isCount(value.id)) return false;
  const { kind, state, replica, remoteAddress, openedAt, lastHeardAt, bytesReceived, bytesSent } = value;
  const { machineKey, node, kernel, contests } = value;
  return (
    [kind, state, replica, remoteAddress, openedAt, lastHeardAt].every(isText) &&
    [bytesReceived, bytesSent].every(isDuration) &&
    (machineKey === null || isText(machineKey)) &&
    (node === null || (hasFields(node) && [node.id, node.name, node.user, node.nodeKey].every(isText))) &&
    (kernel === null || (hasFields(kernel) && isDuration(kernel.rttMs))) &&
    Array.isArray(contests) &&
    contests.every(hasFields)
  );
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
