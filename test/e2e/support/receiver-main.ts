import { createServer, type IncomingMessage } from 'node:http';

/**
 * A receiver of notifications, in a process of its own, with the HTTP interface of ntfy or of Gotify as their docs have it. Prints
 * each message that it takes as a line of JSON, as that program would show it to its subscribers.
 *
 *     receiver-main ntfy|gotify ADDRESS PORT TOKEN
 */

export interface Shown {
  readonly at: string;
  readonly title: string;
  readonly message: string;
  readonly priority: number;
  readonly tags?: readonly string[];
}

type Taken = { readonly status: 200; readonly shown: Shown } | { readonly status: 400 | 401 | 403 | 404 | 405 };

const [kind, address, port, token = ''] = process.argv.slice(2);
const TOPIC = '/nodes';

/** ntfy: PUT or POST to the topic's path; the body is the message, and headers say the rest. */
function asNtfy({ method, url, headers }: IncomingMessage, body: string): Taken {
  if (url !== TOPIC) return { status: 404 };
  if (method !== 'POST' && method !== 'PUT') return { status: 405 };
  if (headers.authorization !== `Bearer ${token}`) return { status: 403 };
  const one = (name: string): string => String(headers[name] ?? headers[`x-${name}`] ?? '');
  const priority = Number(one('priority') || '3');
  // Message bodies beyond 4 KB become attachments there.
  if (!(priority >= 1 && priority <= 5) || body === '' || Buffer.byteLength(body) > 4096) return { status: 400 };
  const tags = one('tags').split(',');
  return { status: 200, shown: { at: now(), title: decoded(one('title')), message: body, priority, tags } };
}

/** A header in another alphabet is encoded as in mail, RFC 2047. */
function decoded(text: string): string {
  return text.replace(/=\?UTF-8\?B\?([^?]*)\?=/gi, (_, base64: string) => Buffer.from(base64, 'base64').toString());
}

/** Gotify: POST to /message with the application's token; JSON with `message`, and perhaps a title and a priority. */
function asGotify({ method, url, headers }: IncomingMessage, body: string): Taken {
  const { pathname, searchParams } = new URL(url ?? '/', 'http://gotify');
  if (pathname !== '/message') return { status: 404 };
  if (method !== 'POST') return { status: 405 };
  if ((headers['x-gotify-key'] ?? searchParams.get('token')) !== token) return { status: 401 };
  if (!headers['content-type']?.startsWith('application/json')) return { status: 400 };
  const { title = '', message, priority = 0 } = JSON.parse(body) as Partial<Shown>;
  if (typeof message !== 'string' || message === '') return { status: 400 };
  return { status: 200, shown: { at: now(), title, message, priority } };
}

const now = (): string => new Date().toISOString();

createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) body += String(chunk);
  const taken = kind === 'ntfy' ? asNtfy(request, body) : asGotify(request, body);
  if (taken.status === 200) process.stdout.write(`${JSON.stringify(taken.shown)}\n`);
  response.writeHead(taken.status, { 'content-type': 'application/json' }).end(JSON.stringify(taken));
}).listen(Number(port), address, () => process.stderr.write('listening\n'));
