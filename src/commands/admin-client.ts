import { request } from 'node:http';
import type { EventList, NodeList, PresenceView, StreamList } from '../admin/views.ts';
import type { HandoverOutcome } from '../app/handover.ts';
import type { ReloadOutcome } from '../app/live-config.ts';
import type { AdminPlace } from '../config/load.ts';
import { readAdminToken } from '../config/secrets.ts';
import { SETTINGS } from '../config/settings.ts';
import type { HostPort } from '../config/types.ts';
import { addressAndPort, isEveryAddress } from '../lib/addresses.ts';
import {
  codeOf,
  ERRORS,
  type ExitErrorCode,
  errorLine,
  isErrorCode,
  reasonOf,
  StartError,
  UsageError,
} from '../lib/errors.ts';
import { fieldsOf, type JsonFields, parseJson } from '../lib/json.ts';
import { inQuotes, nearest, printable } from '../lib/text.ts';
import type { Console } from './terminal.ts';

const TIMEOUT_MS = 10_000;
/** For thousands of streams, and a new process that starts slowly. */
const HANDOVER_WITHIN_MS = 300_000;

interface AdminAnswer {
  readonly status: number;
  readonly text: string;
}

/** Where to ask, and where the address comes from. */
export type AdminAddress = Pick<AdminPlace, 'admin' | 'from'>;

/**
 * Sends a request to the admin server of a running watchdog.
 *
 * @throws StartError when there is no answer.
 */
export function askAdmin(
  at: AdminAddress,
  method: 'GET' | 'POST',
  path: string,
  token?: string,
  withinMs = TIMEOUT_MS,
): Promise<AdminAnswer> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return new Promise((resolve, reject) => {
    let isConnected = false;
    const failed = (error: unknown): void => {
      const why = isConnected && codeOf(error) === 'ETIMEDOUT' ? hangs(withinMs) : unreachable(error, at.admin);
      const text = `${attemptOf(at, method, path)}: ${why}`;
      reject(new StartError('HSW_ADMIN_UNREACHABLE', text, { cause: error }));
    };
    const asking = request(
      { ...whereToConnect(at.admin), method, path, headers, agent: false, timeout: withinMs },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', failed);
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }));
      },
    );
    asking.on('socket', (socket) => socket.once('connect', () => (isConnected = true)));
    asking.on('timeout', () => asking.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })));
    asking.on('error', failed);
    asking.end();
  });
}

/**
 * What `check` reads in the answer of a watchdog that may be running here.
 *
 * @returns undefined if none runs, or if `read` finds nothing in the answer or throws: something else may listen there.
 */
export async function readFromRunning<T>(
  { admin }: Pick<AdminAddress, 'admin'>,
  path: string,
  token: string | undefined,
  read: (fields: JsonFields) => T | undefined,
): Promise<T | undefined> {
  try {
    const { text } = await askAdmin({ admin, from: undefined }, 'GET', path, token);
    return read(fieldsOf(parseJson(text)));
  } catch {
    return undefined;
  }
}

/** `GET http://127.0.0.1:9191/streams (the default of --admin)` */
function attemptOf({ admin, from }: AdminAddress, method: string, path: string): string {
  return `${method} http://${addressAndPort(admin.host, admin.port)}${path} (${from ?? 'the default of --admin'})`;
}

/** Why there is no answer, and what to do. */
function unreachable(error: unknown, { host, port }: HostPort): string {
  const example = `for example --admin ${EXAMPLE}`;
  const code = codeOf(error) ?? '';
  if (code === 'ECONNREFUSED')
    return `nothing listens there: start the watchdog, or give the address that its own --admin has, ${example}`;
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN')
    return `no address is known for ${inQuotes(host)}: write the address that the watchdog's own --admin has, ${example}`;
  if (/^(ETIMEDOUT|EHOSTUNREACH|ENETUNREACH)$/.test(code)) {
    const tunnel = `ssh -L ${port}:127.0.0.1:${port} HOST`;
    return `no answer within ${TIMEOUT_MS / 1000} s: correct the address, or look for a firewall; if the watchdog is on another machine, \`${tunnel}\` and --admin 127.0.0.1:${port}`;
  }
  if (code.startsWith('HPE_') || code === 'ECONNRESET' || code === 'EPIPE')
    return `what listens there does not answer in plain HTTP, so it is not a watchdog's admin server (${reasonOf(error)}): give the watchdog's --admin, not one of its --listen, ${example}`;
  return `${reasonOf(error)}: start the watchdog, or give the address that its own --admin has, ${example}`;
}

/** The connection was accepted, and nothing came. */
function hangs(withinMs: number): string {
  const advice = 'see what it does (systemctl status headscale-watchdog, top), and restart it if it does not come back';
  return `something accepts connections there, but has not answered within ${withinMs / 1000} s: if it is the watchdog, it hangs, is stopped or has no processor time; ${advice}`;
}

const EXAMPLE = SETTINGS.admin.byDefault;

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
  /**
   * Makes the watchdog hand everything over to the program that is on disk.
   *
   * @throws StartError when there is no answer, or an unexpected one.
   */
  handOver(): Promise<HandoverOutcome>;
}

export type StreamsAnswer = StreamList;
export type EventsAnswer = EventList;
export type NodesAnswer = NodeList;

