/** @import { EventOfApi, ListedNode, StreamOfApi } from './types.ts' */
import { getEvents, getNodes, getOverview, getStreams, listen, logIn, logOut, NeedsLogin } from './api.js';
import { byId, element } from './dom.js';
import { Feed } from './feed.js';
import { NodeView } from './node-view.js';
import { showOverview } from './overview.js';
import { askAndSever } from './sever.js';
import { StreamTable, stateOf } from './stream-table.js';

const POLL_MS = 5000;
/** With more streams than this each look at them is a matter of megabytes. */
const MANY = 1000;
const POLL_MANY_MS = 15_000;
const SOONEST_MS = 400;

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
/** @type {ReturnType<typeof setTimeout> | undefined} */
let nextLook;

/** Asks for everything anew, and shows it. */
async function look() {
  clearTimeout(nextLook);
  // What has happened meanwhile may not be in the answers that are on their way.
  isStale = isLooking;
  if (isLooking) return;
  isLooking = true;
  try {
    const [overview, listed, nodeList] = await Promise.all([getOverview(), getStreams(), getNodes()]);
    streams = listed.streams;
    nodes = nodeList.nodes;
    showOverview(overview);
    byId('logout', HTMLButtonElement).hidden = !overview.needsToken;
    await startOrCatchUp(overview.lastSeq);
    login.hidden = true;
    await showPlace();
    tellLink(isLive ? 'live' : 'polling');
  } catch (error) {
    if (error instanceof NeedsLogin) askForToken();
    else tellLink('lost');
  } finally {
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
        tellLink(live ? 'live' : 'polling');
        if (live) lookSoon();
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

/** @param {'live' | 'polling' | 'lost'} is */
function tellLink(is) {
  const link = byId('link', HTMLElement);
  if (link.dataset.is === is) return;
  link.dataset.is = is;
  const texts = { live: 'live', polling: `asking every ${POLL_MS / 1000} s`, lost: 'the watchdog does not answer' };
  byId('link-text', HTMLElement).textContent = texts[is];
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
  if (!document.hidden && !home.hidden) table.tick();
}, 1000);
await look();
