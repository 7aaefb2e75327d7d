import type { EventView } from '../admin/event-list.ts';
import type { StreamView } from '../admin/stream-view.ts';
import { readAdminToken } from '../config/admin-token.ts';
import { nearest } from '../config/nearest.ts';
import type { Config } from '../config/schema.ts';
import { StartError, UsageError } from '../lib/errors.ts';
import { askAdmin } from './admin-client.ts';
import { plain } from './table.ts';

/** The running watchdog's admin API, as a command asks it. */
export interface Api {
  /** @throws StartError when nobody answers, or something else than what was asked for; UsageError for a wrong parameter. */
  get<T>(path: string, query?: Readonly<Record<string, string | undefined>>): Promise<T>;
  post(path: string): Promise<{ readonly status: number; readonly text: string }>;
}

export interface StreamsAnswer {
  readonly total: number;
  readonly streams: readonly StreamView[];
}

export interface EventsAnswer {
  readonly lastSeq: number;
  readonly events: readonly EventView[];
}

export interface NodesAnswer {
  readonly nodes: readonly {
    readonly machineKey: string;
    readonly nodeKey: string | null;
    readonly id: string | null;
    readonly name: string | null;
  }[];
}

export function adminApi({ admin, adminTokenFile }: Pick<Config, 'admin' | 'adminTokenFile'>): Api {
  const token = adminTokenFile === undefined ? undefined : readAdminToken(adminTokenFile);
  return {
    async get<T>(path: string, query = {}) {
      const given = Object.entries(query).filter((entry): entry is [string, string] => entry[1] !== undefined);
      const asked = given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
      const { status, text } = await askAdmin(admin, 'GET', asked, token);
      if (status === 400) throw new UsageError([text.trim()]);
      if (status !== 200) throw refused(path, status, text);
      return JSON.parse(text) as T;
    },
    async post(path) {
      const answer = await askAdmin(admin, 'POST', path, token);
      if (answer.status === 401 || answer.status === 403) throw refused(path, answer.status, answer.text);
      return answer;
    },
  };
}

function refused(path: string, status: number, text: string): StartError {
  if (status === 401) return new StartError(`${path}: the running watchdog asks for a token: give --admin-token-file`);
  return new StartError(`${path}: the answer was ${status}: ${text.trim().slice(0, 300)}`);
}

/** What is wrong with the name, id or key of a node that nobody knows, and the cure; undefined when it is known. */
export async function unknownNode(api: Api, node: string): Promise<string | undefined> {
  const { nodes } = await api.get<NodesAnswer>('/nodes');
  const isKnown = nodes.some(
    ({ machineKey, nodeKey, id, name }) =>
      machineKey === node || nodeKey === node || id === node || name?.toLowerCase() === node.toLowerCase(),
  );
  if (isKnown) return undefined;
  const meant = nearest(
    node,
    nodes.flatMap(({ name }) => name ?? []),
  );
  const cure = meant === undefined ? 'write its name, id, machine key or node key' : `did you mean ${plain(meant)}?`;
  return `nobody knows a node '${plain(node)}': ${cure}`;
}
