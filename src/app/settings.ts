import { policyForAny } from '../config/rules.ts';
import type { Config, NodePolicy } from '../config/types.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { TcpTimeouts } from '../liveness/client-connection.ts';
import type { Stream } from '../streams/stream.ts';
import { LONGEST_HOLD_MS, USUAL_HOLD_MS } from '../takeover/hold.ts';
import type { TakeoverTerms } from '../takeover/takeover.ts';

export interface SettingsPorts {
  /** The nodes that a stream may belong to; undefined where any may be meant. */
  nodesOf(stream: Stream): readonly NodeInfo[] | undefined;
  /** Whether this Headscale may refuse a second stream: what `hold: auto` turns on. */
  needsHold(): boolean;
}

/** The configuration as it is now, and what it says for each stream; a reload replaces it as a whole. */
export class Settings {
  readonly #ports: SettingsPorts;
  #config: Config;
  /** Asked often, for every stream, and seldom another. */
  #policies = new WeakMap<Stream, NodePolicy>();

  constructor(config: Config, ports: SettingsPorts) {
    this.#config = config;
    this.#ports = ports;
  }

  get config(): Config {
    return this.#config;
  }

  replace(config: Config): void {
    this.#config = config;
    this.forget();
  }

  /** What is known of the nodes has changed: rules may match that did not. */
  forget(): void {
    this.#policies = new WeakMap();
  }

  /** Whose stream it is has become doubtful. */
  forgetOf(stream: Stream): void {
    this.#policies.delete(stream);
  }

  policyOf(stream: Stream): NodePolicy {
    const known = this.#policies.get(stream);
    if (known !== undefined) return known;
    const { machineKey } = stream;
    const policy = policyForAny(this.#config, machineKey, this.#ports.nodesOf(stream));
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

  #holdMs({ hold }: NodePolicy): number {
    switch (hold.kind) {
      case 'off':
        return 0;
      case 'at most':
        return hold.ms;
      case 'auto':
        return this.#ports.needsHold() ? LONGEST_HOLD_MS : 0;
      default:
        return hold satisfies never;
    }
  }
}
