import { durationOrOff } from '../config/changes.ts';
import { asksForNodes, policyFor, ruleFor, type Who } from '../config/policy.ts';
import { readApiKey, readOauthClientSecret } from '../config/secrets.ts';
import type { Config, NodePolicy } from '../config/types.ts';
import type { HeadscaleApi } from '../headscale/api.ts';
import { type Credentials, capabilitiesOf, nodesAccess } from '../headscale/capabilities.ts';
import { formatMachineKey, formatNodeKey, parseMachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { reasonOf } from '../lib/errors.ts';
import { formatDuration } from '../lib/units.ts';
import { USUAL_HOLD_MS } from '../takeover/hold.ts';
import { type Finding, fail, ok, problemsOf, warn } from './findings.ts';

const NAMES_SHOWN = 10;

interface ListedNodes {
  readonly findings: readonly Finding[];
  /** Undefined if Headscale has not listed them. */
  readonly nodes: readonly NodeInfo[] | undefined;
}

const CREATE_CLIENT =
  'with an OAuth client it may only read nodes: `headscale oauth-clients create --scope devices:core:read`, and --headscale-oauth-client-file';

/** Asks Headscale for its nodes, as the watchdog would. */
export async function listNodes(api: HeadscaleApi, config: Config, version: string | undefined): Promise<ListedNodes> {
  const can = capabilitiesOf(version);
  const hasClients = can.oauthClients === 'yes';
  if (!asksForNodes(config)) {
    const [what, flag] = hasClients
      ? ['OAuth client', '--headscale-oauth-client-file']
      : ['API key', '--headscale-api-key-file'];
    const text = `${what}: not set, so nodes are only known by their machine keys: set ${flag} for their names`;
    return { findings: [warn(null, text)], nodes: undefined };
  }
  const { credentials, findings } = readCredentials(config);
  const access = nodesAccess(credentials, can);
  if (access === undefined) return { findings, nodes: undefined };
  try {
    const nodes = await api.nodes(access);
    const accepted = `${access.by}: accepted, ${nodes.length} ${nodes.length === 1 ? 'node' : 'nodes'}`;
    findings.push(
      access.by === 'API key' && hasClients
        ? warn(null, `${accepted}; the key may also change and delete everything: ${CREATE_CLIENT}`)
        : ok(accepted),
    );
    if (access.by === 'API key' && credentials.oauthClientSecret !== undefined) {
      const why =
        can.oauthClients === 'no' ? `Headscale ${version} has none` : 'Headscale does not say that it is 0.30 or later';
      findings.push(warn(null, `OAuth client: read, but not used, because ${why}; the API key is used`));
    }
    return { findings: [...findings, ...userRuleFindings(config, nodes)], nodes };
  } catch (error) {
    findings.push(fail('HSW_NODES_LIST_FAILED', `${access.by}: ${reasonOf(error)}`));
    return { findings, nodes: undefined };
  }
}

function readCredentials({ apiKeyFile, oauthClientFile }: Config): {
  readonly credentials: Credentials;
  readonly findings: Finding[];
} {
  const findings: Finding[] = [];
  const read = (path: string | undefined, reader: (path: string) => string): string | undefined => {
    try {
      return path === undefined ? undefined : reader(path);
    } catch (error) {
      findings.push(...problemsOf(error));
      return undefined;
    }
  };
  const apiKey = read(apiKeyFile, readApiKey);
  const oauthClientSecret = read(oauthClientFile, readOauthClientSecret);
  return { credentials: { apiKey, oauthClientSecret }, findings };
}

/** Finds rules for a user whom no node has. With an OAuth client, Headscale calls a user by the e-mail address if there is one. */
function userRuleFindings({ rules }: Config, nodes: readonly NodeInfo[]): readonly Finding[] {
  const users = new Set(nodes.map(({ user }) => user));
  if (users.size === 0) return [];
  return rules.flatMap(({ match: { user } }, index) =>
    user === undefined || users.has(user)
      ? []
      : [warn(null, `rule ${index + 1} of the file: no node has the user '${user}'; nodes have ${shown([...users])}`)],
  );
}

/**
 * The policy of one node.
 *
 * @param asked a name, an id, a machine key or a node key.
 * @param nodes undefined if Headscale has not listed them.
 */
export function nodeFinding(
  config: Config,
  asked: string,
  nodes: readonly NodeInfo[] | undefined,
  version: string | undefined,
): Finding {
  const who = whoIs(asked, nodes);
  if (who === undefined) return fail('HSW_NODE_UNKNOWN', `node ${asked}: ${whyUnknown(asked, nodes)}`);
  const name = who.node === undefined ? asked : `${who.node.name} (id ${who.node.id}, user ${who.node.user || 'none'})`;
  const does = describe(policyFor(config, who), version);
  // Rules by name, user or node key need Headscale's list.
  if (who.node === undefined && asksForNodes(config) && config.rules.length > 0) {
    const why = 'Headscale does not list it, so the most careful of the rules that may apply';
    return warn(null, `node ${name}: ${why}: ${does}`);
  }
  const rule = ruleFor(config, who);
  const by = rule === undefined ? 'no rule matches' : `rule ${rule.index + 1} of the file`;
  return ok(`node ${name}: ${by}: ${does}`);
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
  if (nodes === undefined) return "without Headscale's list of nodes, write a machine key (mkey:…)";
  return `Headscale has no node with the name, id or key '${asked}'; it has ${shown(nodes.map(({ name }) => name))}`;
}

function shown(names: readonly string[]): string {
  const more = names.length > NAMES_SHOWN ? ` and ${names.length - NAMES_SHOWN} more` : '';
  return `${names.slice(0, NAMES_SHOWN).join(', ') || 'none'}${more}`;
}

function describe(policy: NodePolicy, version: string | undefined): string {
  return [
    `silent-after ${durationOrOff(policy.silentAfterMs)}`,
    `gone-after ${durationOrOff(policy.goneAfterMs)}`,
    `probe-idle ${durationOrOff(policy.probeIdleMs)}`,
    `hold ${holdOf(policy, version)}`,
    `offline-after ${durationOrOff(policy.offlineAfterMs)}`,
    ...(policy.observeOnly ? ['observe-only: no stream is held or severed'] : []),
  ].join(', ');
}

function holdOf({ hold }: NodePolicy, version: string | undefined): string {
  if (hold.kind === 'off') return 'off';
  if (hold.kind === 'at most') return formatDuration(hold.ms);
  return capabilitiesOf(version).mayRefuseSecondStream
    ? `auto (${formatDuration(USUAL_HOLD_MS)}: Headscale may refuse a second stream)`
    : `auto (off: Headscale ${version})`;
}
