import type { IncomingMessage, ServerResponse } from 'node:http';
import { type ApiErrorCode, ERRORS } from '../lib/errors.ts';

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
  'X-Content-Type-Options': 'nosniff',
  'X-Frame-Options': 'DENY',
} as const;

/** Lists up to this length are indented for people. Longer ones are for programs, and indenting takes a third more time. */
const MAX_INDENTED_ITEMS = 200;

export function sendJson(response: ServerResponse, status: number, value: object): void {
  const isLong = Object.values(value).some((each) => Array.isArray(each) && each.length > MAX_INDENTED_ITEMS);
  const text = isLong ? JSON.stringify(value) : JSON.stringify(value, undefined, 2);
  send(response, status, 'application/json; charset=utf-8', `${text}\n`);
}

export function sendText(response: ServerResponse, status: number, text: string): void {
  send(response, status, 'text/plain; charset=utf-8', `${text}\n`);
}

/** Answers an error as `{ "code", "message" }`, with the status that belongs to the code. */
export function sendError(response: ServerResponse, code: ApiErrorCode, message: string): void {
  sendJson(response, ERRORS[code].status, { code, message });
}

export function send(response: ServerResponse, status: number, contentType: string, body: string): void {
  response.writeHead(status, { ...HEADERS, 'Content-Type': contentType }).end(body);
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
