import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { connect } from 'node:net';

// The least that Node can do between a client and its upstream: what the watchdog adds to this is its own.
const [listenPort, upstreamPort, cert, key] = process.argv.slice(2);
const server = cert && key ? createTlsServer({ cert: readFileSync(cert), key: readFileSync(key) }) : createServer();

server
  .on('upgrade', (request, client, head) => {
    const upstream = connect({ host: '127.0.0.1', port: Number(upstreamPort), noDelay: true });
    let asked = `${request.method} ${request.url} HTTP/1.1\r\n`;
    for (let i = 0; i + 1 < request.rawHeaders.length; i += 2) {
      asked += `${request.rawHeaders[i]}: ${request.rawHeaders[i + 1]}\r\n`;
    }
    upstream.write(`${asked}\r\n`);
    upstream.write(head);
    upstream.pipe(client).pipe(upstream);
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      one.on('error', () => other.destroy()).on('close', () => other.destroy());
    }
  })
  .listen(Number(listenPort), '127.0.0.1');
