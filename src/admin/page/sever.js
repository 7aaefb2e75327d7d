/** @import { StreamOfApi } from './types.ts' */
import { severStream } from './api.js';
import { byId, say } from './dom.js';
import { nameOf } from './format.js';

/**
 * Severs a stream once the operator has confirmed it.
 *
 * @param {StreamOfApi} stream
 * @param {() => void} onDone
 */
export function askAndSever(stream, onDone) {
  const dialog = byId('ask', HTMLDialogElement);
  const asker = document.activeElement;
  byId('ask-title', HTMLElement).textContent = `Sever stream ${stream.id} of ${nameOf(stream)}?`;
  byId('ask-text', HTMLElement).textContent =
    `Its connection from ${stream.remoteAddress} ends at once, at Headscale's side first. A client that is still there connects again by itself.`;
  dialog.returnValue = 'no';
  dialog.onclose = async () => {
    if (asker instanceof HTMLElement) asker.focus();
    if (dialog.returnValue !== 'yes') return;
    try {
      const { asked } = await severStream(stream);
      const done = asked === undefined ? 'was severed' : `is severed by ${stream.replica}, which was asked to`;
      say(`Stream ${stream.id} of ${nameOf(stream)} ${done}.`);
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
    onDone();
  };
  dialog.showModal();
}
