import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { isLoopback } from '../lib/addresses.ts';
import type { Clock, Instant } from '../lib/clock.ts';
import type { ApiErrorCode } from '../lib/errors.ts';
import { inQuotes } from '../lib/text.ts';

/** The parts of a request that decide whether it is allowed. */
export interface AccessRequest {
  readonly host: string | undefined;
  /** What a trusted proxy says that the `Host` header was. Empty if no trusted proxy says so. */
  readonly forwardedHosts: readonly string[];
  readonly origin: string | undefined;
  /** `Sec-Fetch-Site`: the browser's word on which site the request comes from. */
  readonly fetchSite: string | undefined;
  readonly authorization: string | undefined;
  /** The `Cookie` header. */
  readonly cookie: string | undefined;
  /** `watch` opens a WebSocket. Browsers let any site open one and read from it. */
  readonly does: 'read' | 'watch' | 'change';
}

/** What a token allows. */
export type Role = 'all' | 'read';

export interface Refusal {
  readonly code: ApiErrorCode;
  readonly message: string;
}

interface AccessControlOptions {
  /** Without `all`, no token is needed. Only an admin server on the loopback may do that. */
  readonly tokens: Readonly<Record<Role, string | undefined>>;
  /** The host of `--admin`. */
  readonly adminHost: string;
  /** The sites whose pages may read. */
  corsOrigins(): readonly string[];
  /** What a browser that sends this cookie may do; undefined if it has not logged in. */
  sessionOf(cookie: string | undefined): Role | undefined;
}

/** Decides who may use the admin server. */
export interface AccessControl {
  /** @returns undefined if the request is allowed. */
  refusalFor(asked: AccessRequest): Refusal | undefined;
  /** Checks only whether another site caused the request: for routes that need no token. */
  crossSiteRefusal(asked: AccessRequest): Refusal | undefined;
  /** Whether a request that is allowed to read may also sever streams and reload. */
  mayChange(asked: AccessRequest): boolean;
  /** @returns undefined if this is no token. */
  roleOf(token: string): Role | undefined;
  /** Whether pages of this origin may read. */
  isCorsOrigin(origin: string | undefined): origin is string;
  readonly needsToken: boolean;
}

export function createAccessControl(options: AccessControlOptions): AccessControl {
  const { tokens, adminHost, corsOrigins, sessionOf } = options;
  const [all, read] = [tokens.all, tokens.read].map((token) => token && digestOf(token));
  const roleOf = (text: string): Role | undefined => {
    const digest = digestOf(text);
    const [isAll, isRead] = [all, read].map((each) => each !== undefined && timingSafeEqual(digest, each as Buffer));
    return isAll ? 'all' : isRead ? 'read' : undefined;
  };
  const bearerOf = ({ authorization }: AccessRequest): Role | undefined => {
    const [, bearer] = /^Bearer +(\S+)$/i.exec(authorization ?? '') ?? [];
    return bearer === undefined ? undefined : roleOf(bearer);
  };
  const isCorsOrigin = (origin: string | undefined): origin is string =>
    origin !== undefined && corsOrigins().includes(origin);
  const roleWith = (bearer: Role | undefined, { cookie }: AccessRequest): Role | undefined =>
    bearer ?? (all === undefined ? 'all' : sessionOf(cookie));
  const crossSiteRefusal = (asked: AccessRequest): Refusal | undefined =>
    isOwnSite(asked) || (asked.does === 'watch' && isCorsOrigin(asked.origin)) ? undefined : otherSite(asked);
  return {
    roleOf,
    isCorsOrigin,
    needsToken: all !== undefined,
    crossSiteRefusal,
    mayChange: (asked) => roleWith(bearerOf(asked), asked) === 'all',
    refusalFor(asked) {
      // A page of another site cannot send this header to change something: the browser asks first (CORS preflight).
      const bearer = bearerOf(asked);
      const role = roleWith(bearer, asked);
      if (role === undefined) return asked.authorization === undefined ? NEEDS_TOKEN : WRONG_TOKEN;
      if (role === 'read' && asked.does === 'change') return READS_ONLY;
      if (bearer !== undefined) return undefined;
      // Without a token, the Host header is all that keeps out a site that points its name at this address (DNS rebinding).
      // Such a site can send a forwarded host too, so that does not count here.
      if (all === undefined && !isOurName(asked.host, adminHost)) return wrongHost(asked.host, adminHost);
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

export const WRONG_TOKEN: Refusal = {
  code: 'HSW_ADMIN_TOKEN_WRONG',
  message: 'This is not the admin token. The token is in the file that --admin-token-file names.',
};

const READS_ONLY: Refusal = {
  code: 'HSW_ADMIN_TOKEN_READS_ONLY',
  message: 'This token may only read. Use the one in the file that --admin-token-file names.',
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

/** Whether a request comes from our own page or from no page, or only reads, which the browser lets no other site do. */
function isOwnSite({ host, forwardedHosts, origin, fetchSite, does }: AccessRequest): boolean {
  if (does === 'read') return true;
  const saysOwn = fetchSite === undefined || fetchSite === 'same-origin' || fetchSite === 'none';
  if (origin === undefined || !saysOwn) return saysOwn;
  if (forwardedHosts.length > 0) return forwardedHosts.some((each) => isHostOf(origin, each));
  return hostOf(origin) === host?.toLowerCase();
}

function otherSite({ origin }: AccessRequest): Refusal {
  return {
    code: 'HSW_ADMIN_ORIGIN_NOT_ALLOWED',
    message: `A page at ${quoted(origin)} may not do this. Use this server's own page, headscale-watchdog or curl. Behind a proxy, let it send X-Forwarded-Host.`,
  };
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host || undefined : undefined;
}

/** Many proxies leave out the port of the host that they forward. */
function isHostOf(origin: string, forwarded: string): boolean {
  if (!URL.canParse(origin)) return false;
  const { protocol, host, hostname } = new URL(origin);
  const url = `${protocol}//${forwarded}`;
  const told = URL.canParse(url) ? new URL(url) : undefined;
  return told !== undefined && (told.host === host || (told.hostname === hostname && !/:\d+$/.test(forwarded)));
}

/** A header's value, for a message. */
function quoted(value: string | undefined): string {
  return value === undefined ? '(none)' : inQuotes(value);
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
  /** The oldest first. */
  readonly #sessions = new Map<string, { readonly role: Role; readonly endsAt: Instant }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Logs a browser in.
   *
   * @param isSecure whether the browser must send the cookie over HTTPS only.
   * @returns the value of `Set-Cookie`.
   */
  begin(role: Role, isSecure: boolean): string {
    const [oldest] = this.#sessions.keys();
    if (oldest !== undefined && this.#sessions.size >= MAX_SESSIONS) this.#sessions.delete(oldest);
    const id = randomBytes(32).toString('base64url');
    this.#sessions.set(id, { role, endsAt: (this.#clock.now() + SESSION_MS) as Instant });
    return cookie(id, SESSION_MS / 1000) + (isSecure ? '; Secure' : '');
  }

  /** Logs a browser out. @returns the value of `Set-Cookie`. */
  end(cookies: string | undefined): string {
    for (const id of idsIn(cookies)) this.#sessions.delete(id);
    return cookie('', 0);
  }

  roleOf(cookies: string | undefined): Role | undefined {
    const found = idsIn(cookies).map((id) => this.#sessions.get(id));
    return found.find((session) => session !== undefined && session.endsAt > this.#clock.now())?.role;
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
