import type { MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { Config, NodeMatch, NodePolicy, NodeRule } from './types.ts';

/** What is known of the node that a policy is for. */
export interface Who {
  readonly machineKey: MachineKey | undefined;
  /** Undefined if Headscale is not asked, and while Headscale does not know the node. */
  readonly node: NodeInfo | undefined;
}

type PolicyConfig = Pick<Config, 'policy' | 'rules' | 'apiKeyFile' | 'oauthClientFile'>;

/** Whether the watchdog asks Headscale for its nodes. */
export function asksForNodes({ apiKeyFile, oauthClientFile }: Pick<Config, 'apiKeyFile' | 'oauthClientFile'>): boolean {
  return apiKeyFile !== undefined || oauthClientFile !== undefined;
}

/**
 * The policy for a node: the one for all nodes, changed by the first rule that matches.
 *
 * With an API key or an OAuth client, rules may name nodes and users. While the API does not answer, or does not list a new node yet, several
 * rules may apply to a node. Then each setting takes the most careful of their values, so that no stream is severed just
 * because the API is down.
 */
export function policyFor(config: PolicyConfig, who: Who): NodePolicy {
  const { machineKey, node } = who;
  if (asksForNodes(config) && machineKey !== undefined && node === undefined) {
    return mostCareful(config.policy, possibleChanges(config.rules, machineKey));
  }
  const found = ruleFor(config, who);
  return found === undefined ? config.policy : { ...config.policy, ...found.rule.policy };
}

/**
 * The policy for a machine that may be one of several nodes. Each setting takes the most careful value.
 *
 * @param nodes undefined if it may be any node.
 */
export function policyForAny(
  config: PolicyConfig,
  machineKey: MachineKey | undefined,
  nodes: readonly NodeInfo[] | undefined,
): NodePolicy {
  if (nodes === undefined) return policyFor(config, { machineKey, node: undefined });
  const [only, ...rest] = nodes.map((node) => policyFor(config, { machineKey, node }));
  if (only === undefined || rest.length === 0) return only ?? policyFor(config, { machineKey, node: undefined });
  return mostCareful(config.policy, [only, ...rest]);
}

/** The settings of a node, and where they come from. */
export interface ExplainedPolicy {
  readonly policy: NodePolicy;
  /** The index of the rule that matches. */
  readonly rule: number | undefined;
  /** False while it is not clear which rule applies. */
  readonly isCertain: boolean;
  readonly from: Readonly<Record<keyof NodePolicy, string>>;
}

/**
 * As `policyForAny`, and why.
 *
 * @param nodes undefined if it may be any node.
 */
export function explainPolicy(
  config: PolicyConfig & Pick<Config, 'places'>,
  machineKey: MachineKey | undefined,
  nodes: readonly NodeInfo[] | undefined,
): ExplainedPolicy {
  const policy = policyForAny(config, machineKey, nodes);
  const isCertain = nodes === undefined ? !asksForNodes(config) || config.rules.length === 0 : nodes.length === 1;
  const found = isCertain ? ruleFor(config, { machineKey, node: nodes?.[0] }) : undefined;
  const { places } = config;
  const sourceOf = (name: keyof NodePolicy): string => {
    if (!isCertain) return 'the most careful of the rules that may apply';
    // A flag or a variable wins over every rule, and only to switch it on.
    const isForced = name === 'observeOnly' && config.policy.observeOnly && !places.policy.observeOnly.includes(':');
    if (found?.rule.policy[name] === undefined || isForced) return places.policy[name];
    return `rule ${found.index + 1}, ${places.rules[found.index]}`;
  };
  const from = {
    ...{ silentAfterMs: sourceOf('silentAfterMs'), goneAfterMs: sourceOf('goneAfterMs') },
    ...{ probeIdleMs: sourceOf('probeIdleMs'), hold: sourceOf('hold'), observeOnly: sourceOf('observeOnly') },
    offlineAfterMs: sourceOf('offlineAfterMs'),
  };
  return { policy, rule: found?.index, isCertain, from };
}

/** The changes that each rule may make for a node if only its machine key is known. `{}`: no rule applies. */
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
    // Without gone-after, probes have no effect.
    probeIdleMs: goneAfterMs === 0 ? 0 : probeIdleMs,
    // A hold is short and ends no stream, so no value is more careful than another.
    hold: policy.hold,
    observeOnly: changes.some((change) => change.observeOnly ?? policy.observeOnly),
    offlineAfterMs: longestOrNever(changes.map((change) => change.offlineAfterMs ?? policy.offlineAfterMs)),
  };
}

/** The longest of several durations, where 0 means never. */
function longestOrNever(durations: readonly number[]): number {
  return durations.includes(0) ? 0 : Math.max(...durations);
}

/** The first rule that matches, and its index in the file's `nodes:`, from 0. */
export function ruleFor(
  config: Pick<Config, 'rules'>,
  who: Who,
): { readonly index: number; readonly rule: NodeRule } | undefined {
  const index = config.rules.findIndex(({ match }) => matchesNode(match, who));
  const rule = config.rules[index];
  return rule === undefined ? undefined : { index, rule };
}

/** Whether a node matches every condition. A condition on something that Headscale has not told us does not match. */
export function matchesNode(match: NodeMatch, { machineKey, node }: Who): boolean {
  if (match.machineKey !== undefined && match.machineKey !== machineKey) return false;
  if (match.nodeKey !== undefined && match.nodeKey !== node?.nodeKey) return false;
  if (match.user !== undefined && match.user !== node?.user) return false;
  return match.name === undefined || (node !== undefined && globMatches(match.name, node.name));
}

/**
 * Whether `glob` matches `name`: `*` is any text, `?` any character. Case does not matter, as in DNS.
 *
 * It goes back only to the last `*`, so it takes at most glob × name steps. A regular expression, as picomatch creates, can
 * take exponentially many. It creates no arrays, because thousands of streams are matched with hundreds of rules.
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

/** How many code units the character at `index` takes. */
function widthAt(text: string, index: number): number {
  return (text.codePointAt(index) ?? 0) > 0xffff ? 2 : 1;
}
