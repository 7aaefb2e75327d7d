import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import { type ApiErrorCode, ERRORS, type ErrorCode } from '../lib/errors.ts';
import type { Problem } from './schemas.ts';

/**
 * Headers of every response. The page may load its own files and talk to its own server only. No other site may frame it or
 * read its responses, and nothing is cached.
 */
const HEADERS = {
  'Cache-Control': 'no-store',
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
  // Pages of --admin-cors-origin get a header that others do not.
  Vary: 'Origin',
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
} as const;

/** Lists up to this length are indented for people. Longer ones are for programs, and indenting takes a third more time. */
const MAX_INDENTED_ITEMS = 200;

export function sendJson(response: ServerResponse, status: number, value: object): void {
  send(response, status, 'application/json; charset=utf-8', jsonText(value));
}

function jsonText(value: object): string {
  const isLong = Object.values(value).some((each) => Array.isArray(each) && each.length > MAX_INDENTED_ITEMS);
  return `${isLong ? JSON.stringify(value) : JSON.stringify(value, undefined, 2)}\n`;
}

export function sendText(response: ServerResponse, status: number, text: string): void {
  send(response, status, 'text/plain; charset=utf-8', `${text}\n`);
}

/** Answers an error as a problem (RFC 9457), with the status that belongs to the code. */
export function sendError(response: ServerResponse, code: ApiErrorCode, detail: string): void {
  sendProblem(response, problemOf(code, detail));
}

/** @param problem may have more members than every problem has. */
export function sendProblem(response: ServerResponse, problem: Omit<Problem, 'code'> & { code: ErrorCode }): void {
  const { contentType, text } = problemText(problem);
  send(response, problem.status, contentType, text);
}

export function problemOf<Code extends ErrorCode>(
  code: Code,
  detail: string,
  status: number = statusOf(code),
): Omit<Problem, 'code'> & { readonly code: Code } {
  return { type: 'about:blank', title: STATUS_CODES[status] ?? '', status, detail, code };
}

function statusOf(code: ErrorCode): number {
  const seen = ERRORS[code];
  return 'status' in seen ? seen.status : 500;
}

/** A problem as a whole response, for a socket without a `ServerResponse`. */
export function problemResponse(problem: Problem): Buffer {
  const { contentType, text } = problemText(problem);
  const body = Buffer.from(text);
  const lines = [
    `HTTP/1.1 ${problem.status} ${problem.title}`,
    ...Object.entries({ ...HEADERS, 'Content-Type': contentType }).map(([name, value]) => `${name}: ${value}`),
    ...(problem.status === 401 ? ['WWW-Authenticate: Bearer'] : []),
    `Content-Length: ${body.length}`,
    'Connection: close',
  ];
  return Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`), body]);
}

function problemText(problem: object): { readonly contentType: string; readonly text: string } {
  return { contentType: 'application/problem+json; charset=utf-8', text: jsonText(problem) };
}

export function send(
  response: ServerResponse,
  status: number,
  contentType: string,
  body: string | Buffer,
  cacheControl: string = HEADERS['Cache-Control'],
): void {
  response.writeHead(status, { ...HEADERS, 'Cache-Control': cacheControl, 'Content-Type': contentType }).end(body);
}

/** Browsers may keep a picture for some time. No shared cache may. */
export function sendPicture(response: ServerResponse, svg: string, maxAgeSeconds: number): void {
  send(response, 200, 'image/svg+xml; charset=utf-8', svg, `private, max-age=${maxAgeSeconds}`);
}

/** Reads a request's body as text. @returns undefined if it is longer than `most` bytes, or if the client left. */
export function readBody(request: IncomingMessage, most: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let length = 0;
    request.on('data', (chunk: Buffer) => {
      length += chunk.length;
      if (length <= most) chunks.push(chunk);
      else resolve(undefined);
    });
    request.on('end', () => resolve(Buffer.concat(chunks).toString()));
    request.on('error', () => resolve(undefined));
    request.on('close', () => resolve(undefined));
  });
}
