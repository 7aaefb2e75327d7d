import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Config, NodePolicy, NodeRule } from './types.ts';

/** What is known of whoever a policy is asked for. */
export interface Who {
  readonly machineKey: MachineKey | undefined;
  /** Undefined without an API key, or while Headscale does not know the node. */
  readonly node: NodeInfo | undefined;
}

/**
 * The policy for a node: that for all, changed by the first rule that matches.
 * While Headscale is asked who is who and has not told of this node (a new one,
 * or its API is away), any of several may be meant: then each value is the most
 * careful of theirs, so that nobody is severed because an API cannot be reached.
 */
export function policyFor(config: Pick<Config, 'policy' | 'rules' | 'apiKeyFile'>, who: Who): NodePolicy {
  const { machineKey, node } = who;
  if (config.apiKeyFile !== undefined && machineKey !== undefined && node === undefined) {
    return mostCareful(config.policy, possibleChanges(config.rules, machineKey));
  }
  const found = ruleFor(config, who);
  return found === undefined ? config.policy : { ...config.policy, ...found.rule.policy };
}

/** The policy for one of several nodes, nobody knows which; undefined: any node may be meant. The most careful of theirs. */
export function policyForAny(
  config: Pick<Config, 'policy' | 'rules' | 'apiKeyFile'>,
  machineKey: MachineKey | undefined,
  nodes: readonly NodeInfo[] | undefined,
): NodePolicy {
  if (nodes === undefined) return policyFor(config, { machineKey, node: undefined });
  const [only, ...rest] = nodes.map((node) => policyFor(config, { machineKey, node }));
  if (only === undefined || rest.length === 0) return only ?? policyFor(config, { machineKey, node: undefined });
  return mostCareful(config.policy, [only, ...rest]);
}

/** What rules may change for a node of which the machine key alone is known: one of them is what does. `{}`: none. */
function possibleChanges(rules: readonly NodeRule[], machineKey: MachineKey): readonly Partial<NodePolicy>[] {
  const possible: Partial<NodePolicy>[] = [];
  for (const { match, policy } of rules) {
    if (match.machineKey !== undefined && match.machineKey !== machineKey) continue;
    possible.push(policy);
    const isCertain = match.name === undefined && match.user === undefined && match.nodeKey === undefined;
    if (isCertain) return possible;
  }
  return [...possible, {}];
}

function mostCareful(policy: NodePolicy, changes: readonly Partial<NodePolicy>[]): NodePolicy {
  const [only] = changes;
  if (only !== undefined && changes.length === 1) return { ...policy, ...only };
  const goneAfterMs = longestOrNever(changes.map((change) => change.goneAfterMs ?? policy.goneAfterMs));
  const probeIdleMs = longestOrNever(changes.map((change) => change.probeIdleMs ?? policy.probeIdleMs));
  return {
    silentAfterMs: Math.max(...changes.map((change) => change.silentAfterMs ?? policy.silentAfterMs)),
    goneAfterMs,
    // Probes only bring that end forward.
    probeIdleMs: goneAfterMs === 0 ? 0 : probeIdleMs,
    // To be held harms nobody for long, and does not end anybody.
    hold: policy.hold,
    observeOnly: changes.some((change) => change.observeOnly ?? policy.observeOnly),
  };
}

/** The longest of some durations of which 0 stands for never. */
function longestOrNever(durations: readonly number[]): number {
  return durations.includes(0) ? 0 : Math.max(...durations);
}

/** The first rule that matches, and its place in the file's `nodes:`, from 0. */
export function ruleFor(
  config: Pick<Config, 'rules'>,
  who: Who,
): { readonly index: number; readonly rule: NodeRule } | undefined {
  const index = config.rules.findIndex((rule) => matches(rule, who));
  const rule = config.rules[index];
  return rule === undefined ? undefined : { index, rule };
}

/** Whether all that a rule names holds; what Headscale has not told of a node holds for no rule. */
function matches({ match }: NodeRule, { machineKey, node }: Who): boolean {
  if (match.machineKey !== undefined && match.machineKey !== machineKey) return false;
  if (match.nodeKey !== undefined && match.nodeKey !== node?.nodeKey) return false;
  if (match.user !== undefined && match.user !== node?.user) return false;
  return match.name === undefined || (node !== undefined && globMatches(match.name, node.name));
}

/**
 * Whether `name` is what `glob` describes: `*` any characters, `?` one; case does not matter, as in DNS.
 * It goes back to the last `*` only, so that no glob, however written, takes more than glob × name steps.
 * Neither text is taken apart: thousands of streams ask hundreds of rules.
 */
export function globMatches(glob: string, name: string): boolean {
  const pattern = glob.toLowerCase();
  const text = name.toLowerCase();
  let p = 0;
  let starP = -1;
  let starT = 0;
  for (let t = 0; t < text.length; ) {
    if (pattern[p] === '*') {
      starP = p++;
      starT = t;
    } else if (pattern[p] === '?') {
      p++;
      t += widthAt(text, t);
    } else if (pattern[p] === text[t]) {
      p++;
      t++;
    } else if (starP !== -1) {
      starT += widthAt(text, starT);
      t = starT;
      p = starP + 1;
    } else return false;
  }
  while (pattern[p] === '*') p++;
  return p === pattern.length;
}

/** How many code units the character there takes. */
function widthAt(text: string, index: number): number {
  return (text.codePointAt(index) ?? 0) > 0xffff ? 2 : 1;
}
