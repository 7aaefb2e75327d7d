/** @import { NodeAvailability } from '../availability-views.ts' */
/** @import { EventList, EventView, NodeDetail, PresenceView, Overview, StreamView } from '../views.ts' */

/** The server requires a login. */
export class NeedsLogin extends Error {}

/** How long a request may take. A watchdog that hangs accepts requests and never answers them. */
let timeoutMs = 20_000;

/** @param {number} ms how long each request may take from now on */
export function setRequestTimeout(ms) {
  timeoutMs = ms;
}

/**
 * @param {string} path relative to the page, because a proxy may serve the page under a path of its own
 * @param {RequestInit} [options]
 * @returns {Promise<any>}
 */
async function ask(path, options) {
  const signal = AbortSignal.timeout(timeoutMs);
  const response = await fetch(path, { ...options, credentials: 'same-origin', signal });
  if (response.status === 401 && path !== 'login') throw new NeedsLogin();
  const text = await response.text();
  if (!response.ok) throw new Error(messageIn(text) || `${path}: ${response.status}`);
  return JSON.parse(text);
}

/**
 * What an error says. A proxy in between may send a body that is not ours.
 *
 * @param {string} text
 */
function messageIn(text) {
  try {
    return String(JSON.parse(text).detail);
  } catch {
    return text.trim();
  }
}

/** @returns {Promise<Overview>} */
export const getOverview = () => ask('overview');

/** @returns {Promise<{ total: number, streams: StreamView[] }>} */
export const getStreams = () => ask('streams');

/** @returns {Promise<{ nodes: PresenceView[] }>} */
export const getNodes = () => ask('nodes');

/**
 * @param {string} key
 * @returns {Promise<NodeDetail>}
 */
export const getNode = (key) => ask(`nodes/${encodeURIComponent(key)}`);

/**
 * When a node was online in the last 30 days.
 *
 * @param {string} key
 * @returns {Promise<NodeAvailability>}
 */
export const getAvailability = (key) => {
  const { timeZone: timezone } = Intl.DateTimeFormat().resolvedOptions();
  return ask(`nodes/${encodeURIComponent(key)}/availability?${new URLSearchParams({ timezone })}`);
};

/**
 * @param {Record<string, string>} query
 * @returns {Promise<EventList>}
 */
export const getEvents = (query) => ask(`events?${new URLSearchParams(query)}`);

/** @param {StreamView} stream */
export const severStream = ({ id, replica }) =>
  ask(`streams/${id}/sever${replica === null ? '' : `?${new URLSearchParams({ replica })}`}`, { method: 'POST' });

/** @param {string} token */
export const logIn = (token) => ask('login', { method: 'POST', body: JSON.stringify({ token }) });

export const logOut = () => ask('logout', { method: 'POST' });

const RECONNECT_MS = 3000;

/**
 * Calls `onEvent` for every event after number `after()`, as it happens, and reconnects whenever the connection ends.
 *
 * @param {() => number} after
 * @param {(event: EventView) => void} onEvent
 * @param {(isLive: boolean) => void} onLink called when the connection opens and closes
 */
export function listen(after, onEvent, onLink) {
  const url = new URL(`events/live?after=${after()}`, location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(url);
  socket.onopen = () => onLink(true);
  socket.onmessage = ({ data }) => onEvent(JSON.parse(data));
  socket.onclose = () => {
    onLink(false);
    setTimeout(() => listen(after, onEvent, onLink), RECONNECT_MS);
  };
}
