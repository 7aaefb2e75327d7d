/** @import { EventView, PresenceView, StreamView } from '../views.ts' */
import {
  getEvents,
  getNodes,
  getOverview,
  getStreams,
  listen,
  logIn,
  logOut,
  NeedsLogin,
  setRequestTimeout,
} from './api.js';
import { byId, element, setText } from './dom.js';
import { Feed } from './feed.js';
import { clockTime } from './format.js';
import { NodeView } from './node-view.js';
import { showOverview } from './overview.js';
import { askAndSever } from './sever.js';
import { StreamTable, stateOf } from './stream-table.js';

const POLL_MS = 5000;
/** With more streams than this, each refresh transfers megabytes. */
const MANY = 1000;
const POLL_MANY_MS = 15_000;
const MIN_POLL_MS = 400;
/** A request may take this part of the time between two refreshes. Longer only if the last answer was slow too. */
const TIMEOUT_SHARE = 0.8;
const MAX_TIMEOUT_MS = 30_000;

const TITLE = document.title;
const home = byId('home', HTMLElement);
const nodePlace = byId('node', HTMLElement);
const login = byId('login', HTMLFormElement);
const search = byId('search', HTMLInputElement);
const stateFilter = byId('state', HTMLSelectElement);
const severAndRefresh = (/** @type {StreamView} */ stream) => askAndSever(stream, () => refresh());
const table = new StreamTable(severAndRefresh);
const nodeView = new NodeView(severAndRefresh);
const feed = new Feed();

/** @type {StreamView[]} */
let streams = [];
/** @type {PresenceView[]} */
let nodes = [];
let lastSeq = 0;
let isLive = false;
let isListening = false;
let isRefreshing = false;
let isStale = false;
let refreshedAt = 0;
/** When the watchdog last answered, by this machine's clock. Everything on the page is from then. */
let answeredAt = Date.now();
let isLost = false;
/** The first request may take long: nothing is on the page yet that could be out of date. */
let timeoutMs = 20_000;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let nextRefresh;

/** Fetches everything again, and shows it. */
async function refresh() {
  clearTimeout(nextRefresh);
  // Answers that are under way may not show what has just happened, so refresh again after them.
  isStale = isRefreshing;
  if (isRefreshing) return;
  isRefreshing = true;
  setRequestTimeout(timeoutMs);
  const askedAt = Date.now();
  try {
    const [overview, listed, nodeList] = await Promise.all([getOverview(), getStreams(), getNodes()]);
    streams = listed.streams;
    nodes = nodeList.nodes;
    showOverview(overview);
    byId('logout', HTMLButtonElement).hidden = !overview.needsToken;
    await startOrCatchUp(overview.lastSeq);
    login.hidden = true;
    await showPlace();
    answeredAt = askedAt;
    timeoutMs = Math.min(MAX_TIMEOUT_MS, Math.max(pollMs() * TIMEOUT_SHARE, 3 * (Date.now() - askedAt)));
    isLost = false;
  } catch (error) {
    isLost = !(error instanceof NeedsLogin);
    timeoutMs = Math.min(MAX_TIMEOUT_MS, 2 * timeoutMs);
    if (!isLost) askForToken();
  } finally {
    showLink();
    isRefreshing = false;
    refreshedAt = performance.now();
    clearTimeout(nextRefresh);
    // Nobody may see anything before logging in.
    if (login.hidden) nextRefresh = setTimeout(refresh, isStale ? minPollMs() : pollMs());
  }
}

function pollMs() {
  return streams.length > MANY ? POLL_MANY_MS : POLL_MS;
}

function minPollMs() {
  return streams.length > MANY ? POLL_MS : MIN_POLL_MS;
}

/** Refreshes soon after an event, but only once for a hundred events. */
function refreshSoon() {
  if (isRefreshing) {
    isStale = true;
    return;
  }
  clearTimeout(nextRefresh);
  nextRefresh = setTimeout(refresh, Math.max(100, minPollMs() - (performance.now() - refreshedAt)));
}

/**
 * Fetches the newest events the first time, and starts the live feed. Without a live feed, fetches the events since the last
 * refresh. After a restart the watchdog counts events from the beginning, so the list starts again.
 *
 * @param {number} newestSeq
 */
async function startOrCatchUp(newestSeq) {
  if (!isListening) {
    const { events, lastSeq: newest } = await getEvents({ limit: '300' });
    lastSeq = newest;
    feed.start(events);
    isListening = true;
    listen(
      () => lastSeq,
      heard,
      (live) => {
        isLive = live;
        showLink();
        // Only an answer tells whether the watchdog is still there.
        refreshSoon();
      },
    );
  } else if (newestSeq < lastSeq) {
    const { events, lastSeq: newest } = await getEvents({ limit: '300' });
    lastSeq = newest;
    feed.start(events);
  } else if (!isLive) {
    const { events } = await getEvents({ after: String(lastSeq), limit: '300' });
    for (const event of events) heard(event);
  }
}

