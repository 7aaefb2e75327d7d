import { newNodeIdentity } from '../../../src/demo/node-connection.ts';
import { NodeClient } from '../../../src/demo/simulated-node.ts';
import { systemClock } from '../../../src/lib/clock.ts';

/**
 * Many simulated nodes in one process, because so many tailscaleds do not fit on a small machine. SIGUSR2 has all of them leave, or
 * come back with the same keys. Prints how many have a map stream, as lines of JSON.
 *
 *     many-nodes-main URL NODES AUTH-KEY
 */

const [url = '', count = '0', authKey = ''] = process.argv.slice(2);
const identities = Array.from({ length: Number(count) }, (_, i) => newNodeIdentity(`node-${i + 1}`, authKey));
const running = new Set<number>();
let clients: readonly NodeClient[] = [];

function say(): void {
  process.stdout.write(`${JSON.stringify({ running: running.size })}\n`);
}

function come(): void {
  clients = identities.map((identity, i) => {
    const accepted = (): void => {
      running.add(i);
      say();
    };
    const lost = (): void => {
      running.delete(i);
      say();
    };
    return new NodeClient(identity, new URL(url), systemClock, { accepted, lost, refused: lost });
  });
}

process.on('SIGUSR2', async () => {
  if (clients.length === 0) return come();
  const leaving = clients;
  clients = [];
  await Promise.all(leaving.map((client) => client.end()));
  running.clear();
  say();
});
come();
// While all are away, nothing else keeps it running.
setInterval(() => {}, 60_000);
