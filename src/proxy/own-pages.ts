import { readFile, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { Origin } from './forwarded.ts';

/** The pages that a plain HTTP listener answers itself. */
export interface OwnPages {
  /** The port of the HTTPS listener, to which browsers are redirected. */
  readonly httpsPort: number;
  /** The directory where an ACME client puts its answers. Undefined if none is configured. */
  webroot(): string | undefined;
}

const CHALLENGE = '/.well-known/acme-challenge/';
/** An ACME token is base64url (RFC 8555, section 8.1). The answer is the token, a dot and a hash. */
const TOKEN = /^[A-Za-z0-9_-]{1,256}$/;
const LONGEST_ANSWER = 1024;

/**
 * Answers requests that Headscale does not answer on plain HTTP: captive portal checks, ACME challenges, redirects to HTTPS.
 *
 * @param redirects whether browsers are redirected to HTTPS.
 * @returns false if the request must go to Headscale.
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
  // A client that already uses HTTPS, at a proxy in front of us, would be redirected in circles.
  if (!redirects || origin.proto === 'https' || request.headers.upgrade !== undefined) return false;
  redirect(request, response, origin.host, pages.httpsPort);
  return true;
}

/**
 * Shows a client that there is no captive portal. The challenge is sent back, so that a portal's own 204 does not count
 * (tailscale `derp/derpserver`, `ServeNoContent`).
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
  if (answer === undefined) answerText(response, 404, 'There is no such challenge.\n');
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
    answerText(response, 400, 'This request names no host to redirect to: send a Host header.\n');
    return;
  }
  const location = `https://${name}${port === 443 ? '' : `:${port}`}${request.url}`;
  response.setHeader('Location', location);
  answerText(response, 302, `Moved to ${location}\n`);
}

function answerText(response: ServerResponse, status: number, body: string | Buffer): void {
  response.writeHead(status, {
    'Content-Type': 'text/plain; charset=utf-8',
    'Content-Length': Buffer.byteLength(body),
    'Cache-Control': 'no-store',
  });
  response.end(body);
}
