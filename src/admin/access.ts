import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { isLoopback } from '../lib/addresses.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import type { ApiErrorCode } from '../lib/errors.ts';

/** What of a request counts for whether it is let in. */
export interface AccessRequest {
  readonly host: string | undefined;
  readonly origin: string | undefined;
  /** `Sec-Fetch-Site`: what a browser says of who asks. */
  readonly fetchSite: string | undefined;
  readonly authorization: string | undefined;
  /** The `Cookie` header. */
  readonly cookie: string | undefined;
  /** Whether it changes something, or opens a WebSocket, whose answer no browser keeps from other pages. */
  readonly isSensitive: boolean;
}

export interface Refusal {
  readonly code: ApiErrorCode;
  readonly message: string;
}

export interface AccessControlOptions {
  /** Undefined: nobody needs one, which only an admin server on the loopback may do. */
  readonly token: string | undefined;
  /** The host of `--admin`. */
  readonly adminHost: string;
  /** Whether a browser that sends this cookie has logged in. */
  hasSession(cookie: string | undefined): boolean;
}

/** Who may ask the admin server what. */
export interface AccessControl {
  /** Undefined: let in. */
  refusalFor(asked: AccessRequest): Refusal | undefined;
  /** Only whether another page is behind it: for what needs no token. */
  crossSiteRefusal(asked: AccessRequest): Refusal | undefined;
  isToken(text: string): boolean;
  readonly needsToken: boolean;
}

export function createAccessControl({ token, adminHost, hasSession }: AccessControlOptions): AccessControl {
  const digest = token === undefined ? undefined : digestOf(token);
  const isToken = (text: string): boolean => digest !== undefined && timingSafeEqual(digestOf(text), digest);
  return {
    isToken,
    needsToken: digest !== undefined,
    crossSiteRefusal,
    refusalFor(asked) {
      const bearer = /^Bearer +(\S+)$/i.exec(asked.authorization ?? '')?.[1];
      // No page can send this header to another host without asked first, and the answer to that question is no.
      if (bearer !== undefined && isToken(bearer)) return undefined;
      if (digest !== undefined && !hasSession(asked.cookie)) return NEEDS_TOKEN;
      // Without a token the browser's own idea of who we are is all that keeps other pages out (DNS rebinding).
      if (digest === undefined && !isOurName(asked.host, adminHost)) return wrongHost(asked.host, adminHost);
      return crossSiteRefusal(asked);
    },
  };
}

/** Of equal length whatever is compared, so that the comparison takes equally long. */
function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

const NEEDS_TOKEN: Refusal = {
  code: 'HSW_ADMIN_TOKEN_REQUIRED',
  message: 'This needs the admin token: send Authorization: Bearer TOKEN, or open / in a browser and log in.',
};

/** Whether the `Host` header names the loopback, or what `--admin` says. */
function isOurName(host: string | undefined, adminHost: string): boolean {
  const name = nameOf(host);
  return isLoopback(name) || (name !== '' && name === adminHost.toLowerCase());
}

function nameOf(host: string | undefined): string {
  return (host ?? '')
    .toLowerCase()
    .replace(/:\d*$/, '')
    .replace(/^\[(.*)\]$/, '$1');
}

function wrongHost(host: string | undefined, adminHost: string): Refusal {
  const cure = `ask for localhost or ${adminHost}, or set --admin-token-file to be reached by other names`;
  return {
    code: 'HSW_ADMIN_HOST_NOT_ALLOWED',
    message: `The Host header ${said(host)} is no name of this machine's loopback: ${cure}.`,
  };
}

/** A change, or a live feed, that another page's script asks for in a browser that is logged in here. */
function crossSiteRefusal({ host, origin, fetchSite, isSensitive }: AccessRequest): Refusal | undefined {
  if (!isSensitive) return undefined;
  const isOwn = origin === undefined || hostOf(origin) === host?.toLowerCase();
  const saysOwn = fetchSite === undefined || fetchSite === 'same-origin' || fetchSite === 'none';
  if (isOwn && saysOwn) return undefined;
  return {
    code: 'HSW_ADMIN_ORIGIN_NOT_ALLOWED',
    message: `Not from the page at ${said(origin)}: open this server's own page, or use headscale-watchdog, or curl.`,
  };
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host || undefined : undefined;
}

/** A header's value for a message; whatever it holds, it is one short line. */
function said(value: string | undefined): string {
  return value === undefined ? '(none)' : `'${value.slice(0, 80).replace(/[^\x20-\x7e]/g, '?')}'`;
}

const COOKIE = 'headscale_watchdog';
const LASTS_MS = 12 * 3_600_000;
const MOST = 100;

/**
 * The browsers that have logged in. A cookie that scripts cannot read, rather than sessionStorage: a browser can send no
 * header with a WebSocket, and what no script can read no script can give away. It holds no token, and ends with the process.
 */
export class Sessions {
  readonly #clock: Clock;
  /** When each ends, the oldest first. */
  readonly #ends = new Map<string, Instant>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @returns the value of `Set-Cookie`. */
  begin(): string {
    const [oldest] = this.#ends.keys();
    if (oldest !== undefined && this.#ends.size >= MOST) this.#ends.delete(oldest);
    const id = randomBytes(32).toString('base64url');
    this.#ends.set(id, (this.#clock.now() + LASTS_MS) as Instant);
    return cookie(id, LASTS_MS / 1000);
  }

  /** @returns the value of `Set-Cookie`. */
  end(cookies: string | undefined): string {
    for (const id of idsIn(cookies)) this.#ends.delete(id);
    return cookie('', 0);
  }

  has(cookies: string | undefined): boolean {
    return idsIn(cookies).some((id) => (this.#ends.get(id) ?? 0) > this.#clock.now());
  }
}

function cookie(id: string, maxAgeSeconds: number): string {
  return `${COOKIE}=${id}; Path=/; Max-Age=${maxAgeSeconds}; HttpOnly; SameSite=Strict`;
}

function idsIn(cookies: string | undefined): readonly string[] {
  return (cookies ?? '')
    .split(';')
    .map((each) => each.trim().split('=', 2))
    .flatMap(([name, id]) => (name === COOKIE && id !== undefined ? [id] : []));
}
