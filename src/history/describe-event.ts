import { formatMachineKey, type MachineKey } from '../identity/keys.ts';
import { machinesAt, type WatchdogEvent } from '../streams/events.ts';
import type { CloseReason, SeverReason, Stream } from '../streams/stream.ts';
import { span } from './span.ts';
import { healthSentence } from './watchdog-sentence.ts';

/** The name of a machine key's node; undefined where nobody knows it. */
export type NameOf = (key: MachineKey) => string | undefined;

type Of<K extends WatchdogEvent['kind']> = Extract<WatchdogEvent, { readonly kind: K }>;
type StreamEvent = Of<'stream opened' | 'stream closed' | 'held' | 'released' | 'severed' | 'would sever'>;

/** What happened and why, in a sentence that needs no other one. */
export function sentenceOf(event: WatchdogEvent, nameOf: NameOf): string {
  switch (event.kind) {
    case 'stream opened':
    case 'stream closed':
    case 'held':
    case 'released':
    case 'severed':
    case 'would sever':
      return streamSentence(event, nameOf);
    case 'contest opened':
    case 'contest ended':
      return contestSentence(event, nameOf);
    case 'duplicate machine key': {
      const who = nameOf(event.machineKey) ?? shortKey(event.machineKey);
      return `${capital(machinesAt(event.addresses))} use the machine key of ${who} and keep ending each other's streams. Delete the clone's tailscaled state and log it in anew. Silence alone severs nobody of this key for ${span(event.restMs)}.`;
    }
    default:
      return healthSentence(event);
  }
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function streamSentence(event: StreamEvent, nameOf: NameOf): string {
  const { stream } = event;
  switch (event.kind) {
    case 'stream opened':
      return `${nodesStream(stream, nameOf)} was opened from ${stream.remoteAddress}.`;
    case 'stream closed':
      return closedSentence(event, nameOf);
    case 'held':
      return `${nodesStream(stream, nameOf)} is held back for ${span(event.atMostMs)} at most, while its node's old stream is asked whether anybody is still there.`;
    case 'released':
      return `${nodesStream(stream, nameOf)} was let through to Headscale after ${span(event.heldMs)}: ${RELEASED[event.why]}.`;
    case 'severed':
      return severedSentence(event, nameOf);
    case 'would sever':
      return `${nodesStream(stream, nameOf)} from ${stream.remoteAddress} would have been severed, were it not only observed: ${SPARED[event.because]}.`;
    default:
      return event satisfies never;
  }
}

const RELEASED: Readonly<Record<Of<'released'>['why'], string>> = {
  'old streams answered': 'its old stream answered, so there is nothing to wait for',
  'old streams ended': 'its old stream has ended',
  'hold over': 'there was no verdict on its old stream in time',
  error: 'an error of the watchdog, which never costs a node its stream',
};

const SPARED: Readonly<Record<SeverReason, string>> = {
  dead: 'nobody answered at its other end, and the node was back on a new stream',
  silent: 'it was silent past its threshold, and the node was back on a new stream',
  gone: 'its client took nothing of what was sent to it for as long as gone-after allows',
  upstream_silent: 'Headscale had said nothing on it for more than two minutes',
};

function severedSentence(event: Of<'severed'>, nameOf: NameOf): string {
  const { stream, newcomer, because, silentMs, silentAfterMs, kernel } = event;
  const what = `${nodesStream(stream, nameOf, 'old stream')} from ${stream.remoteAddress} was severed`;
  const back = `the node is back on stream ${newcomer.id} from ${newcomer.remoteAddress}`;
  if (because === 'dead') return `${what}: ${deadBecause(event)}, and ${back}.`;
  const frozen = kernel?.unansweredProbes === 0 ? ' (its kernel still answered, as that of a frozen program does)' : '';
  return `${what}: its client had sent nothing for ${span(silentMs)}, longer than silent-after, ${span(silentAfterMs)}${frozen}, and ${back}.`;
}

function deadBecause({ kernel, contestedMs }: Of<'severed'>): string {
  if (kernel === undefined) return 'its kernel no longer answered';
  const { unansweredProbes, retransmits, unackedSegments, receivedAgoMs } = kernel;
  const last = `its last sign of life was ${span(receivedAgoMs)} ago`;
  if (unackedSegments > 0 && retransmits >= 2) {
    return `its kernel acknowledged nothing through ${retransmits} retransmissions (${last})`;
  }
  return `its kernel answered none of the last ${unansweredProbes} probes, ${span(contestedMs)} after the node had come back (${last})`;
}

function closedSentence({ stream, reason, lifetimeMs }: Of<'stream closed'>, nameOf: NameOf): string {
  return `${nodesStream(stream, nameOf)} from ${stream.remoteAddress} ${CLOSED[reason]} (it lasted ${span(lifetimeMs)}).`;
}

const CLOSED: Readonly<Record<CloseReason, string>> = {
  client_closed: 'ended: the client closed it',
  client_error: "ended: the client's connection broke",
  client_left_early: 'ended: the client left before Headscale had answered',
  upstream_closed: 'ended: Headscale closed it',
  upstream_error: 'ended: the connection to Headscale broke',
  upstream_refused: 'ended: Headscale refused it',
  upstream_unreachable: 'ended: Headscale could not be reached',
  upstream_unanswered: 'ended: Headscale accepted the connection and did not answer',
  surplus: 'ended: its node had too many streams, and had said nothing on this one for longest',
  limit: 'ended: its turn at Headscale had not come in time, and its client comes again',
  severed_dead: 'is closed, severed because nobody answered at its other end and the node was back',
  severed_silent: 'is closed, severed because its client was silent for too long and the node was back',
  severed_by_operator: 'is closed, severed by an operator',
  gone: 'was severed as gone: its client answered neither data nor probes for as long as gone-after allows, so nobody was there',
  not_reading:
    'was severed: its machine answered, but the client read nothing of what was sent to it for as long as gone-after allows, as a frozen program does',
  upstream_silent: 'was severed: Headscale had said nothing on it for more than two minutes',
  shutdown: 'ended: the watchdog stopped',
};

function contestSentence(event: Of<'contest opened' | 'contest ended'>, nameOf: NameOf): string {
  const { old, newcomer } = event;
  const who = ownerOf(newcomer, nameOf);
  if (event.kind === 'contest opened') {
    return `${who} is back on stream ${newcomer.id} from ${newcomer.remoteAddress} while its stream ${old.id} from ${old.remoteAddress} is still open: the old one has to show that it is alive.`;
  }
  return `The contest between ${who}'s streams ${old.id} (old) and ${newcomer.id} (new) ended after ${span(event.lastedMs)}: ${VERDICT[event.verdict]}.`;
}

const VERDICT: Readonly<Record<Of<'contest ended'>['verdict'], string>> = {
  dead: 'the old one was dead',
  silent: 'the old one had been silent for too long',
  old_ended: 'the old one ended by other means',
  newcomer_ended: 'the new one ended first, and the old one stays',
};

/** `router-1's stream 12`, or `Stream 12 (relay)` where it is nobody's. */
function nodesStream(stream: Stream, nameOf: NameOf, word = 'stream'): string {
  if (stream.machineKey !== undefined) return `${ownerOf(stream, nameOf)}'s ${word} ${stream.id}`;
  const kinds = { control: 'of a node that could not be identified', derp: 'to the relay', other: 'of another kind' };
  return `Stream ${stream.id}, ${kinds[stream.kind]},`;
}

function ownerOf({ machineKey }: Stream, nameOf: NameOf): string {
  if (machineKey === undefined) return 'A node';
  return nameOf(machineKey) ?? shortKey(machineKey);
}

/** A sentence from before the node's name was known, with the name. */
export function withName(sentence: string, key: MachineKey, name: string): string {
  return sentence.replaceAll(shortKey(key), () => name);
}

/** Enough of a key to tell it from others by eye. */
function shortKey(key: MachineKey): string {
  return `${formatMachineKey(key).slice(0, 13)}…`;
}