/** A member that tells an answer from anything else. Those about one node have its machine key. */
const MEMBERS: Readonly<Record<string, string>> = {
  ...{
    '/streams': 'streams',
    '/nodes': 'nodes',
    '/events': 'events',
    '/availability': 'nodes',
    '/overview': 'upstream',
  },
};

export function adminApi(place: AdminPlace): Api {
  const { adminTokenFile } = place;
  const token = adminTokenFile === undefined ? undefined : readAdminToken(adminTokenFile);
  const ask = (method: 'GET' | 'POST', path: string, withinMs?: number) =>
    askAdmin(place, method, path, token, withinMs);
  const unusable = (method: 'GET' | 'POST', path: string, answer: AdminAnswer): StartError =>
    refused(attemptOf(place, method, path), answer, adminTokenFile);
  const post = async (path: string, withinMs?: number): Promise<AdminAnswer> => {
    const answer = await ask('POST', path, withinMs);
    if (answer.status === 401 || answer.status === 403) throw unusable('POST', path, answer);
    return answer;
  };
  return {
    post,
    async get<T>(path: string, query = {}) {
      const given = Object.entries(query).filter((entry): entry is [string, string] => entry[1] !== undefined);
      const asked = given.length === 0 ? path : `${path}?${new URLSearchParams(given)}`;
      const answer = await ask('GET', asked);
      const error = apiErrorIn(answer.text);
      if (answer.status === 400 && error.code === 'HSW_PARAMETER_INVALID')
        throw new UsageError(error.code, [error.message]);
      // Something else may listen there, and answer 200 to everything.
      const value = fieldsOf(parseJson(answer.text));
      const isAnswer = typeof value[MEMBERS[path] ?? 'machineKey'] === (path in MEMBERS ? 'object' : 'string');
      if (answer.status !== 200 || !isAnswer) throw unusable('GET', path, answer);
      return parseJson(answer.text) as T;
    },
    async handOver() {
      const answer = await post('/handover', HANDOVER_WITHIN_MS);
      const outcome = parseJson(answer.text) as HandoverOutcome | undefined;
      if (![200, 422].includes(answer.status) || outcome === undefined) throw unusable('POST', '/handover', answer);
      return outcome;
    },
    async reload() {
      const answer = await post('/reload');
      const outcome = parseJson(answer.text) as ReloadOutcome | undefined;
      // 422: the watchdog has rejected the settings.
      const isOutcome = typeof fieldsOf(outcome).ok === 'boolean';
      if (![200, 422].includes(answer.status) || outcome === undefined || !isOutcome)
        throw unusable('POST', '/reload', answer);
      return outcome;
    },
  };
}

/** @param attempt what was asked, and where. */
function refused(attempt: string, { status, text }: AdminAnswer, tokenFile: string | undefined): StartError {
  const { code, message } = apiErrorIn(text);
  if (code === 'HSW_ADMIN_ANSWER_UNEXPECTED') {
    const answer = message === '' ? 'nothing' : inQuotes(message);
    return new StartError(
      code,
      `${attempt}: that is not a watchdog's admin server: it answered ${status} and ${answer}; give the watchdog's --admin, not one of its --listen and not Headscale, for example --admin ${EXAMPLE}`,
    );
  }
  if (status === 401 && tokenFile === undefined) {
    const advice = 'give the file that its own --admin-token-file names, or its settings file with --config';
    return new StartError(code, `${attempt}: the watchdog asks for a token: ${advice}`);
  }
  if (status === 401) {
    const advice = `give the file that the watchdog's own --admin-token-file names; if that is this one and it has changed, restart the watchdog, which reads it only at its start`;
    return new StartError('HSW_ADMIN_TOKEN_WRONG', `${attempt}: the token in ${tokenFile} is wrong: ${advice}`);
  }
  const advice = code === 'HSW_ADMIN_PATH_UNKNOWN' ? ' The watchdog is of another version than this command.' : '';
  return new StartError(code, `${attempt}: the answer was ${status}: ${message}${advice}`);
}

/** The error in an answer. It may also be text: something else may listen at that address. */
export function apiErrorIn(text: string): { readonly code: ExitErrorCode; readonly message: string } {
  // A watchdog of an earlier version has `message` in place of `detail`.
  const { code, message, detail = message } = fieldsOf(parseJson(text));
  if (isErrorCode(code) && 'exit' in ERRORS[code] && typeof detail === 'string') {
    return { code: code as ExitErrorCode, message: detail };
  }
  return { code: 'HSW_ADMIN_ANSWER_UNEXPECTED', message: text.trim().replace(/\s+/g, ' ').slice(0, 300) };
}

/** Whether the watchdog knows a node by this name, id or key. If not, says what to write instead. */
export async function knowsNode(api: Api, node: string, { stderr }: Pick<Console, 'stderr'>): Promise<boolean> {
  const { nodes } = await api.get<NodesAnswer>('/nodes');
  const isKnown = nodesCalled(node, nodes).length > 0;
  if (!isKnown) stderr.write(errorLine('HSW_NODE_UNKNOWN', notAmong(node, nodes)));
  return isKnown;
}

/** What to write instead of a name that no node has. */
export function notAmong(node: string, nodes: readonly PresenceView[]): string {
  const meant = nearest(
    node,
    nodes.flatMap(({ name }) => name ?? []),
  );
  const advice =
    meant === undefined
      ? 'write its name, id, machine key or node key; headscale-watchdog nodes lists them'
      : `did you mean ${printable(meant)}?`;
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
