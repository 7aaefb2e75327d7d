import { UsageError } from '../errors.ts';
import { type Config, configSchema } from './schema.ts';

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
  return { upstream, noiseKeyFile: noiseKey, listen, admin, silentAfterMs: silentAfter, hold, logLevel };
}

function flagOf(path: readonly PropertyKey[]): string {
  return `--${String(path[0] ?? '').replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
