import { join } from 'node:path';
import { programs } from './build.ts';
import { type Child, jsonLines } from './child.ts';
import type { Lab } from './lab.ts';
import { onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';

const PORT = 8080;

/** The stand-in control server, as a process on the lab's server. */
export class ControlServer {
  readonly #child: Child;
  readonly url: string;
  readonly noiseKeyFile: string;

  private constructor(child: Child, url: string, noiseKeyFile: string) {
    this.#child = child;
    this.url = url;
    this.noiseKeyFile = noiseKeyFile;
  }

  static async start(lab: Lab, secondStream: 'refuse' | 'accept'): Promise<ControlServer> {
    const listen = `${lab.server.address}:${PORT}`;
    const noiseKeyFile = join(lab.folder('control-server'), 'noise_private.key');
    const flags = ['--listen', listen, '--noise-key', noiseKeyFile, '--second-stream', secondStream];
    const command = onHost(lab.server, process.execPath, programs.controlServer, ...flags);
    const child = lab.start('control server', command);
    await until('control server', { timeoutMs: 20_000, giveUp: () => ended(child) }, async () => {
      const { status } = await lab.reach.get(listen, '/key?v=142');
      return status === 200 ? true : undefined;
    });
    return new ControlServer(child, `http://${listen}`, noiseKeyFile);
  }

  /** How many map streams of the node with this name were refused so far. */
  refusals(hostname: string): number {
    return jsonLines(this.#child.stdout).filter((line) => line.kind === 'stream refused' && line.hostname === hostname)
      .length;
  }
}
