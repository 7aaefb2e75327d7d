import { request as ask } from 'node:http';
import { connect } from 'node:net';
import type { SimulatedNode } from '../../../src/demo/simulated-node.ts';
import { formatMachineKey } from '../../../src/identity/keys.ts';
import type { Harness } from '../../support/harness.ts';

export const API_KEY = 'an-api-key-of-a-test';

/** Gives the stand-in control server the one page of Headscale's API that it lacks: who its nodes are. */
export async function withApi(harness: Harness, controlServer: URL, nodes: () => readonly SimulatedNode[]) {
  const { hostname, port } = controlServer;
  const upstream = await harness.upstream(
    (request, client, head) => {
      const server = connect(Number(port), hostname);
      const fields = request.rawHeaders.map((text, i) => (i % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join('');
      server.write(`${request.method} ${request.url} HTTP/1.1\r\n${fields}\r\n`);
      server.write(head);
      client.pipe(server).pipe(client);
      for (const [one, other] of [
        [client, server],
        [server, client],
      ] as const) {
        one.on('error', () => {}).on('close', () => other.destroy());
      }
    },
    (request, response) => {
      if (request.url === '/api/v1/node') {
        const isKnown = request.headers.authorization === `Bearer ${API_KEY}`;
        response.writeHead(isKnown ? 200 : 401).end(JSON.stringify({ nodes: nodes().map(listed) }));
        return;
      }
      const { method, url, headers } = request;
      const onward = ask({ hostname, port, method, path: url, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      });
      onward.on('error', () => response.destroy());
      request.pipe(onward);
    },
  );
  return upstream;
}

function listed({ name, machineKey }: SimulatedNode, i: number): object {
  const key = formatMachineKey(machineKey);
  return { id: String(i + 1), name, machineKey: key, nodeKey: key.replace('mkey', 'nodekey'), user: { name: 'alice' } };
}
