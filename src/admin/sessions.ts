import { randomBytes } from 'node:crypto';
import type { Clock, Instant } from '../lib/clock.ts';

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
