import { request } from 'node:http';
import type { EventList, NodeList, PresenceView, StreamList } from '../admin/views.ts';
import type { ReloadOutcome } from '../app/live-config.ts';
import { readAdminToken } from '../config/secrets.ts';
import type { Config, HostPort } from '../config/types.ts';
import { addressAndPort, isEveryAddress } from '../lib/addresses.ts';
import { ERRORS, type ExitErrorCode, isErrorCode, reasonOf, StartError, UsageError } from '../lib/errors.ts';
import { fieldsOf, parseJson } from '../lib/json.ts';
import { nearest, printable } from '../lib/text.ts';

const TIMEOUT_MS = 10_000;

interface AdminAnswer {
  readonly status: number;
  readonly text: string;
}

/**
 * Sends a request to the admin server of a running watchdog.
 *
 * @throws StartError when there is no answer.
 */
export function askAdmin(admin: HostPort, method: 'GET' | 'POST', path: string, token?: string): Promise<AdminAnswer> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return new Promise((resolve, reject) => {
    const failed = (error: unknown): void => {
      const where = `${method} http://${addressAndPort(admin.host, admin.port)}${path}`;
      const advice = 'is a watchdog running, and is this the --admin address it was started with?';
      reject(new StartError('HSW_ADMIN_UNREACHABLE', `${where}: ${reasonOf(error)}; ${advice}`, { cause: error }));
    };
    const asking = request(
      { ...whereToConnect(admin), method, path, headers, agent: false, timeout: TIMEOUT_MS },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', failed);
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }));
      },
    );
    asking.on('timeout', () => asking.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
    asking.on('error', failed);
    asking.end();
  });
}

/** If the server listens on every address, connect to it on the loopback. */
function whereToConnect({ host, port }: HostPort): HostPort {
  if (!isEveryAddress(host)) return { host, port };
  return { host: host === '::' ? '::1' : '127.0.0.1', port };
}

/** The admin API of a running watchdog. */
export interface Api {
  /**
   * @throws StartError when there is no answer, or an unexpected one.
   * @throws UsageError when a parameter is wrong.
   */
  get<T>(path: string, query?: Readonly<Record<string, string | undefined>>): Promise<T>;
  post(path: string): Promise<AdminAnswer>;
  /**
   * Makes the watchdog read its settings and its keys again.
   *
   * @throws StartError when there is no answer, or an unexpected one.
   */
  reload(): Promise<ReloadOutcome>;
}

export type StreamsAnswer = StreamList;
export type EventsAnswer = EventList;
export type NodesAnswer = NodeList;

export function adminApi({ admin, adminTokenFile }: Pick<Config, 'admin' | 'adminTokenFile'>): Api {
  const token = adminTokenFile === undefined ? undefined : readAdminToken(adminTokenFile);
  const post = async (path: string): Promise<AdminAnswer> => {
    const answer = await askAdmin(admin, 'POST', path, token);
    if (answer.status === 401 || answer.status === 403) throw refused(path, answer);
    return answer;
  };
  return {
    post,
    async get<T>(path: string, query = {}) {
      const given = Object.entries(query).filter((entry): entry is [string, string] => entry[1] !== undefined);
      const asked = given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
      const { status, text } = await askAdmin(admin, 'GET', asked, token);
      if (status === 400) throw new UsageError('HSW_PARAMETER_INVALID', [apiErrorIn(text).message]);
      const answer = parseJson(text);
      // Something else may listen there, and answer 200 to everything.
      if (status !== 200 || answer === undefined) throw refused(path, { status, text });
      return answer as T;
    },
    async reload() {
      const answer = await post('/reload');
      const outcome = parseJson(answer.text) as ReloadOutcome | undefined;
      // 422: the watchdog has rejected the settings.
      if (![200, 422].includes(answer.status) || outcome === undefined) throw refused('/reload', answer);
      return outcome;
    },
  };
}

function refused(path: string, { status, text }: AdminAnswer): StartError {
  const { code, message } = apiErrorIn(text);
  if (status === 401) {
    return new StartError(code, `${path}: the running watchdog asks for a token: give --admin-token-file`);
  }
  return new StartError(code, `${path}: the answer was ${status}: ${message}`);
}

/** The error in an answer. It may also be text: something else may listen at that address. */
export function apiErrorIn(text: string): { readonly code: ExitErrorCode; readonly message: string } {
  // A watchdog of an earlier version has `message` in place of `detail`.
  const { code, message, detail = message } = fieldsOf(parseJson(text));
  if (isErrorCode(code) && 'exit' in ERRORS[code] && typeof detail === 'string') {
    return { code: code as ExitErrorCode, message: detail };
  }
  return { code: 'HSW_ADMIN_ANSWER_UNEXPECTED', message: text.trim().slice(0, 300) };
}

/** @returns undefined if the watchdog knows a node by this name, id or key; otherwise what to write instead. */
export async function unknownNode(api: Api, node: string): Promise<string | undefined> {
  const { nodes } = await api.get<NodesAnswer>('/nodes');
  if (nodesCalled(node, nodes).length > 0) return undefined;
  const meant = nearest(
    node,
    nodes.flatMap(({ name }) => name ?? []),
  );
  const advice =
    meant === undefined ? 'write its name, id, machine key or node key' : `did you mean ${printable(meant)}?`;
  return `there is no node '${printable(node)}': ${advice}`;
}

/** The nodes with this name, id or key. Several nodes of one machine count as one. */
export function nodesCalled(node: string, nodes: readonly PresenceView[]): readonly PresenceView[] {
  const name = node.toLowerCase();
  return nodes.filter(
    (each) =>
      each.machineKey === node ||
      [each, ...each.others].some((one) => one.nodeKey === node || one.id === node || one.name?.toLowerCase() === name),
  );
}
