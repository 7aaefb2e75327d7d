/**
 * A way into a namespace for tests outside it: listens on a Unix socket, which namespaces do not separate,
 * and connects whoever comes there to the `HOST:PORT` named in the first line.
 */
import { connect, createServer, type Socket } from 'node:net';

const socketPath = process.argv[2];
if (socketPath === undefined) throw new Error('usage: window.ts SOCKET');

const server = createServer({ allowHalfOpen: true }, (client) => {
  client.on('error', () => client.destroy());
  client.once('readable', () => open(client));
});
server.listen(socketPath);

function open(client: Socket): void {
  const first: Buffer | null = client.read();
  if (first === null) return;
  const end = first.indexOf('\n');
  const [host, port] = first.subarray(0, end).toString().split(':');
  if (end === -1 || host === undefined) return void client.destroy();
  client.unshift(first.subarray(end + 1));
  const inside = connect({ host, port: Number(port), allowHalfOpen: true });
  inside.on('error', () => client.destroy());
  inside.on('close', () => client.destroy());
  client.on('close', () => inside.destroy());
  inside.pipe(client);
  client.pipe(inside);
}
