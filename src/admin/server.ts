import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';

/** What the admin server shows; each is asked anew for every request. */
export interface AdminPorts {
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
  readiness(): { readonly ready: boolean; readonly detail: object };
  streams(): object;
  failed(during: string, error: unknown): void;
}

type Page = (response: ServerResponse) => void | Promise<void>;

/** `/metrics`, `/healthz`, `/readyz` and `/streams`, for Prometheus, probes and people. */
export function createAdminServer(ports: AdminPorts): Server {
  const pages = new Map<string, Page>([
    [
      '/metrics',
      async (response) => {
        const { contentType, text } = await ports.metrics();
        send(response, 200, contentType, text);
      },
    ],
    ['/healthz', (response) => send(response, 200, 'text/plain; charset=utf-8', 'ok\n')],
    [
      '/readyz',
      (response) => {
        const { ready, detail } = ports.readiness();
        sendJson(response, ready ? 200 : 503, detail);
      },
    ],
    ['/streams', (response) => sendJson(response, 200, ports.streams())],
  ]);
  const known = [...pages.keys()].join(', ');

  return createServer((request, response) => {
    const page = pages.get(pathOf(request));
    if (page === undefined)
      return send(response, 404, 'text/plain; charset=utf-8', `No such page. There are ${known}.\n`);
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.setHeader('Allow', 'GET, HEAD');
      return send(response, 405, 'text/plain; charset=utf-8', 'Only GET and HEAD.\n');
    }
    Promise.resolve()
      .then(() => page(response))
      .catch((error: unknown) => {
        ports.failed(`answering ${pathOf(request)}`, error);
        if (response.headersSent) response.destroy();
        else send(response, 500, 'text/plain; charset=utf-8', 'An error of the watchdog: see its log.\n');
      });
  });
}

function pathOf(request: IncomingMessage): string {
  return (request.url ?? '').split('?', 1)[0] ?? '';
}

function sendJson(response: ServerResponse, status: number, value: object): void {
  send(response, status, 'application/json; charset=utf-8', `${JSON.stringify(value, undefined, 2)}\n`);
}

function send(response: ServerResponse, status: number, contentType: string, body: string): void {
  response.writeHead(status, { 'Content-Type': contentType, 'Cache-Control': 'no-store' }).end(body);
}
