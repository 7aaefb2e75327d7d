/** @import { EventOfApi, ListedNode, Overview, StreamOfApi } from './types.ts' */

/** The server asks for the token. */
export class NeedsLogin extends Error {}

/** A watchdog that hangs takes a request, and never answers it. */
let patienceMs = 20_000;

/** @param {number} ms how long an answer may take from here on */
export function setPatience(ms) {
  patienceMs = ms;
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
async function ask(path, options) {
  const signal = AbortSignal.timeout(patienceMs);
  const response = await fetch(path, { ...options, credentials: 'same-origin', signal });
  if (response.status === 401 && path !== '/login') throw new NeedsLogin();
  const text = await response.text();
  if (!response.ok) throw new Error(messageIn(text) || `${path}: ${response.status}`);
  return JSON.parse(text);
}

/**
 * The message of an error; a proxy in between may answer with something else than ours.
 *
 * @param {string} text
 */
function messageIn(text) {
  try {
    return String(JSON.parse(text).message);
  } catch {
    return text.trim();
  }
}

/** @returns {Promise<Overview>} */
export const getOverview = () => ask('/overview');

/** @returns {Promise<{ total: number, streams: StreamOfApi[] }>} */
export const getStreams = () => ask('/streams');

/** @returns {Promise<{ nodes: ListedNode[] }>} */
export const getNodes = () => ask('/nodes');

/**
 * @param {Record<string, string>} query
 * @returns {Promise<{ lastSeq: number, events: EventOfApi[] }>}
 */
export const getEvents = (query) => ask(`/events?${new URLSearchParams(query)}`);

/** @param {StreamOfApi} stream */
export const severStream = ({ id, replica }) =>
  ask(`/streams/${id}/sever${replica === null ? '' : `?${new URLSearchParams({ replica })}`}`, { method: 'POST' });

/** @param {string} token */
export const logIn = (token) => ask('/login', { method: 'POST', body: JSON.stringify({ token }) });

export const logOut = () => ask('/logout', { method: 'POST' });

const TRY_AGAIN_MS = 3000;

/**
 * Tells of every event from `after` on, and whether it hears them at once.
 *
 * @param {() => number} after
 * @param {(event: EventOfApi) => void} onEvent
 * @param {(isLive: boolean) => void} onLink
 */
export function listen(after, onEvent, onLink) {
  const url = new URL(`/events/live?after=${after()}`, location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(url);
  socket.onopen = () => onLink(true);
  socket.onmessage = ({ data }) => onEvent(JSON.parse(data));
  socket.onclose = () => {
    onLink(false);
    setTimeout(() => listen(after, onEvent, onLink), TRY_AGAIN_MS);
  };
}
