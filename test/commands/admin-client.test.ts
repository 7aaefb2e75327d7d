import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { expect, test } from 'vitest';
import { askAdmin } from '../../src/commands/admin-client.ts';

test('a watchdog that accepts and never answers is said to hang, and no firewall is blamed', async () => {
  const server = createServer(() => {}).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  try {
    const asked = askAdmin({ admin: { host: '127.0.0.1', port }, from: '--admin' }, 'GET', '/overview', undefined, 300);
    await expect(asked).rejects.toThrow(
      `GET http://127.0.0.1:${port}/overview (--admin): something accepts connections there, but has not answered within 0.3 s: if it is the watchdog, it hangs`,
    );
    await expect(asked).rejects.not.toThrow('firewall');
  } finally {
    server.close();
  }
});
