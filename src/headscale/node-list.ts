import { type MachineKey, parseMachineKey, parseNodeKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';

/** What an answer to `GET /api/v1/node` says, or why it says nothing. */
export type NodeList =
  | { readonly ok: true; readonly nodes: readonly NodeInfo[] }
  | { readonly ok: false; readonly why: string };

/**
 * Reads what Headscale answers to `GET /api/v1/node`: `{"nodes":[{"id":"1","machineKey":"mkey:…",…},…]}`, from 0.23 to
 * 0.29. A node it cannot read is left out. No machine key comes twice: see `theOneThatIsMeant`.
 */
export function readNodeList(text: string): NodeList {
  const answer = parsed(text);
  if (answer === undefined) return { ok: false, why: 'is not JSON' };
  const list = asObject(answer).nodes;
  if (!Array.isArray(list)) return { ok: false, why: "has no list 'nodes'" };
  const byKey = new Map<MachineKey, Entry[]>();
  for (const item of list as unknown[]) {
    const entry = entryOf(item);
    if (entry === undefined) continue;
    const entries = byKey.get(entry.node.machineKey);
    if (entries === undefined) byKey.set(entry.node.machineKey, [entry]);
    else entries.push(entry);
  }
  // One that cannot be read may be broken; when it is all of them, it is we who cannot read.
  if (byKey.size === 0 && list.length > 0) return { ok: false, why: `has no readable node among ${list.length}` };
  return { ok: true, nodes: [...byKey.values()].map(theOneThatIsMeant) };
}

interface Entry {
  readonly node: NodeInfo;
  readonly online: boolean;
  readonly lastSeen: unknown;
}

function entryOf(item: unknown): Entry | undefined {
  const { machineKey, nodeKey, id, givenName, name, user, online, lastSeen } = asObject(item);
  const keys = { machineKey: parseMachineKey(textOf(machineKey)), nodeKey: parseNodeKey(textOf(nodeKey)) };
  if (keys.machineKey === undefined || keys.nodeKey === undefined) return undefined;
  const node = {
    machineKey: keys.machineKey,
    nodeKey: keys.nodeKey,
    id: typeof id === 'number' ? String(id) : textOf(id),
    name: textOf(givenName) || textOf(name),
    user: textOf(asObject(user).name),
  };
  return { node, online: online === true, lastSeen };
}

/**
 * A machine that has logged in as two users is two nodes of one machine key. Meant is the one it is now: that is clear where
 * one alone is online, and Headscale shows the one before as online for some seconds more.
 */
function theOneThatIsMeant(entries: readonly Entry[]): NodeInfo {
  const online = entries.filter((entry) => entry.online);
  const candidates = online.length > 0 ? online : entries;
  const meant = candidates.reduce((one, other) => (dateOf(one.lastSeen) > dateOf(other.lastSeen) ? one : other)).node;
  const others = candidates.flatMap(({ node }) => (node === meant ? [] : [node]));
  return others.length === 0 ? meant : { ...meant, others };
}

function dateOf(lastSeen: unknown): number {
  const date = Date.parse(textOf(lastSeen));
  return Number.isNaN(date) ? Number.NEGATIVE_INFINITY : date;
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
