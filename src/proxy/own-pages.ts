import { readFile, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { Origin } from './forwarded.ts';

/** What a plain listener answers itself. */
export interface OwnPages {
  /** The port to send browsers to, with HTTPS. */
  readonly httpsPort: number;
  /** Where an ACME client leaves its answers; undefined where there is none. */
  webroot(): string | undefined;
}

const CHALLENGE = '/.well-known/acme-challenge/';
/** An ACME token is base64url (RFC 8555, section 8.1); an answer is the token, a dot and a hash. */
const TOKEN = /^[A-Za-z0-9_-]{1,256}$/;
const LONGEST_ANSWER = 1024;

/**
 * Answers what is not Headscale's to answer on plain HTTP.
 *
 * @param redirects whether browsers are sent on to HTTPS.
 * @returns whether it does; else the request is to be passed on.
 */
export function answerOwnPage(
  request: IncomingMessage,
  response: ServerResponse,
  origin: Origin,
  redirects: boolean,
  pages: OwnPages,
): boolean {
  if (request.method !== 'GET' && request.method !== 'HEAD') return false;
  const path = (request.url ?? '').split('?', 1)[0] ?? '';
  if (path === '/generate_204') {
    answerNoContent(request, response);
    return true;
  }
  if (path.startsWith(CHALLENGE)) {
    const webroot = pages.webroot();
    if (webroot !== undefined) void answerChallenge(response, webroot, path.slice(CHALLENGE.length));
    return webroot !== undefined;
  }
  // Who is on HTTPS already, at a proxy before us, would be sent round in circles.
  if (!redirects || origin.proto === 'https' || request.headers.upgrade !== undefined) return false;
  redirect(request, response, origin.host, pages.httpsPort);
  return true;
}

/**
 * What tells a client that no captive portal is in its way. The challenge is sent back, so that no portal's own 204
 * passes for it (Tailscale derp/derpserver, ServeNoContent).
 */
function answerNoContent(request: IncomingMessage, response: ServerResponse): void {
  const challenge = request.headers['x-tailscale-challenge'];
  if (typeof challenge === 'string' && /^[A-Za-z0-9.:_-]{1,64}$/.test(challenge)) {
    response.setHeader('X-Tailscale-Response', `response ${challenge}`);
  }
  response.writeHead(204, { 'Cache-Control': 'no-cache, no-store, no-transform, must-revalidate, max-age=0' }).end();
}

async function answerChallenge(response: ServerResponse, webroot: string, token: string): Promise<void> {
  const answer = TOKEN.test(token) ? await smallFile(join(webroot, CHALLENGE, token)) : undefined;
  if (answer === undefined) answerText(response, 404, 'No such challenge.\n');
  else answerText(response, 200, answer);
}

async function smallFile(path: string): Promise<Buffer | undefined> {
  try {
    const found = await stat(path);
    return found.isFile() && found.size <= LONGEST_ANSWER ? await readFile(path) : undefined;
  } catch {
    return undefined;
  }
}

function redirect(request: IncomingMessage, response: ServerResponse, host: string | undefined, port: number): void {
  const name = host?.replace(/:\d*$/, '') ?? '';
  if (!/^([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])$/.test(name) || !(request.url ?? '').startsWith('/')) {
    answerText(response, 400, 'This request names no host to find on HTTPS: send a Host header.\n');
    return;
  }
  const location = `https://${name}${port === 443 ? '' : `:${port}`}${request.url}`;
  response.setHeader('Location', location);
  answerText(response, 302, `This is at ${location}\n`);
}

function answerText(response: ServerResponse, status: number, body: string | Buffer): void {
  response.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
  });
  response.end(body);
}
