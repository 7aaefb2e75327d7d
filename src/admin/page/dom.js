/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | boolean | undefined>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  setAttributes(made, attributes);
  made.append(...children);
  return made;
}

/**
 * @param {string} tag
 * @param {Record<string, string | number | undefined>} [attributes]
 * @param {...(Node | string)} children
 */
export function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  setAttributes(made, attributes);
  made.append(...children);
  return made;
}

/**
 * @param {Element} target
 * @param {Record<string, string | number | boolean | undefined>} attributes
 */
function setAttributes(target, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) target.setAttribute(name, value === true ? '' : String(value));
  }
}

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} #${id}`);
  return found;
}

/**
 * Sets a text only if it differs, so that the browser does not lay it out again.
 *
 * @param {Element} target
 * @param {string} text
 */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/**
 * Shows a message for six seconds.
 *
 * @param {string} text
 */
export function say(text) {
  const said = byId('said', HTMLParagraphElement);
  said.textContent = text;
  setTimeout(() => {
    if (said.textContent === text) said.textContent = '';
  }, 6000);
}

/**
 * Puts children in place of the present ones, unless they look the same: a click, a selection or the focus in them would be
 * lost. The focus goes to what has the same `data-focus`.
 *
 * @param {Element} target
 * @param {...Element} children
 */
export function refill(target, ...children) {
  const now = [...target.children];
  if (now.length === children.length && now.every((each, i) => each.outerHTML === children[i]?.outerHTML)) return;
  const focused = target.contains(document.activeElement) && document.activeElement?.getAttribute('data-focus');
  target.replaceChildren(...children);
  if (!focused) return;
  const again = target.querySelector(`[data-focus="${CSS.escape(focused)}"]`);
  if (again instanceof HTMLElement || again instanceof SVGElement) again.focus();
}

/**
 * A page without HTTPS may not use the clipboard, except on the loopback. Then the old way is tried.
 *
 * @param {string} text
 */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = element('textarea', { class: 'hidden', 'aria-hidden': 'true' });
    field.value = text;
    const before = document.activeElement;
    document.body.append(field);
    field.select();
    const isDone = document.execCommand('copy');
    field.remove();
    if (before instanceof HTMLElement) before.focus();
    return isDone;
  }
}
