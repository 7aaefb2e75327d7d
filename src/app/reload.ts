import { changesBetween } from '../config/changes.ts';
import type { Config } from '../config/types.ts';
import { type ExitErrorCode, reasonOf, StartError, UsageError } from '../lib/errors.ts';
import type { Emit } from '../streams/events.ts';
import type { KeyFiles } from './key-files.ts';
import type { Settings } from './settings.ts';

/** What a reload came to, for whoever asked for it. */
export type ReloadOutcome =
  | { readonly ok: true; readonly changes: readonly string[]; readonly needRestart: readonly string[] }
  | { readonly ok: false; readonly code: ExitErrorCode; readonly problems: readonly string[] };

export interface ReloadParts {
  /** @throws UsageError or StartError */
  reread(): Config;
  readonly settings: Settings;
  readonly keys: KeyFiles;
  readonly emit: Emit;
  /** Puts the new settings to use where something has been done by the old ones. */
  applied(before: Config, after: Config): void;
}

/** Applies flags and file as they are now; what cannot be used changes nothing. */
export function reload(parts: ReloadParts): ReloadOutcome {
  const outcome = tryReload(parts);
  parts.emit(
    outcome.ok
      ? { kind: 'settings_reloaded', ...outcome }
      : { kind: 'settings_reload_failed', problems: outcome.problems },
  );
  return outcome;
}

function tryReload({ reread, settings, keys, emit, applied }: ReloadParts): ReloadOutcome {
  const before = settings.config;
  let useOldKeys = (): void => {};
  try {
    const after = reread();
    const useKeys = keys.prepare(after);
    const { changes, needRestart } = changesBetween(before, after);
    // Where it listens, and to whom it connects, stays until a restart: another place would drop every stream.
    const { upstream, listen, admin, adminTokenFile, redis } = before;
    const { headerBytes, headerMs, bodyMs, history } = before.limits;
    const limits = { ...after.limits, headerBytes, headerMs, bodyMs, history };
    settings.replace({ ...after, upstream, listen, admin, adminTokenFile, redis, limits });
    useOldKeys = useKeys();
    applied(before, settings.config);
    return { ok: true, changes, needRestart };
  } catch (error) {
    if (error instanceof UsageError) return { ok: false, code: error.code, problems: error.problems };
    if (error instanceof StartError) return { ok: false, code: error.code, problems: [error.message] };
    const halfUsed = settings.config;
    settings.replace(before);
    useOldKeys();
    try {
      if (halfUsed !== before) applied(halfUsed, before);
    } catch {
      // The first error is told; what could be put back has been.
    }
    // A service manager waits for the end of the reload, whatever happens in it.
    emit({ kind: 'internal_error', during: 'a reload', error });
    return {
      ok: false,
      code: 'HSW_INTERNAL',
      problems: [`the watchdog could not finish the reload: ${reasonOf(error)}`],
    };
  }
}
