import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Load } from './load.ts';
import { type Measure, pause, type Row } from './rows.ts';

/** Loopback has as many addresses as one likes. */
const OLD_FROM = '127.0.0.2';
const NEW_FROM = '127.0.0.3';
const TABLE = 'watchdog_bench';
/** Linux probes no line that was busy within the last second. */
const QUIET_MS = 1500;

/** How long a newcomer waits for its 101 when the client of its node's old stream has vanished; of many at once. */
export function contestRows(load: Load, rounds: number): readonly Row[] {
  return [1, 100, 1000].map((count) => ({
    ...{ name: `dead old stream → new stream open, ${count} at once, p50`, unit: 'ms', betterIs: 'less' as const },
    ...{ measure: contests(load, count), direct: false, rounds, tls: false, only: ['watchdog'] },
  }));
}

export function contests(load: Load, count: number): Measure {
  return async ({ port }) => {
    const args = load.args(false, port, 'contests', String(count), OLD_FROM, NEW_FROM);
    const child = spawn(load.program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const said: string[] = [];
    child.stdout.on('data', (chunk: Buffer) => said.push(String(chunk)));
    const closed = once(child, 'close');
    try {
      await Promise.race([once(child.stdout, 'data'), closed]);
      vanish();
      await pause(QUIET_MS);
      child.stdin.end('\n');
      const [code] = await closed;
      if (code !== 0) throw new Error(`contests ended with ${code}`);
    } finally {
      child.kill();
      reappear();
    }
    return (JSON.parse(said.join('').split('\n')[1] ?? '') as { p50ms: number }).p50ms;
  };
}

/** Whatever is sent to the old address is lost, as on the Internet: no kernel answers, none resets. */
function vanish(): void {
  nft(
    `add table inet ${TABLE}; add chain inet ${TABLE} input { type filter hook input priority 0; }; add rule inet ${TABLE} input ip daddr ${OLD_FROM} drop`,
  );
}

function reappear(): void {
  nft(`add table inet ${TABLE}; delete table inet ${TABLE}`);
}

/** Needs root. */
function nft(commands: string): void {
  execFileSync('nft', [commands], { stdio: ['ignore', 'ignore', 'inherit'] });
}
