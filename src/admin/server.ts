import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';

/** What the admin server shows; each is asked anew for every request. */
export interface AdminPorts {
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
  readiness(): { readonly ready: boolean; readonly detail: object };
  streams(): object;
  /** Applies the configuration as it is now. */
  reload(): { readonly ok: boolean };
  failed(during: string, error: unknown): void;
}

interface Page {
  readonly methods: readonly string[];
  answer(response: ServerResponse): void | Promise<void>;
}

/** `/metrics`, `/healthz`, `/readyz`, `/streams` and `/reload`, for Prometheus, probes and people. */
export function createAdminServer(ports: AdminPorts): Server {
  const pages = pagesOf(ports);
  const known = [...pages.keys()].join(', ');
  return createServer((request, response) => {
    const page = pages.get(pathOf(request));
    if (page === undefined) return sendText(response, 404, `No such page. There are ${known}.`);
    if (!page.methods.includes(request.method ?? '')) {
      response.setHeader('Allow', page.methods.join(', '));
      return sendText(response, 405, `Only ${page.methods.join(' and ')}.`);
    }
    // A browser names the page that sends a POST, also its own: no page may change anything here.
    if (request.method === 'POST' && request.headers.origin !== undefined) {
      return sendText(response, 403, 'Not from a page: use headscale-watchdog reload, or curl -X POST.');
    }
    Promise.resolve()
      .then(() => page.answer(response))
      .catch((error: unknown) => {
        ports.failed(`answering ${pathOf(request)}`, error);
        if (response.headersSent) response.destroy();
        else sendText(response, 500, 'An error of the watchdog: see its log.');
      });
  });
}

function pagesOf(ports: AdminPorts): ReadonlyMap<string, Page> {
  const reading = (answer: Page['answer']): Page => ({ methods: ['GET', 'HEAD'], answer });
  return new Map<string, Page>([
    [
      '/metrics',
      reading(async (response) => {
        const { contentType, text } = await ports.metrics();
        send(response, 200, contentType, text);
      }),
    ],
    ['/healthz', reading((response) => sendText(response, 200, 'ok'))],
    [
      '/readyz',
      reading((response) => {
        const { ready, detail } = ports.readiness();
        sendJson(response, ready ? 200 : 503, detail);
      }),
    ],
    ['/streams', reading((response) => sendJson(response, 200, ports.streams()))],
    [
      '/reload',
      {
        methods: ['POST'],
        answer: (response) => {
          const outcome = ports.reload();
          sendJson(response, outcome.ok ? 200 : 422, outcome);
        },
      },
    ],
  ]);
}

function pathOf(request: IncomingMessage): string {
  return (request.url ?? '').split('?', 1)[0] ?? '';
}

function sendJson(response: ServerResponse, status: number, value: object): void {
  send(response, status, 'application/json; charset=utf-8', `${JSON.stringify(value, undefined, 2)}\n`);
}

function sendText(response: ServerResponse, status: number, text: string): void {
  send(response, status, 'text/plain; charset=utf-8', `${text}\n`);
}

function send(response: ServerResponse, status: number, contentType: string, body: string): void {
  response.writeHead(status, { 'Content-Type': contentType, 'Cache-Control': 'no-store' }).end(body);
}
