/** @import { EventOfApi, ListedNode, StreamOfApi } from './types.ts' */
import { getEvents, getNodes, getOverview, getStreams, listen, logIn, logOut, NeedsLogin, setPatience } from './api.js';
import { byId, element, setText } from './dom.js';
import { Feed } from './feed.js';
import { clockTime } from './format.js';
import { NodeView } from './node-view.js';
import { showOverview } from './overview.js';
import { askAndSever } from './sever.js';
import { StreamTable, stateOf } from './stream-table.js';

const POLL_MS = 5000;
/** With more streams than this each look at them is a matter of megabytes. */
const MANY = 1000;
const POLL_MANY_MS = 15_000;
const SOONEST_MS = 400;
/** Of the time between two looks: whoever has not answered by then hangs, unless the last answer took long, too. */
const PATIENCE = 0.8;
const MOST_PATIENCE_MS = 30_000;

const TITLE = document.title;
const home = byId('home', HTMLElement);
const nodePlace = byId('node', HTMLElement);
const login = byId('login', HTMLFormElement);
const search = byId('search', HTMLInputElement);
const stateFilter = byId('state', HTMLSelectElement);
const severThenLook = (/** @type {StreamOfApi} */ stream) => askAndSever(stream, () => look());
const table = new StreamTable(severThenLook);
const nodeView = new NodeView(severThenLook);
const feed = new Feed();

/** @type {StreamOfApi[]} */
let streams = [];
/** @type {ListedNode[]} */
let nodes = [];
let lastSeq = 0;
let isLive = false;
let isListening = false;
let isLooking = false;
let isStale = false;
let lookedAt = 0;
/** When the watchdog last answered, by this machine's clock: all that is shown is from then. */
let answeredAt = Date.now();
let isLost = false;
/** Nothing is shown at first that could be wrong. */
let patienceMs = 20_000;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let nextLook;

/** Asks for everything anew, and shows it. */
async function look() {
  clearTimeout(nextLook);
  // What has happened meanwhile may not be in the answers that are on their way.
  isStale = isLooking;
  if (isLooking) return;
  isLooking = true;
  setPatience(patienceMs);
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
    patienceMs = Math.min(MOST_PATIENCE_MS, Math.max(pollMs() * PATIENCE, 3 * (Date.now() - askedAt)));
    isLost = false;
  } catch (error) {
    isLost = !(error instanceof NeedsLogin);
    patienceMs = Math.min(MOST_PATIENCE_MS, 2 * patienceMs);
    if (!isLost) askForToken();
  } finally {
    showLink();
    isLooking = false;
    lookedAt = performance.now();
    clearTimeout(nextLook);
    // Whoever has to log in first is told nothing before that.
    if (login.hidden) nextLook = setTimeout(look, isStale ? soonestMs() : pollMs());
  }
}

function pollMs() {
  return streams.length > MANY ? POLL_MANY_MS : POLL_MS;
}

function soonestMs() {
  return streams.length > MANY ? POLL_MS : SOONEST_MS;
}

/** Something has happened: soon, but not once for each of a hundred things. */
function lookSoon() {
  if (isLooking) {
    isStale = true;
    return;
  }
  clearTimeout(nextLook);
  nextLook = setTimeout(look, Math.max(100, soonestMs() - (performance.now() - lookedAt)));
}

/**
 * The first time the newest events, and then the feed; without a feed what came since the last look. A watchdog that has
 * started anew counts from the beginning.
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
        // Whether it is there at all only an answer tells.
        lookSoon();
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

/** @param {EventOfApi} event */
function heard(event) {
  if (event.seq <= lastSeq) return;
  lastSeq = event.seq;
  feed.add(event);
  lookSoon();
}

/** Whether the watchdog answers; where it does not, that what is shown is old. */
function showLink() {
  const is = isLost ? 'lost' : isLive ? 'live' : 'polling';
  const texts = { live: 'live', polling: `asking every ${pollMs() / 1000} s`, lost: 'the watchdog does not answer' };
  byId('link', HTMLElement).dataset.is = is;
  setText(byId('link-text', HTMLElement), texts[is]);
  document.title = isLost ? `Does not answer – ${TITLE}` : TITLE;
  const asOf = clockTime(answeredAt);
  const main = byId('main', HTMLElement);
  main.classList.toggle('stale', isLost);
  main.style.setProperty('--as-of', isLost ? `", as of ${asOf}"` : '""');
  const lost = byId('lost', HTMLElement);
  lost.hidden = !isLost;
  setText(lost, isLost ? `The watchdog does not answer. What is shown is as of ${asOf}, and may be wrong by now.` : '');
}

/** The list of streams, or the node that the address names. */
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
  tellCount();
  showAbsent();
}

function tellCount() {
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
  tellCount();
  showAbsent();
}

/** @param {StreamOfApi} stream */
function textOf({ id, node, machineKey, remoteAddress }) {
  return `${id} ${node?.name ?? ''} ${node?.user ?? ''} ${node?.nodeKey ?? ''} ${machineKey ?? ''} ${remoteAddress}`.toLowerCase();
}

/** Who is searched for may be the very node that has no stream any more. */
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
  absent.replaceChildren('Without an open stream: ', ...links, found.length > 8 ? `and ${found.length - 8} more` : '');
}

function askForToken() {
  clearTimeout(nextLook);
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
    await look();
  } catch (error) {
    problem.textContent = error instanceof Error ? error.message : String(error);
  }
});
byId('logout', HTMLButtonElement).addEventListener('click', async () => {
  await logOut();
  location.reload();
});
// The address names what is shown: to skip to it must not change that.
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
  if (!document.hidden) void look();
});
setInterval(() => {
  // How long ago things were goes on while the watchdog answers: else they would seem to be known.
  if (!document.hidden && !home.hidden && !isLost) table.tick();
}, 1000);
await look();
