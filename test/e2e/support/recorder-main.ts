/**
 * Stands between the watchdog and Headscale and passes everything on, both ways, as it is. Says in one line of JSON of each
 * handshake that passes with what header it came.
 *
 *     recorder-main.ts HOST:PORT TARGET-HOST:PORT
 */
import { connect, createServer } from 'node:net';

const HANDSHAKE = /^x-tailscale-handshake: *([\w+/=]+)\r$/im;

const [from = '', to = ''] = process.argv.slice(2);
const [host, port] = addressOf(from);
const [targetHost, targetPort] = addressOf(to);

createServer({ allowHalfOpen: true }, (client) => {
  const server = connect({ host: targetHost, port: targetPort, allowHalfOpen: true });
  // The watchdog sends a request's head in one piece.
  client.once('data', (head) => {
    const [, header] = HANDSHAKE.exec(head.toString('latin1')) ?? [];
    if (header !== undefined) process.stdout.write(`${JSON.stringify({ header })}\n`);
  });
  client.pipe(server);
  server.pipe(client);
  for (const [one, other] of [
    [client, server],
    [server, client],
  ] as const) {
    one.on('error', () => other.destroy());
    one.on('close', () => other.destroy());
  }
}).listen(port, host);

function addressOf(text: string): readonly [host: string, port: number] {
  const { hostname, port: number } = new URL(`http://${text}`);
  return [hostname, Number(number)];
}
