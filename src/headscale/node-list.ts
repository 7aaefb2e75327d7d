import { type MachineKey, parseMachineKey, parseNodeKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { fieldsOf, type JsonFields, parseJson, stringOf } from '../lib/json.ts';

/** A list of nodes. If some of an answer's nodes could not be read, it says how many: they are missing, but still exist. */
export type ListedNodes = readonly NodeInfo[] & { readonly unreadable?: number };

/** The nodes in an answer, or why it could not be read. */
type NodeList = { readonly ok: true; readonly nodes: ListedNodes } | { readonly ok: false; readonly why: string };

/** The name of the list in an answer. In 0.22 nodes are machines, and in the v2 API they are devices. */
export type NodeListName = 'nodes' | 'machines' | 'devices';

/**
 * Reads an answer of Headscale's API: `{"nodes":[{"id":"1","machineKey":"mkey:…",…},…]}`, or the same with another name and
 * partly other fields. Unreadable nodes are left out; an unreadable field of a node is undefined or empty. No machine key comes
 * twice: see `currentNodeOf`.
 */
export function readNodeList(text: string, name: NodeListName): NodeList {
  const answer = parseJson(text);
  if (answer === undefined) return { ok: false, why: 'is not JSON' };
  const list = fieldsOf(answer)[name];
  if (!Array.isArray(list)) return { ok: false, why: `has no list '${name}'` };
  const byKey = new Map<MachineKey, NodeInfo[]>();
  let unreadable = 0;
  for (const item of list as unknown[]) {
    const node = nodeOf(fieldsOf(item), name);
    if (node === undefined) {
      unreadable += 1;
      continue;
    }
    const nodes = byKey.get(node.machineKey);
    if (nodes === undefined) byKey.set(node.machineKey, [node]);
    else nodes.push(node);
  }
  // A single unreadable node may be broken. If all are unreadable, the format has changed.
  if (byKey.size === 0 && list.length > 0) return { ok: false, why: `has no readable node among ${list.length}` };
  const nodes = [...byKey.values()].map(currentNodeOf);
  return { ok: true, nodes: unreadable === 0 ? nodes : Object.assign(nodes, { unreadable }) };
}

function nodeOf(fields: JsonFields, name: NodeListName): NodeInfo | undefined {
  // 0.22 sends keys without what they begin with.
  const [mkey, nodekey] = name === 'machines' ? ['mkey:', 'nodekey:'] : ['', ''];
  const machineKey = parseMachineKey(mkey + stringOf(fields.machineKey));
  const nodeKey = parseNodeKey(nodekey + stringOf(fields.nodeKey));
  if (machineKey === undefined || nodeKey === undefined) return undefined;
  const id = typeof fields.id === 'number' ? String(fields.id) : stringOf(fields.id);
  return { machineKey, nodeKey, id, ...(name === 'devices' ? deviceOf(fields) : nodeOfV1(fields)) };
}

type Description = Omit<NodeInfo, 'machineKey' | 'nodeKey' | 'id'>;

function nodeOfV1(fields: JsonFields): Description {
  const { givenName, name, user, preAuthKey } = fields;
  return {
    name: stringOf(givenName) || stringOf(name),
    user: stringOf(fieldsOf(user).name),
    addresses: stringsOf(fields.ipAddresses),
    tags: tagsOf(fields),
    online: booleanOf(fields.online),
    lastSeen: dateOf(fields.lastSeen),
    expiry: dateOf(fields.expiry),
    os: undefined,
    clientVersion: undefined,
    // Headscale calls a node ephemeral that was registered with an ephemeral key which still exists.
    isEphemeral: preAuthKey === null ? false : booleanOf(fieldsOf(preAuthKey).ephemeral),
  };
}

function deviceOf(fields: JsonFields): Description {
  const { name, hostname, lastSeen } = fields;
  return {
    name: stringOf(name) || stringOf(hostname),
    user: stringOf(fields.user),
    addresses: stringsOf(fields.addresses),
    tags: stringsOf(fields.tags),
    // The v2 API has no field for it, but sends lastSeen for nodes that are offline, and only for these.
    online: lastSeen === undefined ? true : typeof lastSeen === 'string' ? false : undefined,
    lastSeen: dateOf(lastSeen),
    expiry: dateOf(fields.expires),
    os: stringOf(fields.os) || undefined,
    clientVersion: stringOf(fields.clientVersion) || undefined,
    isEphemeral: booleanOf(fields.isEphemeral),
  };
}

/** Before 0.28 there are the tags that an admin set, and those that the node asked for and may have. */
function tagsOf({ tags, forcedTags, validTags }: JsonFields): readonly string[] {
  return [...new Set([tags, forcedTags, validTags].flatMap(stringsOf))];
}

function stringsOf(list: unknown): readonly string[] {
  return Array.isArray(list) ? list.filter((each) => typeof each === 'string') : [];
}

function booleanOf(value: unknown): boolean | undefined {
  return typeof value === 'boolean' ? value : undefined;
}

/** @returns undefined for Go's zero time too: it means "never". */
function dateOf(value: unknown): Date | undefined {
  const date = new Date(stringOf(value));
  return date.getTime() > 0 ? date : undefined;
}

/**
 * A machine that has logged in as two users is two nodes with one machine key. The current node is the one that is online.
 * Headscale shows the earlier one as online for some seconds more; until then the others are kept beside it.
 */
function currentNodeOf(nodes: readonly NodeInfo[]): NodeInfo {
  const online = nodes.filter((node) => node.online === true);
  const candidates = online.length > 0 ? online : nodes;
  const current = candidates.reduce((one, other) => (seenAt(one) > seenAt(other) ? one : other));
  const others = candidates.filter((node) => node !== current);
  return others.length === 0 ? current : { ...current, others };
}

function seenAt({ lastSeen }: NodeInfo): number {
  return lastSeen?.getTime() ?? Number.NEGATIVE_INFINITY;
}
