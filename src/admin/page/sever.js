/** @import { StreamView } from '../views.ts' */
import { severStream } from './api.js';
import { byId, say } from './dom.js';
import { nameOf } from './format.js';

/**
 * Severs a stream after the operator has confirmed it.
 *
 * @param {StreamView} stream
 * @param {() => void} onDone
 */
export function askAndSever(stream, onDone) {
  const dialog = byId('ask', HTMLDialogElement);
  const asker = document.activeElement;
  byId('ask-title', HTMLElement).textContent = `Sever stream ${stream.id} of ${nameOf(stream)}?`;
  byId('ask-text', HTMLElement).textContent =
    `This closes its connection from ${stream.remoteAddress} immediately, first to Headscale and then to the client. A client that is still there reconnects by itself.`;
  dialog.returnValue = 'no';
  dialog.onclose = async () => {
    if (asker instanceof HTMLElement) asker.focus();
    if (dialog.returnValue !== 'yes') return;
    try {
      const { asked } = await severStream(stream);
      const name = `stream ${stream.id} of ${nameOf(stream)}`;
      say(asked === undefined ? `Severed ${name}.` : `Asked ${stream.replica} to sever ${name}.`);
    } catch (error) {
      say(error instanceof Error ? error.message : String(error));
    }
    onDone();
  };
  dialog.showModal();
}