/** @param {EventView} event */
function heard(event) {
  if (event.seq <= lastSeq) return;
  lastSeq = event.seq;
  feed.add(event);
  refreshSoon();
}

/** Shows whether the watchdog answers. If it does not, marks the page as out of date. */
function showLink() {
  const is = isLost ? 'lost' : isLive ? 'live' : 'polling';
  const texts = {
    live: 'live',
    polling: `refreshing every ${pollMs() / 1000} s`,
    lost: 'the watchdog does not answer',
  };
  byId('link', HTMLElement).dataset.is = is;
  setText(byId('link-text', HTMLElement), texts[is]);
  document.title = isLost ? `No answer – ${TITLE}` : TITLE;
  const asOf = clockTime(answeredAt);
  const main = byId('main', HTMLElement);
  main.classList.toggle('stale', isLost);
  main.style.setProperty('--as-of', isLost ? `", as of ${asOf}"` : '""');
  const lost = byId('lost', HTMLElement);
  lost.hidden = !isLost;
  setText(
    lost,
    isLost ? `The watchdog does not answer. This page shows the state at ${asOf}, which may be out of date.` : '',
  );
}

/** Shows the list of streams, or the node that the URL's fragment names. */
async function showPlace() {
  const key = new URLSearchParams(location.hash.slice(1)).get('node');
  home.hidden = key !== null;
  nodePlace.hidden = key === null;
  if (key !== null) {
    await nodeView.show(
      key,
      streams,
      nodes.find(({ machineKey }) => machineKey === key),
    );
    return;
  }
  nodeView.leave();
  table.show(streams);
  showCount();
  showAbsent();
}

function showCount() {
  const count = byId('count', HTMLElement);
  const text = table.shown === streams.length ? String(streams.length) : `${table.shown} of ${streams.length}`;
  if (count.textContent !== text) count.textContent = text;
}

function applyFilter() {
  const words = search.value.trim().toLowerCase();
  const state = stateFilter.value;
  table.filter(
    (stream) =>
      (state === '' || stateOf(stream) === state || stream.state === state) &&
      (words === '' || textOf(stream).includes(words)),
  );
  showCount();
  showAbsent();
}

/** @param {StreamView} stream */
function textOf({ id, node, machineKey, remoteAddress }) {
  return `${id} ${node?.name ?? ''} ${node?.user ?? ''} ${node?.nodeKey ?? ''} ${machineKey ?? ''} ${remoteAddress}`.toLowerCase();
}

/** Lists the nodes that match the search but have no open stream. */
function showAbsent() {
  const words = search.value.trim().toLowerCase();
  const absent = byId('absent', HTMLElement);
  const found = nodes.filter(
    ({ streams: ids, name, user, machineKey }) =>
      ids.length === 0 && `${name} ${user} ${machineKey}`.toLowerCase().includes(words),
  );
  absent.hidden = words === '' || found.length === 0;
  if (absent.hidden) return;
  const links = found
    .slice(0, 8)
    .flatMap((node) => [
      element('a', { href: `#node=${node.machineKey}` }, node.name ?? `${node.machineKey.slice(0, 13)}…`),
      ' ',
    ]);
  absent.replaceChildren('No open stream: ', ...links, found.length > 8 ? `and ${found.length - 8} more` : '');
}

function askForToken() {
  clearTimeout(nextRefresh);
  home.hidden = true;
  nodePlace.hidden = true;
  if (!login.hidden) return;
  login.hidden = false;
  byId('token', HTMLInputElement).focus();
}

login.addEventListener('submit', async (event) => {
  event.preventDefault();
  const token = byId('token', HTMLInputElement);
  const problem = byId('login-problem', HTMLElement);
  try {
    await logIn(token.value);
    token.value = '';
    problem.textContent = '';
    await refresh();
  } catch (error) {
    problem.textContent = error instanceof Error ? error.message : String(error);
  }
});
byId('logout', HTMLButtonElement).addEventListener('click', async () => {
  await logOut();
  location.reload();
});
// The fragment names the view, so the skip link must not change it.
document.querySelector('.skip')?.addEventListener('click', (event) => {
  event.preventDefault();
  byId('main', HTMLElement).focus();
});
search.addEventListener('input', applyFilter);
stateFilter.addEventListener('change', applyFilter);
addEventListener('hashchange', () => {
  scrollTo(0, 0);
  void showPlace();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) void refresh();
});
setInterval(() => {
  // Ages run on only while the watchdog answers. Otherwise they would look up to date.
  if (!document.hidden && !home.hidden && !isLost) table.tick();
}, 1000);
await refresh();
