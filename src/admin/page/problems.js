/** @import { Overview, StandingProblem } from '../views.ts' */
import { byId, element } from './dom.js';
import { ago, fullDate, moment } from './format.js';

const TITLE = document.title;
/** The browser's tab is narrow. @type {Partial<Record<StandingProblem['kind'], string>>} */
const SHORT = {
  upstream_down: 'Headscale is down',
  upstream_silent: 'Headscale is silent',
  upstream_not_headscale: 'Not Headscale',
  noise_key_mismatch: 'Wrong Noise key',
  noise_key_missing: 'No Noise key',
  machine_keys_duplicated: 'Duplicate key',
  redis_down: 'Redis is away',
  certificate_expiring: 'Certificate',
  limit_reached: 'Limit reached',
  evidence_missing: 'No evidence',
};

// They are loaded before they are needed: while the watchdog is lost, it cannot send one.
for (const name of ['icon-warn', 'icon-bad']) new Image().src = `page/${name}.svg`;

let shown = '';

/** @param {Overview['problems']} problems */
export function showProblems(problems) {
  const list = byId('problems', HTMLUListElement);
  list.hidden = problems.length === 0;
  const text = JSON.stringify(problems);
  // A screen reader reads a list again if it is built again.
  if (text !== shown) list.replaceChildren(...problems.map(problemItem));
  shown = text;
  const [worst] = problems;
  showTitle(worst?.level ?? 'info', worst === undefined ? '' : (SHORT[worst.kind] ?? 'Warning'));
}

/** @param {StandingProblem} problem */
function problemItem({ level, code, since, sentence, advice }) {
  const mark = { error: '✕', warn: '!', info: 'i' }[level];
  const word = { error: 'Problem', warn: 'Warning', info: 'Note' }[level];
  const time = element(
    'time',
    { datetime: since, title: `${fullDate(since)}, ${ago(since)}` },
    `since ${moment(since)}`,
  );
  const item = element(
    'li',
    { class: `problem-item ${level}` },
    element('span', { class: 'mark', 'aria-hidden': 'true' }, mark),
    element('span', { class: 'hidden' }, `${word}: `),
    element('span', { class: 'what' }, element('strong', {}, sentence), ` ${advice}`),
    time,
  );
  if (code !== null) item.title = code;
  return item;
}

/**
 * Shows in the browser's tab that something is wrong.
 *
 * @param {'error' | 'warn' | 'info'} level
 * @param {string} text
 */
export function showTitle(level, text) {
  const title = level === 'info' ? TITLE : `${text} – ${TITLE}`;
  if (document.title !== title) document.title = title;
  const icon = `page/${{ error: 'icon-bad', warn: 'icon-warn', info: 'icon' }[level]}.svg`;
  const link = byId('icon', HTMLLinkElement);
  if (link.getAttribute('href') !== icon) link.setAttribute('href', icon);
}
