import { formatMachineKey } from '../identity/keys.ts';
import { type ControlNode, hostnameOf } from './control-nodes.ts';
import { zstdFrameOf } from './zstd.ts';

const USER = { ID: 1, LoginName: 'demo', DisplayName: 'demo' };
const NEVER = '0001-01-01T00:00:00Z';

const RELAY_REGION = 900;
const DISCARD_PORT = 9;

/** Where a client is told that a relay is. Its STUN half answers; nobody listens at its relay half, and nobody has to. */
export interface Relay {
  /** An IPv4 address that the client can reach. */
  readonly address: string;
  readonly stunPort: number;
}

/** The answer to a register request: whoever asks is in. */
export function loggedIn(): object {
  return {
    User: { ID: USER.ID, DisplayName: USER.DisplayName, Created: NEVER },
    Login: { ID: USER.ID, Provider: '', LoginName: USER.LoginName, DisplayName: USER.DisplayName },
    NodeKeyExpired: false,
    MachineAuthorized: true,
    AuthURL: '',
  };
}

/** The answer to a register request that logs out. */
export function loggedOut(): object {
  return { ...loggedIn(), NodeKeyExpired: true, MachineAuthorized: false };
}

/** The first message of a map stream: the node itself, no peers, everything allowed. */
export function fullMap(node: ControlNode, version: number, relay: Relay, now: Date): object {
  return {
    ...selfMap(node, version, relay, now),
    Peers: [],
    DNSConfig: {},
    PacketFilter: [{ SrcIPs: ['*'], DstPorts: [{ IP: '*', Ports: { First: 0, Last: 65535 } }] }],
    UserProfiles: [USER],
    SSHPolicy: { rules: [] },
  };
}

/** The answer to a read-only request: the node and the relays. */
export function selfMap(node: ControlNode, version: number, relay: Relay, now: Date): object {
  return {
    ControlTime: now.toISOString(),
    Node: selfNode(node, version),
    DERPMap: relayMap(relay),
    Domain: 'demo',
    CollectServices: false,
    Debug: { DisableLogTail: true },
  };
}

export function keepalive(now: Date): object {
  return { KeepAlive: true, ControlTime: now.toISOString() };
}

/** A map message as it goes over the wire: its length (4 bytes, little-endian), then JSON, packed where the client asked. */
export function encodeMapMessage(message: object, compress: string | undefined): Buffer {
  const json = Buffer.from(JSON.stringify(message));
  const body = compress === 'zstd' ? zstdFrameOf(json) : json;
  const length = Buffer.alloc(4);
  length.writeUInt32LE(body.length);
  return Buffer.concat([length, body]);
}

// A client reaches Running only with a home relay, which is the one that answers its STUN question first.
function relayMap({ address, stunPort }: Relay): object {
  const Name = `${RELAY_REGION}a`;
  const node = { Name, RegionID: RELAY_REGION, HostName: address, IPv4: address, IPv6: 'none' };
  const region = { RegionID: RELAY_REGION, RegionCode: 'nowhere', RegionName: 'Nowhere' };
  const Nodes = [{ ...node, STUNPort: stunPort, DERPPort: DISCARD_PORT }];
  return { OmitDefaultRegions: true, Regions: { [RELAY_REGION]: { ...region, Nodes } } };
}

function selfNode(node: ControlNode, version: number): object {
  const { id, report } = node;
  const name = hostnameOf(node);
  const addresses = [`100.64.${id >> 8}.${id & 0xff}/32`, `fd7a:115c:a1e0::${id.toString(16)}/128`];
  const homeRelay = report.Hostinfo?.NetInfo?.PreferredDERP ?? 0;
  return {
    ID: id,
    StableID: String(id),
    Name: `${name}.demo.`,
    Cap: version,
    User: USER.ID,
    Key: report.NodeKey,
    KeyExpiry: NEVER,
    Machine: formatMachineKey(node.machineKey),
    DiscoKey: report.DiscoKey,
    Addresses: addresses,
    AllowedIPs: addresses,
    Endpoints: report.Endpoints ?? [],
    DERP: `127.3.3.40:${homeRelay}`,
    HomeDERP: homeRelay,
    Hostinfo: report.Hostinfo ?? {},
    Created: node.createdAt.toISOString(),
    MachineAuthorized: true,
    // The portal would be asked about on the Internet, and Running waits for the answer.
    CapMap: { 'disable-captive-portal-detection': [] },
  };
}
