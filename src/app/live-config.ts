import { changesBetween } from '../config/changes.ts';
import { policyForAny } from '../config/policy.ts';
import { LONGEST_HOLD_MS } from '../config/readers.ts';
import type { Config, NodePolicy } from '../config/types.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { type ExitErrorCode, reasonOf, StartError, UsageError } from '../lib/errors.ts';
import type { TcpTimeouts } from '../liveness/client-connection.ts';
import type { Emit } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';
import { USUAL_HOLD_MS } from '../takeover/hold.ts';
import type { TakeoverTerms } from '../takeover/takeover.ts';
import type { KeyFiles } from './key-files.ts';

/** What Headscale says that the policies depend on. */
export interface PolicySources {
  /** The nodes that a stream may belong to; undefined if it may be any node's. */
  nodesOf(stream: Stream): readonly NodeInfo[] | undefined;
  /** Whether this Headscale may refuse a second stream. Then `hold: auto` holds newcomers. */
  mayRefuseSecondStream(): boolean;
}

/** The result of a reload. */
export type ReloadOutcome =
  | {
      readonly ok: true;
      /** The file that was read; null if the watchdog has none. */
      readonly file: string | null;
      readonly changes: readonly string[];
      readonly needRestart: readonly string[];
    }
  | { readonly ok: false; readonly code: ExitErrorCode; readonly problems: readonly string[] };

export interface ReloadOptions {
  /**
   * Reads flags and file again.
   *
   * @throws UsageError or StartError
   */
  reread(): Config;
  readonly keys: KeyFiles;
  readonly emit: Emit;
  /** Called with the new configuration in use, to update everything that was set up with the old one. */
  applied(before: Config, after: Config): void;
}

/** The configuration in use, and the settings of each stream. A reload applies a new configuration completely or not at all. */
export class LiveConfig {
  readonly #sources: PolicySources;
  #config: Config;
  /** A cache: policies are needed often and rarely change. */
  #policies = new WeakMap<Stream, NodePolicy>();

  constructor(config: Config, sources: PolicySources) {
    this.#config = config;
    this.#sources = sources;
  }

  get config(): Config {
    return this.#config;
  }

  /** Call it when the list of nodes has changed, because other rules may match now. */
  forgetPolicies(): void {
    this.#policies = new WeakMap();
  }

  /** Call it when the stream may belong to another node now. */
  forgetPolicyOf(stream: Stream): void {
    this.#policies.delete(stream);
  }

  policyOf(stream: Stream): NodePolicy {
    const known = this.#policies.get(stream);
    if (known !== undefined) return known;
    const policy = policyForAny(this.#config, stream.machineKey, this.#sources.nodesOf(stream));
    this.#policies.set(stream, policy);
    return policy;
  }

  termsOf(stream: Stream): TakeoverTerms {
    const policy = this.policyOf(stream);
    const { silentAfterMs, observeOnly, hold } = policy;
    const holdMs = this.#holdMs(policy);
    return { silentAfterMs, holdMs, holdUsuallyMs: hold.kind === 'auto' ? USUAL_HOLD_MS : holdMs, observeOnly };
  }

  /** Observe-only streams must not be closed by a kernel timeout either. */
  tcpTimeoutsOf(stream: Stream): TcpTimeouts {
    const { goneAfterMs, probeIdleMs, observeOnly } = this.policyOf(stream);
    return observeOnly ? { goneAfterMs: 0, probeIdleMs: 0 } : { goneAfterMs, probeIdleMs };
  }

  /** Applies flags and file as they are now. If they cannot be used, nothing changes. */
  reload(options: ReloadOptions): ReloadOutcome {
    const outcome = this.#tryReload(options);
    options.emit(
      outcome.ok
        ? { kind: 'settings_reloaded', ...outcome }
        : { kind: 'settings_reload_failed', code: outcome.code, problems: outcome.problems },
    );
    return outcome;
  }

  #tryReload({ reread, keys, emit, applied }: ReloadOptions): ReloadOutcome {
    const before = this.#config;
    let useOldKeys = (): void => {};
    try {
      const after = reread();
      const useKeys = keys.prepare(after);
      const { changes, needRestart } = changesBetween(before, after);
      this.#replace(withoutRestartSettings(before, after));
      useOldKeys = useKeys();
      applied(before, this.#config);
      return { ok: true, file: after.file ?? null, changes, needRestart };
    } catch (error) {
      if (error instanceof UsageError) return { ok: false, code: error.code, problems: error.problems };
      if (error instanceof StartError) return { ok: false, code: error.code, problems: [error.message] };
      const halfUsed = this.#config;
      this.#replace(before);
      useOldKeys();
      try {
        if (halfUsed !== before) applied(halfUsed, before);
      } catch {
        // The first error is reported below. Everything that could be put back has been put back.
      }
      // Return normally even after a bug: the service manager waits for the end of the reload.
      emit({ kind: 'internal_error', during: 'reloading the settings', error });
      const problem = `the watchdog could not finish the reload: ${reasonOf(error)}`;
      return { ok: false, code: 'HSW_INTERNAL', problems: [problem] };
    }
  }

  #replace(config: Config): void {
    this.#config = config;
    this.forgetPolicies();
  }

  #holdMs({ hold }: NodePolicy): number {
    switch (hold.kind) {
      case 'off':
        return 0;
      case 'at most':
        return hold.ms;
      case 'auto':
        return this.#sources.mayRefuseSecondStream() ? LONGEST_HOLD_MS : 0;
      default:
        return hold satisfies never;
    }
  }
}

/** Keeps the settings that need a restart, such as the addresses: changing them now would drop every stream. */
function withoutRestartSettings(before: Config, after: Config): Config {
  const { upstream, listen, admin, historyFile, adminTokenFile, adminReadTokenFile, redis } = before;
  const { headerBytes, headerMs, bodyMs, history, historyFileBytes } = before.limits;
  const limits = { ...after.limits, headerBytes, headerMs, bodyMs, history, historyFileBytes };
  return { ...after, upstream, listen, admin, historyFile, adminTokenFile, adminReadTokenFile, redis, limits };
}
