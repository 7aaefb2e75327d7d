/** @import { Overview, StandingProblem } from '../views.ts' */
import { byId, element, refill } from './dom.js';
import { fullDate, moment } from './format.js';

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
/** So many are in sight, and every error. If there are at least two more, those are behind a button. */
const IN_SIGHT = 3;

// They are loaded before they are needed: while the watchdog is lost, it cannot send one.
for (const name of ['icon-warn', 'icon-bad']) new Image().src = `page/${name}.svg`;

/** @type {Overview['problems']} */
let standing = [];
let areAllShown = false;
/** What somebody has opened: on a narrow screen, a problem is one line. @type {Set<string>} */
const opened = new Set();

/** @param {Overview['problems']} problems the worst first */
export function showProblems(problems) {
  standing = problems;
  draw();
  const [worst] = problems;
  showTitle(worst?.level ?? 'info', worst === undefined ? '' : (SHORT[worst.kind] ?? 'Warning'));
}

function draw() {
  const list = byId('problems', HTMLUListElement);
  list.hidden = standing.length === 0;
  const least = Math.max(IN_SIGHT, standing.filter(({ level }) => level === 'error').length);
  const inSight = standing.length > least + 1 ? least : standing.length;
  const items = standing.map((problem, index) => problemItem(problem, index >= inSight && !areAllShown));
  if (inSight < standing.length) items.push(moreItem(standing.length - inSight));
  refill(list, ...items);
}

/** @param {number} count */
function moreItem(count) {
  const text = areAllShown ? 'Show fewer' : `and ${count} more`;
  const button = element(
    'button',
    {
      type: 'button',
      'aria-expanded': String(areAllShown),
      class: 'chip',
      'aria-controls': 'problems',
      'data-focus': 'more',
    },
    text,
  );
  button.addEventListener('click', () => {
    areAllShown = !areAllShown;
    draw();
  });
  return element('li', { class: 'more' }, button);
}

/**
 * @param {StandingProblem} problem
 * @param {boolean} isHidden
 */
function problemItem({ kind, level, code, since, sentence, advice }, isHidden) {
  const mark = { error: '✕', warn: '!', info: 'i' }[level];
  const word = { error: 'Problem', warn: 'Warning', info: 'Note' }[level];
  const isOpen = opened.has(kind);
  const fold = element('button', {
    ...{ type: 'button', class: 'fold', 'aria-label': 'What to do', 'aria-expanded': String(isOpen) },
    'data-focus': `fold ${kind} ${sentence}`,
  });
  const item = element(
    'li',
    { class: `problem-item ${level}${isOpen ? ' open' : ''}`, hidden: isHidden, title: code ?? undefined },
    element('span', { class: 'mark', 'aria-hidden': 'true' }, mark),
    element('span', { class: 'hidden' }, `${word}: `),
    element(
      'span',
      { class: 'what' },
      element('strong', {}, sentence),
      element('span', { class: 'advice' }, ` ${advice}`),
    ),
    element('time', { datetime: since, title: fullDate(since) }, `since ${moment(since)}`),
    fold,
  );
  item.addEventListener('click', () => {
    // Where nothing is folded, a click selects text. So does the end of a drag.
    if (fold.offsetParent === null || !getSelection()?.isCollapsed) return;
    const open = item.classList.toggle('open');
    fold.setAttribute('aria-expanded', String(open));
    if (open) opened.add(kind);
    else opened.delete(kind);
  });
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
