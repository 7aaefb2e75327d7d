import { UsageError } from '../errors.ts';
import { type Config, configSchema, type HostPort, hostPortOf } from './schema.ts';

/**
 * Turns flags, by their camel-case names, into a configuration.
 *
 * @throws UsageError with every mistake at once.
 */
export function loadConfig(flags: Readonly<Record<string, unknown>>): Config {
  const parsed = configSchema.safeParse(flags);
  if (!parsed.success) {
    throw new UsageError(parsed.error.issues.map((issue) => `${flagOf(issue.path)}: ${issue.message}`));
  }
  const { upstream, noiseKey, listen, admin, silentAfter, hold, logLevel } = parsed.data;
  const clashes = clashesOf(upstream, listen, admin);
  if (clashes.length > 0) throw new UsageError(clashes);
  return { upstream, noiseKeyFile: noiseKey, listen, admin, silentAfterMs: silentAfter, hold, logLevel };
}

/** Addresses that are each right and together wrong: a watchdog before itself would call itself until it fell over. */
function clashesOf(upstream: URL, listen: HostPort, admin: HostPort): readonly string[] {
  const target = hostPortOf(upstream);
  const clashes: string[] = [];
  for (const [flag, own] of [['--listen', listen] as const, ['--admin', admin] as const]) {
    if (meets(target, own))
      clashes.push(`--upstream: '${upstream.origin}' is the watchdog's own ${flag}: name Headscale's listen_addr`);
  }
  if (meets(admin, listen)) clashes.push(`--admin: the same port as --listen, ${admin.port}: choose another`);
  return clashes;
}

/** Whether a connection to `target` would arrive at what listens on `own`, as far as can be told without asking DNS. */
function meets(target: HostPort, own: HostPort): boolean {
  if (target.port !== own.port || own.port === 0) return false;
  const isLocal = (host: string): boolean => /^(localhost|127\.\d+\.\d+\.\d+|::1|0\.0\.0\.0|::)$/.test(host);
  return target.host === own.host || (isLocal(target.host) && isLocal(own.host));
}

function flagOf(path: readonly PropertyKey[]): string {
  return `--${String(path[0] ?? '').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
