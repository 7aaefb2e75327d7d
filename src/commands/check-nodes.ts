import { policyView } from '../admin/node-list.ts';
import type { NodeDetail, PolicyView } from '../admin/views.ts';
import { durationOrOff } from '../config/changes.ts';
import { asksForNodes, explainPolicy, type Who } from '../config/policy.ts';
import { readApiKey, readOauthClientSecret } from '../config/secrets.ts';
import type { Config } from '../config/types.ts';
import type { HeadscaleApi } from '../headscale/api.ts';
import { type Credentials, capabilitiesOf, nodesAccess } from '../headscale/capabilities.ts';
import { formatMachineKey, formatNodeKey, parseMachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import { reasonOf } from '../lib/errors.ts';
import { fieldsOf, parseJson } from '../lib/json.ts';
import { formatDuration } from '../lib/units.ts';
import { USUAL_HOLD_MS } from '../takeover/hold.ts';
import { apiErrorIn, askAdmin } from './admin-client.ts';
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
    const heals = config.reconcile === 'heal' ? ', and --reconcile does nothing' : '';
    const text = `${what}: not set, so nodes are only known by their machine keys${heals}: set ${flag} for their names`;
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

/** A node's settings as flags, variables and file give them. */
interface GivenNode {
  readonly finding: Finding;
  /** Null if nobody knows the node. */
  readonly settings: PolicyView | null;
  /** Of Headscale. */
  readonly version: string | undefined;
}

/**
 * @param asked a name, an id, a machine key or a node key.
 * @param nodes undefined if Headscale has not listed them.
 */
export function givenNode(
  config: Config,
  asked: string,
  nodes: readonly NodeInfo[] | undefined,
  version: string | undefined,
): GivenNode {
  const who = whoIs(asked, nodes);
  if (who === undefined) {
    const finding = fail('HSW_NODE_UNKNOWN', `node ${asked}: ${whyUnknown(asked, nodes)}`);
    return { finding, settings: null, version };
  }
  const { machineKey, node } = who;
  const settings = policyView(explainPolicy(config, machineKey, node === undefined ? undefined : [node]));
  const name = node === undefined ? asked : `${node.name} (id ${node.id}, user ${node.user || 'none'})`;
  const does = describePolicy(settings, version);
  // Rules by name, user or node key need Headscale's list.
  const finding = settings.isCertain
    ? ok(`node ${name}: ${does}`)
    : warn(null, `node ${name}: Headscale does not list it, so several rules may apply: ${does}`);
  return { finding, settings, version };
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

/** `silent-after 10s (rule 2, watchdog.yaml:4); gone-after 2m, probe-idle off (default)` */
function describePolicy(settings: PolicyView, version: string | undefined): string {
  const { from, observeOnly } = settings;
  const texts: readonly (readonly [text: string, source: string])[] = [
    [`silent-after ${durationOrOff(settings.silentAfterMs)}`, from.silentAfterMs],
    [`gone-after ${durationOrOff(settings.goneAfterMs)}`, from.goneAfterMs],
    [`probe-idle ${durationOrOff(settings.probeIdleMs)}`, from.probeIdleMs],
    [`hold ${holdOf(settings, version)}`, from.hold],
    [`offline-after ${durationOrOff(settings.offlineAfterMs)}`, from.offlineAfterMs],
    [`observe-only ${observeOnly ? 'on, so no stream is held or severed' : 'off'}`, from.observeOnly],
  ];
  const sources = new Set(texts.map(([, source]) => source));
  const parts = [...sources].map((each) => {
    const own = texts.flatMap(([text, source]) => (source === each ? [text] : []));
    return `${own.join(', ')} (${each})`;
  });
  return parts.join('; ');
}

function holdOf({ hold }: PolicyView, version: string | undefined): string {
  if (hold !== 'auto') return hold;
  return capabilitiesOf(version).mayRefuseSecondStream
    ? `auto: ${formatDuration(USUAL_HOLD_MS)}, because Headscale may refuse a second stream`
    : `auto: off for Headscale ${version}`;
}

/** The settings that the running watchdog uses for a node, and whether they are those that were given to `check`. */
export async function runningNode(
  { admin }: Config,
  token: string | undefined,
  asked: string,
  { settings: given, version }: GivenNode,
): Promise<{ readonly findings: readonly Finding[]; readonly settings: PolicyView | null }> {
  const nothing = { findings: [], settings: null };
  const path = `/nodes/${encodeURIComponent(asked)}`;
  const answer = await askAdmin({ admin, from: undefined }, 'GET', path, token).catch(() => undefined);
  if (answer === undefined) return nothing;
  const who = `node ${asked} in the running watchdog`;
  if (answer.status !== 200) {
    const { code, message } = apiErrorIn(answer.text);
    // Something else listens there, and the check of the ports has said so.
    if (code === 'HSW_ADMIN_ANSWER_UNEXPECTED') return nothing;
    return { findings: [warn(null, `${who}: ${message}`)], settings: null };
  }
  const { policy: settings } = fieldsOf(parseJson(answer.text)) as Partial<NodeDetail>;
  // A watchdog of another version may not tell where they come from.
  if (settings?.from === undefined) return nothing;
  const does = describePolicy(settings, version);
  if (given === null || sameValues(given, settings)) return { findings: [ok(`${who}: ${does}`)], settings };
  const why = 'other settings than these, because its flags are others, or the file has changed since';
  return {
    findings: [warn(null, `${who}: ${does}: ${why}: headscale-watchdog reload makes it read its own file again`)],
    settings,
  };
}

function sameValues(
  { from: _, rule: __, ...one }: PolicyView,
  { from: ___, rule: ____, ...other }: PolicyView,
): boolean {
  return Object.entries(one).every(([name, value]) => other[name as keyof typeof other] === value);
}
