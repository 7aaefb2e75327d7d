import { createServer } from 'node:net';

import type { Harness } from './harness.ts';

/** A Redis that can be joined, and then answers no question about streams. */
export async function redisThatNeverAnswers(harness: Harness): Promise<{ readonly url: string; asked(): number }> {
  let asked = 0;
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (bytes) => {
      for (const [, word = ''] of bytes.toString('latin1').matchAll(/\*\d+\r\n\$\d+\r\n(\w+)\r\n/g)) {
        const command = word.toLowerCase();
        if (/^eval/.test(command)) asked += 1;
        else if (command === 'info') socket.write('$9\r\nloading:0\r\n');
        else if (command === 'subscribe')
          socket.write('*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n');
        else socket.write('+OK\r\n');
      }
    });
    harness.defer(() => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  harness.defer(() => new Promise((resolve) => server.close(resolve)));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no address');
  return { url: `redis://127.0.0.1:${address.port}`, asked: () => asked };
}
