/** @import { EventView, Overview, PresenceView, StreamView } from '../views.ts' */
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
import { byId, setText } from './dom.js';
import { Feed } from './feed.js';
import { clockTime, isSameStart, moment, setWatchdogTime } from './format.js';
import { nodeList } from './node-table.js';
import { NodeView } from './node-view.js';
import { showOverview } from './overview.js';
import { showProblems, showTitle } from './problems.js';
import { askAndSever } from './sever.js';
import { streamList } from './stream-table.js';

const POLL_MS = 5000;
/** With more streams than this, each refresh transfers megabytes. */
const MANY = 1000;
const POLL_MANY_MS = 15_000;
const MIN_POLL_MS = 400;
/** A request may take this part of the time between two refreshes. Longer only if the last answer was slow too. */
const TIMEOUT_SHARE = 0.8;
const MAX_TIMEOUT_MS = 30_000;

const home = byId('home', HTMLElement);
const nodePlace = byId('node', HTMLElement);
const login = byId('login', HTMLFormElement);
const severAndRefresh = (/** @type {StreamView} */ stream) => askAndSever(stream, () => refresh());
const nodesView = nodeList((filter) => choose('filter', filter));
const streamsView = streamList(severAndRefresh, (filter) => choose('filter', filter));
const nodeView = new NodeView(severAndRefresh);
const feed = new Feed((show) => choose('show', show));

/** @type {{ overview: Overview, streams: readonly StreamView[], nodes: readonly PresenceView[] } | undefined} */
let known;
let lastSeq = 0;
let isLive = false;
let isListening = false;
let isRefreshing = false;
let isStale = false;
let refreshedAt = 0;
/** When the watchdog last answered, by this machine's clock. Everything on the page is from then. */
let answeredAt = Date.now();
let isLost = false;
/** When it was first noticed that the watchdog does not answer. @type {number | undefined} */
let lostAt;
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
    const [overview, listed, nodeAnswer] = await Promise.all([getOverview(), getStreams(), getNodes()]);
    const startedAt = known?.overview.startedAt;
    setWatchdogTime(overview.now);
    known = { overview, streams: listed.streams, nodes: nodeAnswer.nodes };
    byId('logout', HTMLButtonElement).hidden = !overview.needsToken;
    document.body.classList.toggle('may-only-read', !overview.mayChange);
    await startOrCatchUp(overview.lastSeq, startedAt !== undefined && !isSameStart(startedAt, overview.startedAt));
    login.hidden = true;
    answeredAt = askedAt;
    lostAt = undefined;
    await showAll();
    timeoutMs = Math.min(MAX_TIMEOUT_MS, Math.max(pollMs() * TIMEOUT_SHARE, 3 * (Date.now() - askedAt)));
    isLost = false;
  } catch (error) {
    isLost = !(error instanceof NeedsLogin);
    if (isLost) lostAt ??= Date.now();
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

function isMany() {
  return known !== undefined && Math.max(known.streams.length, known.nodes.length) > MANY;
}

function pollMs() {
  return isMany() ? POLL_MANY_MS : POLL_MS;
}

function minPollMs() {
  return isMany() ? POLL_MS : MIN_POLL_MS;
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
 * @param {boolean} isRestarted
 */
async function startOrCatchUp(newestSeq, isRestarted) {
  if (!isListening) {
    await feed.choose(placeIn(location.hash).query.get('show'));
    lastSeq = newestSeq;
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
  } else if (isRestarted) {
    lastSeq = await feed.start();
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
    polling: login.hidden ? `refreshing every ${pollMs() / 1000} s` : 'not logged in',
    lost: 'the watchdog does not answer',
  };
  byId('link', HTMLElement).dataset.is = is;
  setText(byId('link-text', HTMLElement), texts[is]);
  const asOf = clockTime(answeredAt);
  document.body.classList.toggle('stale', isLost);
  document.body.style.setProperty('--as-of', isLost ? `", as of ${asOf}"` : '""');
  const lost = byId('lost', HTMLElement);
  lost.hidden = !isLost;
  setText(
    lost,
    isLost
      ? `The watchdog does not answer. This page shows the state at ${asOf}, which may be out of date. It has not answered since ${moment(lostAt ?? answeredAt)}: check that it runs (systemctl status headscale-watchdog, or its container) and that this browser reaches ${location.host}.`
      : '',
  );
  if (isLost) showTitle('error', 'No answer');
  else if (known !== undefined) showProblems(known.overview.problems);
}

const VIEWS = ['nodes', 'streams', 'events'];
/** @type {Readonly<Record<string, string>>} */
const BY_DEFAULT = { filter: 'all', show: 'important' };

/**
 * The place that a fragment names: `#nodes&filter=offline`, `#node=mkey:…`.
 *
 * @param {string} hash
 */
function placeIn(hash) {
  const query = new URLSearchParams(hash.slice(1));
  const view = VIEWS.find((each) => query.has(each)) ?? 'nodes';
  return { view, query, node: query.get('node') };
}

/**
 * Changes a choice of the present view. It is in the URL, so that it can be sent to somebody, and goes with the Back button.
 *
 * @param {'filter' | 'show'} name
 * @param {string} value
 */
function choose(name, value) {
  const { view, query } = placeIn(location.hash);
  const choices = { filter: query.get('filter'), show: query.get('show'), [name]: value };
  const rest = Object.entries(choices).filter(([each, chosen]) => chosen !== null && chosen !== BY_DEFAULT[each]);
  location.hash = [view, ...rest.map(([each, chosen]) => `${each}=${chosen}`)].join('&');
}

/** Shows what is known, in the view that the fragment names. */
async function showAll() {
  if (known === undefined) return;
  showOverview(known.overview, known.nodes);
  nodesView.show(known.nodes);
  streamsView.show(known.streams);
  await showPlace();
}

/** Shows the view or the node that the URL's fragment names. */
async function showPlace() {
  if (known === undefined) return;
  const { view, query, node } = placeIn(location.hash);
  home.hidden = node !== null;
  home.dataset.view = view;
  nodePlace.hidden = node === null;
  const views = byId('views', HTMLElement);
  views.hidden = false;
  for (const link of views.querySelectorAll('a')) {
    if (node === null && link.hash === `#${view}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  nodesView.go(node === null && view === 'nodes', query.get('filter'));
  streamsView.go(node === null && view === 'streams', query.get('filter'));
  if (node === null) {
    nodeView.leave();
    await feed.choose(query.get('show'));
    return;
  }
  const { overview, streams, nodes } = known;
  await nodeView.show(node, { overview, streams, listed: nodes.find(({ machineKey }) => machineKey === node) });
}

function askForToken() {
  clearTimeout(nextRefresh);
  home.hidden = true;
  nodePlace.hidden = true;
  byId('views', HTMLElement).hidden = true;
  byId('problems', HTMLElement).hidden = true;
  if (!login.hidden) return;
  login.hidden = false;
  showLink();
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
addEventListener('hashchange', () => {
  scrollTo(0, 0);
  void showPlace();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) void refresh();
});
setInterval(() => {
  // Ages run on only while the watchdog answers. Otherwise they would look up to date.
  if (document.hidden || isLost) return;
  nodesView.tick();
  streamsView.tick();
  nodeView.tick();
}, 1000);
await refresh();
