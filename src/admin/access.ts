import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { isLoopback } from '../lib/addresses.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import type { ApiErrorCode } from '../lib/errors.ts';
import { printable } from '../lib/text.ts';

/** The parts of a request that decide whether it is allowed. */
export interface AccessRequest {
  readonly host: string | undefined;
  readonly origin: string | undefined;
  /** `Sec-Fetch-Site`: the browser's word on which site the request comes from. */
  readonly fetchSite: string | undefined;
  readonly authorization: string | undefined;
  /** The `Cookie` header. */
  readonly cookie: string | undefined;
  /** Whether it changes something or opens a WebSocket. Browsers let any site open one and read from it. */
  readonly isSensitive: boolean;
}

export interface Refusal {
  readonly code: ApiErrorCode;
  readonly message: string;
}

interface AccessControlOptions {
  /** Undefined if no token is needed. Only an admin server on the loopback may do that. */
  readonly token: string | undefined;
  /** The host of `--admin`. */
  readonly adminHost: string;
  /** Whether a browser that sends this cookie has logged in. */
  hasSession(cookie: string | undefined): boolean;
}

/** Decides who may use the admin server. */
export interface AccessControl {
  /** @returns undefined if the request is allowed. */
  refusalFor(asked: AccessRequest): Refusal | undefined;
  /** Checks only whether another site caused the request: for routes that need no token. */
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
      // A page of another site cannot send this header: the browser asks first (CORS preflight), and we do not allow it.
      if (bearer !== undefined && isToken(bearer)) return undefined;
      if (digest !== undefined && !hasSession(asked.cookie)) return NEEDS_TOKEN;
      // Without a token, the Host header is all that keeps out a site that points its name at this address (DNS rebinding).
      if (digest === undefined && !isOurName(asked.host, adminHost)) return wrongHost(asked.host, adminHost);
      return crossSiteRefusal(asked);
    },
  };
}

/** Digests have equal length, as `timingSafeEqual` requires. */
function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

const NEEDS_TOKEN: Refusal = {
  code: 'HSW_ADMIN_TOKEN_REQUIRED',
  message: 'This needs the admin token. Send Authorization: Bearer TOKEN, or open / in a browser and log in.',
};

/** Whether the `Host` header names the loopback or the host of `--admin`. */
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
  const hint = `Use localhost or ${adminHost}, or set --admin-token-file to allow other names`;
  return {
    code: 'HSW_ADMIN_HOST_NOT_ALLOWED',
    message: `The Host header ${quoted(host)} does not name this machine's loopback. ${hint}.`,
  };
}

/** Refuses sensitive requests that a page of another site makes in a browser that is logged in here. */
function crossSiteRefusal({ host, origin, fetchSite, isSensitive }: AccessRequest): Refusal | undefined {
  if (!isSensitive) return undefined;
  const isOwn = origin === undefined || hostOf(origin) === host?.toLowerCase();
  const saysOwn = fetchSite === undefined || fetchSite === 'same-origin' || fetchSite === 'none';
  if (isOwn && saysOwn) return undefined;
  return {
    code: 'HSW_ADMIN_ORIGIN_NOT_ALLOWED',
    message: `A page at ${quoted(origin)} may not do this. Use this server's own page, headscale-watchdog or curl.`,
  };
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host || undefined : undefined;
}

/** A header's value as one short printable line, for a message. */
function quoted(value: string | undefined): string {
  return value === undefined ? '(none)' : `'${printable(value, 80)}'`;
}

const COOKIE = 'headscale_watchdog';
const SESSION_MS = 12 * 3_600_000;
const MAX_SESSIONS = 100;

/**
 * The browsers that have logged in. Each has a cookie that scripts cannot read and therefore cannot leak, and that browsers also
 * send with a WebSocket. The cookie does not hold the token. Sessions end with the process.
 */
export class Sessions {
  readonly #clock: Clock;
  /** When each session ends, the oldest first. */
  readonly #endsAt = new Map<string, Instant>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Logs a browser in. @returns the value of `Set-Cookie`. */
  begin(): string {
    const [oldest] = this.#endsAt.keys();
    if (oldest !== undefined && this.#endsAt.size >= MAX_SESSIONS) this.#endsAt.delete(oldest);
    const id = randomBytes(32).toString('base64url');
    this.#endsAt.set(id, (this.#clock.now() + SESSION_MS) as Instant);
    return cookie(id, SESSION_MS / 1000);
  }

  /** Logs a browser out. @returns the value of `Set-Cookie`. */
  end(cookies: string | undefined): string {
    for (const id of idsIn(cookies)) this.#endsAt.delete(id);
    return cookie('', 0);
  }

  has(cookies: string | undefined): boolean {
    return idsIn(cookies).some((id) => (this.#endsAt.get(id) ?? 0) > this.#clock.now());
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
