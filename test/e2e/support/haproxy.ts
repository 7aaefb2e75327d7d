import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from './lab.ts';
import { onHost } from './network.ts';
import { ended } from './reach.ts';
import { until } from './wait.ts';
import type { Upstream } from './watchdog.ts';

/** HAProxy in the watchdog's place, told of idle clients what `--probe-idle 10s --gone-after 25s` tells the watchdog. */
export class HaProxy {
  readonly url: string;

  private constructor(url: string) {
    this.url = url;
  }

  static async start(lab: Lab, upstream: Upstream): Promise<HaProxy> {
    const listen = `${lab.server.address}:${lab.port()}`;
    const file = join(lab.folder('haproxy'), 'haproxy.cfg');
    writeFileSync(file, configuration(listen, new URL(upstream.url).host));
    const child = lab.start('haproxy', onHost(lab.server, 'haproxy', '-db', '-f', file));
    await until('haproxy', { timeoutMs: 10_000, giveUp: () => ended(child) }, async () => {
      const { status } = await lab.reach.get(listen, '/key?v=142');
      return status === 200 ? true : undefined;
    });
    return new HaProxy(`http://${listen}`);
  }
}

function configuration(listen: string, upstream: string): string {
  return `
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h

frontend clients
  bind ${listen} tcp-ut 25s
  option clitcpka
  clitcpka-idle 10s
  clitcpka-cnt 3
  clitcpka-intvl 5s
  default_backend headscale

backend headscale
  server headscale ${upstream}
`;
}
