import { durationOrOff } from '../config/changes.ts';
import { formatDuration } from '../config/duration.ts';
import { policyFor, ruleFor, type Who } from '../config/rules.ts';
import type { Config, NodePolicy } from '../config/schema.ts';
import { needsHold } from '../headscale/checkup.ts';
import { formatMachineKey, formatNodeKey, parseMachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { AskedHeadscale, Finding } from './check.ts';

const NAMES_SHOWN = 10;

/**
 * What would be done for one node.
 *
 * @param asked a name, an id, a machine key or a node key.
 * @param nodes undefined where they could not be listed.
 */
export function nodeFinding(
  config: Config,
  asked: string,
  nodes: readonly NodeInfo[] | undefined,
  { version }: AskedHeadscale,
): Finding {
  const who = whoIs(asked, nodes);
  if (who === undefined) return { level: 'fail', text: `node ${asked}: ${whyUnknown(asked, nodes)}` };
  const name = who.node === undefined ? asked : `${who.node.name} (id ${who.node.id}, user ${who.node.user || 'none'})`;
  const does = describe(policyFor(config, who), version);
  // Rules by name, user or node key need an API key; without one there are none.
  if (who.node === undefined && config.apiKeyFile !== undefined && config.rules.length > 0) {
    const why = 'Headscale has not listed it: the most careful of the rules that may be about it';
    return { level: 'warn', text: `node ${name}: ${why}: ${does}` };
  }
  const rule = ruleFor(config, who);
  const by = rule === undefined ? 'no rule of its own' : `rule ${rule.index + 1} of the file`;
  return { level: 'ok', text: `node ${name}: ${by}: ${does}` };
}

function whoIs(asked: string, nodes: readonly NodeInfo[] | undefined): Who | undefined {
  const node = nodes?.find(
    ({ id, name, machineKey, nodeKey }) =>
      [id, formatMachineKey(machineKey), formatNodeKey(nodeKey)].includes(asked) ||
      name.toLowerCase() === asked.toLowerCase(),
  );
  if (node !== undefined) return { machineKey: node.machineKey, node };
  const machineKey = parseMachineKey(asked);
  return machineKey && { machineKey, node: undefined };
}

function whyUnknown(asked: string, nodes: readonly NodeInfo[] | undefined): string {
  if (nodes === undefined) return "only a machine key (mkey:…) can be looked up without Headscale's list of nodes";
  const names = nodes.map(({ name }) => name);
  const shown = names.slice(0, NAMES_SHOWN).join(', ') || 'none';
  const more = names.length > NAMES_SHOWN ? ` and ${names.length - NAMES_SHOWN} more` : '';
  return `Headscale lists no node with the name, id or key '${asked}'; it lists ${shown}${more}`;
}

function describe(policy: NodePolicy, version: string | undefined): string {
  return [
    `silent-after ${durationOrOff(policy.silentAfterMs)}`,
    `gone-after ${durationOrOff(policy.goneAfterMs)}`,
    `probe-idle ${durationOrOff(policy.probeIdleMs)}`,
    `hold ${holdOf(policy, version)}`,
    ...(policy.observeOnly ? ['observe-only: nothing is held or severed'] : []),
  ].join(', ');
}

function holdOf({ hold }: NodePolicy, version: string | undefined): string {
  if (hold.kind === 'off') return 'off';
  if (hold.kind === 'at most') return formatDuration(hold.ms);
  return needsHold({ version })
    ? 'auto (1500ms: Headscale may refuse a second stream)'
    : `auto (off: Headscale ${version})`;
}
