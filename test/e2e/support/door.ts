import { run } from './child.ts';
import type { Lab } from './lab.ts';
import { onHost } from './network.ts';
import type { Watchdog } from './watchdog.ts';

/** One address for several watchdogs, as a load balancer has it: new connections go where it leads, open ones stay. */
export class Door {
  readonly url: string;
  readonly #lab: Lab;
  readonly #port: number;

  private constructor(lab: Lab) {
    this.#lab = lab;
    this.#port = lab.port();
    this.url = `http://${lab.server.address}:${this.#port}`;
  }

  static async open(lab: Lab): Promise<Door> {
    const door = new Door(lab);
    await door.#nft('add table ip door; add chain ip door prerouting { type nat hook prerouting priority -100; }');
    return door;
  }

  async leadTo(watchdog: Watchdog): Promise<void> {
    const to = new URL(watchdog.url).port;
    const rule = `add rule ip door prerouting tcp dport ${this.#port} redirect to :${to}`;
    await this.#nft(`flush chain ip door prerouting; ${rule}`);
  }

  async #nft(rules: string): Promise<void> {
    const [program, args] = onHost(this.#lab.server, 'nft', rules);
    await run(program, ...args);
  }
}
