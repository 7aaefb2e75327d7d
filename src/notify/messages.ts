import { createHmac, randomUUID } from 'node:crypto';
import type { NoticeType, NotifyTarget } from '../config/types.ts';
import { formatMachineKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { fieldsOf, stringOf } from '../lib/json.ts';
import { printable } from '../lib/text.ts';
import type { Change } from './tracker.ts';

/** One notification, before it gets the form that a receiver understands. */
export interface Message {
  /** The same for each attempt to deliver it, so that a receiver can recognise a repetition. */
  readonly id: string;
  readonly type: NoticeType | 'test';
  readonly at: Date;
  readonly title: string;
  readonly text: string;
  /** The nodes that it is about, up to a limit. */
  readonly nodes: readonly MessageNode[];
  /** How many nodes it is about. */
  readonly count: number;
}

/** A node as receivers see it. Null is what Headscale has not told us. */
interface MessageNode {
  readonly machineKey: string;
  readonly id: string | null;
  readonly name: string | null;
  readonly user: string | null;
}

/** The message in a note. @returns undefined if it is none. */
export function messageIn(value: unknown): Message | undefined {
  const { id, type, at, title, text, nodes, count } = fieldsOf(value);
  const date = new Date(stringOf(at));
  const isMessage =
    [id, title, text].every((each) => typeof each === 'string') &&
    Object.hasOwn(LOOKS, stringOf(type)) &&
    !Number.isNaN(date.getTime()) &&
    typeof count === 'number' &&
    Array.isArray(nodes) &&
    nodes.every((node) => typeof fieldsOf(node).machineKey === 'string');
  return isMessage ? ({ id, type, at: date, title, text, nodes, count } as Message) : undefined;
}

/** What is sent: an HTTP request without its URL. */
export interface Outgoing {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

interface Look {
  readonly title: string;
  /** From 1 to 5, as in ntfy. 3 is normal. */
  readonly priority: number;
  /** A tag of ntfy, which shows it as an emoji. */
  readonly tag: string;
  /** What several nodes do, after `12 nodes`. */
  readonly plural: string;
}

const LOOKS: Readonly<Record<Message['type'], Look>> = {
  'node.offline': { title: 'Node offline', priority: 4, tag: 'red_circle', plural: 'are offline' },
  'node.online': { title: 'Node online', priority: 3, tag: 'green_circle', plural: 'are online again' },
  'node.duplicate': {
    title: 'Duplicate machine key',
    priority: 4,
    tag: 'warning',
    plural: 'have a duplicate machine key',
  },
  'node.expiring': {
    title: 'Node key expires',
    priority: 3,
    tag: 'hourglass',
    plural: 'have a key that expires within a week',
  },
  'node.disagrees': {
    title: 'Node status differs',
    priority: 3,
    tag: 'warning',
    plural: 'have another status in Headscale',
  },
  'upstream.down': { title: 'Headscale down', priority: 5, tag: 'red_circle', plural: '' },
  'upstream.up': { title: 'Headscale up', priority: 3, tag: 'green_circle', plural: '' },
  'key.mismatch': { title: 'Wrong Noise key', priority: 4, tag: 'warning', plural: '' },
  takeover: {
    title: 'Takeover',
    priority: 2,
    tag: 'arrows_counterclockwise',
    plural: 'took over from their old streams',
  },
  test: { title: 'Test', priority: 3, tag: 'white_check_mark', plural: '' },
};

/** A receiver that wants every name can ask the admin API. */
const MOST_NODES = 100;
const MOST_NAMES = 20;
const LONGEST_NAME = 64;

type NodeOf = (key: MachineKey) => NodeInfo | undefined;

/** Writes the messages for changes that are told together: one for each type with nodes, and one for each other change. */
export function messagesFor(changes: readonly Change[], at: Date, nodeOf: NodeOf): readonly Message[] {
  const byType = new Map<NoticeType, Map<MachineKey, string>>();
  const messages: Message[] = [];
  for (const change of changes) {
    if ('text' in change) {
      messages.push(messageOf(change.type, at, LOOKS[change.type].title, change.text));
      continue;
    }
    const nodes = byType.get(change.type) ?? new Map<MachineKey, string>();
    byType.set(change.type, nodes.set(change.machineKey, change.says));
  }
  for (const [type, nodes] of byType) messages.push(aboutNodes(type, nodes, at, nodeOf));
  return messages;
}

/** The message of `notify --test`. */
export function testMessage(at: Date): Message {
  return messageOf('test', at, 'Test', 'This is a test of headscale-watchdog. Notifications reach you.');
}

function messageOf(type: Message['type'], at: Date, title: string, text: string): Message {
  return { id: `msg_${randomUUID()}`, type, at, title, text, nodes: [], count: 0 };
}

function aboutNodes(type: NoticeType, said: ReadonlyMap<MachineKey, string>, at: Date, nodeOf: NodeOf): Message {
  const look = LOOKS[type];
  const keys = [...said.keys()];
  const nodes = keys.slice(0, MOST_NODES).map((key) => messageNode(key, nodeOf(key)));
  const [first, ...more] = keys.slice(0, MOST_NAMES).map((key) => nameOf(key, nodeOf));
  const count = keys.length;
  if (more.length === 0) {
    const text = `${first} ${said.values().next().value ?? ''}.`;
    return { ...messageOf(type, at, `${look.title}: ${first}`, text), nodes, count };
  }
  const rest = count > MOST_NAMES ? ` and ${count - MOST_NAMES} more` : '';
  const text = `${count} nodes ${look.plural}: ${[first, ...more].join(', ')}${rest}.`;
  return { ...messageOf(type, at, `${look.title}: ${count} nodes`, text), nodes, count };
}

function nameOf(key: MachineKey, nodeOf: NodeOf): string {
  const name = nodeOf(key)?.name;
  return name === undefined ? `${formatMachineKey(key).slice(0, 13)}…` : printable(name, LONGEST_NAME);
}

function messageNode(key: MachineKey, node: NodeInfo | undefined): MessageNode {
  return {
    machineKey: formatMachineKey(key),
    id: node?.id ?? null,
    name: node?.name ?? null,
    user: node?.user ?? null,
  };
}

/** Discord refuses longer texts. */
const LONGEST_DISCORD = 2000;

/**
 * The request that delivers a message.
 *
 * @param secret what the target's `secret-file` holds.
 * @param now the time of this attempt.
 */
export function outgoing(
  { format, url }: Pick<NotifyTarget, 'format' | 'url'>,
  secret: string | undefined,
  message: Message,
  now: Date,
): Outgoing {
  const { title } = message;
  const text = textAt(message, now);
  const { priority, tag } = LOOKS[message.type];
  const user = userHeader(url);
  const token = secret === undefined ? user : { authorization: `Bearer ${secret}` };
  switch (format) {
    case 'standard':
      return standard(message, secret, user, now);
    case 'ntfy':
      return {
        headers: { ...PLAIN, ...token, title: headerText(title), priority: String(priority), tags: tag },
        body: text,
      };
    case 'gotify':
      return json(
        { title, message: text, priority: 2 * priority },
        { ...user, ...(secret && { 'x-gotify-key': secret }) },
      );
    case 'slack':
      return json({ text: text.replace(/[&<>]/g, (sign) => SLACK[sign] ?? sign) }, user);
    case 'discord':
      // Without this, a node named @everyone would wake everyone.
      return json({ content: text.slice(0, LONGEST_DISCORD), allowed_mentions: { parse: [] } }, user);
    case 'text':
      return { headers: { ...PLAIN, ...token }, body: text };
    default:
      return format satisfies never;
  }
}

/** A receiver shows when a message has come, so only one that comes late says when it was written. */
const LATE_MS = 60_000;

function textAt({ at, text }: Message, now: Date): string {
  if (now.getTime() - at.getTime() < LATE_MS) return text;
  const [day, time = ''] = at.toISOString().split('T');
  return `At ${time.slice(0, 5)} UTC on ${day}: ${text}`;
}

const PLAIN = { 'content-type': 'text/plain; charset=utf-8' };
/** Slack takes `<…>` for a link or a mention. */
const SLACK: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;' };

function json(body: object, headers: Readonly<Record<string, string>>): Outgoing {
  return { headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify(body) };
}

function userHeader({ username, password }: URL): Readonly<Record<string, string>> {
  if (username === '' && password === '') return {};
  const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { authorization: `Basic ${Buffer.from(pair).toString('base64')}` };
}

/** A header holds visible ASCII only. Anything else is encoded as in mail (RFC 2047), which ntfy reads. */
function headerText(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) ? text : `=?UTF-8?B?${Buffer.from(text).toString('base64')}?=`;
}

/** Standard Webhooks 1.0: https://github.com/standard-webhooks/standard-webhooks */
function standard(
  { id, type, at, text, nodes, count }: Message,
  secret: string | undefined,
  user: Readonly<Record<string, string>>,
  now: Date,
): Outgoing {
  const about = count === 0 ? {} : count === 1 ? { node: nodes[0] } : { count, nodes };
  const body = JSON.stringify({ type, timestamp: at.toISOString(), data: { ...about, text } });
  const timestamp = String(Math.floor(now.getTime() / 1000));
  const headers = { ...user, 'content-type': 'application/json', 'webhook-id': id, 'webhook-timestamp': timestamp };
  if (secret === undefined) return { headers, body };
  return { headers: { ...headers, 'webhook-signature': signature(secret, id, timestamp, body) }, body };
}

/** @param secret `whsec_` and the key in base64. */
export function signature(secret: string, id: string, timestamp: string, body: string): string {
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
  return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`;
}
