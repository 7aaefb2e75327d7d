import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PROJECT } from './build.ts';
import { type Child, jsonLines } from './child.ts';
import type { Headscale } from './headscale.ts';
import type { Lab } from './lab.ts';
import { onHost } from './network.ts';
import type { Shown } from './receiver-main.ts';

/** With `notifying`: how long a node must be away. */
export const OFFLINE_AFTER_MS = 10_000;
/** The watchdog looks every five seconds, and waits for others that leave at the same time. */
export const TOLD_WITHIN_MS = 30_000;
/** After a restart of Headscale or of a watchdog, nodes get this much more time. */
export const SETTLES_MS = 30_000;

export const TOKENS = { ntfy: 'tk_0123456789abcdef0123456789abc', gotify: 'AbCdEfGhIjKlMnO' } as const;
type Kind = keyof typeof TOKENS;

/** A receiver on the lab's server, which can be away. */
export class Receiver {
  readonly url: string;
  readonly #start: () => Child;
  readonly #shownBefore: Shown[] = [];
  #child: Child;

  constructor(lab: Lab, kind: Kind) {
    const { address } = lab.server;
    const port = lab.port();
    this.url = `http://${address}:${port}/${kind === 'ntfy' ? 'nodes' : 'message'}`;
    const program = join(PROJECT, 'test', 'e2e', 'support', 'receiver-main.ts');
    const given = ['--import', 'tsx', program, kind, address, String(port), TOKENS[kind]];
    this.#start = () => lab.start(`receiver, as ${kind}`, onHost(lab.server, process.execPath, ...given));
    this.#child = this.#start();
  }

  get shown(): readonly Shown[] {
    return [...this.#shownBefore, ...(jsonLines(this.#child.stdout) as unknown as Shown[])];
  }

  get texts(): readonly string[] {
    return this.shown.map(({ title, message }) => `${title} | ${message}`);
  }

  async leave(): Promise<void> {
    await this.#child.end('SIGKILL');
  }

  comeBack(): void {
    this.#shownBefore.push(...(jsonLines(this.#child.stdout) as unknown as Shown[]));
    this.#child = this.#start();
  }
}

/** The flags for a watchdog that notifies these receivers. */
export async function notifying(lab: Lab, headscale: Headscale, receivers: Readonly<Partial<Record<Kind, Receiver>>>) {
  const folder = lab.folder('notifying');
  const targets = Object.entries(receivers).map(([kind, { url }]) => {
    const file = join(folder, `${kind}.token`);
    writeFileSync(file, `${TOKENS[kind as Kind]}\n`, { mode: 0o600 });
    return { url, format: kind, 'secret-file': file };
  });
  const file = join(folder, 'watchdog.yaml');
  writeFileSync(file, JSON.stringify({ 'offline-after': `${OFFLINE_AFTER_MS}ms`, notify: targets }));
  return ['--config', file, '--headscale-api-key-file', await headscale.apiKeyFile()];
}
