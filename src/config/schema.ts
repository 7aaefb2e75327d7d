import { z } from 'zod';

/** How long newcomers are held: as Headscale's version needs it, a fixed time at most, or never. */
export type Hold =
  | { readonly kind: 'auto' }
  | { readonly kind: 'at most'; readonly ms: number }
  | { readonly kind: 'off' };

const UNITS_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** `1500ms`, `30s`, `2m` or `1h` in milliseconds; undefined when it is none of them. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  const unit = UNITS_MS[match?.[2] ?? ''];
  return match === null || unit === undefined ? undefined : Number(match[1]) * unit;
}

export interface HostPort {
  /** Without brackets, if it is an IPv6 address. */
  readonly host: string;
  readonly port: number;
}

/** Where a URL leads: its host without brackets, its port also where it is the scheme's own. */
export function hostPortOf(url: URL): HostPort {
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port);
  return { host: url.hostname.replace(/^\[|\]$/g, ''), port };
}

/** `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (all addresses); undefined when it is none of them. */
export function parseHostPort(text: string): HostPort | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]\s]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) return undefined;
  return { host: match[1] ?? (match[2] || '::'), port };
}

const SHORTEST_SILENCE_MS = 1000;
/** A client gives up on its control connection after ten seconds. */
const LONGEST_HOLD_MS = 5000;

const duration = (text: string, context: z.core.$RefinementCtx): number => {
  const ms = parseDuration(text);
  if (ms !== undefined) return ms;
  context.addIssue(`'${text}' is not a duration: write 1500ms, 30s, 2m or 1h`);
  return z.NEVER;
};

const hostPort = z.string().transform((text, context) => {
  const parsed = parseHostPort(text);
  if (parsed !== undefined) return parsed;
  const example = /^\d+$/.test(text) ? `:${text}` : '0.0.0.0:8081, [::1]:8081 or :8081';
  context.addIssue(`'${text}' is not HOST:PORT: write ${example}`);
  return z.NEVER;
});

const upstream = z.string().transform((text, context) => {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.hostname === '') {
    context.addIssue(`'${text}' is not a URL of Headscale: write http://HOST:PORT or https://HOST:PORT`);
    return z.NEVER;
  }
  if (url.pathname !== '/' || url.search !== '' || url.hash !== '' || url.username !== '' || url.password !== '') {
    context.addIssue(`'${text}' says more than a host and a port: write ${url.origin}`);
    return z.NEVER;
  }
  return url;
});

const silentAfter = z
  .string()
  .transform(duration)
  .refine((ms) => ms >= SHORTEST_SILENCE_MS, { error: ({ input }) => `'${input}ms' is too short: write 1s or more` });

const hold = z.string().transform((text, context): Hold => {
  if (text === 'auto' || text === 'off') return { kind: text };
  const ms = parseDuration(text);
  if (ms === undefined) {
    context.addIssue(`'${text}' is neither a duration nor 'auto' nor 'off': write 1500ms, auto or off`);
    return z.NEVER;
  }
  if (ms <= LONGEST_HOLD_MS) return ms === 0 ? { kind: 'off' } : { kind: 'at most', ms };
  context.addIssue(`'${text}' is too long: 5s at most, since a client gives up after ten`);
  return z.NEVER;
});

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Every setting with its default, as an operator writes it. */
export const DEFAULTS = {
  upstream: 'http://127.0.0.1:8080',
  listen: '0.0.0.0:8081',
  admin: '127.0.0.1:9191',
  silentAfter: '30s',
  hold: 'auto',
  logLevel: 'info',
} as const;

export const configSchema = z.strictObject({
  upstream: upstream.prefault(DEFAULTS.upstream),
  noiseKey: z.string().min(1, 'needs the path of a file').optional(),
  listen: hostPort.prefault(DEFAULTS.listen),
  admin: hostPort.prefault(DEFAULTS.admin),
  silentAfter: silentAfter.prefault(DEFAULTS.silentAfter),
  hold: hold.prefault(DEFAULTS.hold),
  logLevel: z
    .enum(LOG_LEVELS, { error: ({ input }) => `'${input}' is none of ${LOG_LEVELS.join(', ')}` })
    .prefault(DEFAULTS.logLevel),
});

/** The settings as the program uses them. Durations are in milliseconds. */
export interface Config {
  readonly upstream: URL;
  /** The path of Headscale's `noise_private.key`. */
  readonly noiseKeyFile: string | undefined;
  readonly listen: HostPort;
  readonly admin: HostPort;
  readonly silentAfterMs: number;
  readonly hold: Hold;
  readonly logLevel: LogLevel;
}
