import { type Child, jsonLines } from './child.ts';
import type { Lab } from './lab.ts';
import { onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';
import type { Upstream } from './watchdog.ts';

const PROGRAM = 'test/e2e/support/recorder-main.ts';

/** What somebody on the way to Headscale would see: every handshake that passes. */
export class Recorder implements Upstream {
  readonly url: string;
  readonly noiseKeyFile: string;
  readonly #child: Child;

  private constructor(url: string, noiseKeyFile: string, child: Child) {
    this.url = url;
    this.noiseKeyFile = noiseKeyFile;
    this.#child = child;
  }

  static async before(lab: Lab, { url, noiseKeyFile }: Upstream): Promise<Recorder> {
    const listen = `${lab.server.address}:${lab.port()}`;
    const command = onHost(lab.server, process.execPath, '--import', 'tsx', PROGRAM, listen, new URL(url).host);
    const child = lab.start('recorder', command);
    await until('recorder', { timeoutMs: 10_000, giveUp: () => ended(child) }, async () => {
      const { status } = await lab.reach.get(listen, '/key?v=142');
      return status === 200 ? true : undefined;
    });
    return new Recorder(`http://${listen}`, noiseKeyFile, child);
  }

  /** The handshakes so far, the oldest first, each as the header's value. */
  handshakes(): readonly string[] {
    return jsonLines(this.#child.stdout).map(({ header }) => String(header));
  }
}
