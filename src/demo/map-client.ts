import { randomBytes } from 'node:crypto';
import type { ClientHttp2Stream } from 'node:http2';
import type { NoiseKey } from '../identity/machine-key.ts';
import { CLIENT_VERSION, type NodeConnection } from './node-connection.ts';
import { generateNoiseKey } from './noise-key.ts';

/** Who a node is, wherever it connects from. */
export interface NodeIdentity {
  readonly name: string;
  readonly machine: NoiseKey;
  /** `nodekey:<64 hex>` */
  readonly nodeKey: string;
  /** Headscale lets nobody in without one; the demo's server does. */
  readonly authKey: string | undefined;
}

export function newNodeIdentity(name: string, authKey?: string): NodeIdentity {
  return { name, machine: generateNoiseKey(), nodeKey: `nodekey:${randomBytes(32).toString('hex')}`, authKey };
}

/** Registers, and tells the server about the host, as tailscaled does before it asks for a stream. */
export async function logIn(connection: NodeConnection, identity: NodeIdentity): Promise<void> {
  const { nodeKey, name, authKey } = identity;
  const Hostinfo = { Hostname: name, OS: 'linux', BackendLogID: name };
  const Auth = authKey === undefined ? undefined : { AuthKey: authKey };
  await answerTo(connection.post('/machine/register', { Version: CLIENT_VERSION, NodeKey: nodeKey, Hostinfo, Auth }));
  await answerTo(connection.post('/machine/map', { ...mapRequest(identity), Hostinfo, OmitPeers: true }));
}

/** Follows a map stream to its end. @returns how many messages came. @throws when it breaks. */
export async function followMap(
  connection: NodeConnection,
  identity: NodeIdentity,
  onFirst: () => void,
): Promise<number> {
  const stream = connection.post('/machine/map', { ...mapRequest(identity), Stream: true });
  let messages = 0;
  let missing = Buffer.alloc(0);
  await answerTo(stream, (chunk) => {
    missing = Buffer.concat([missing, chunk]);
    // A message is its length, four bytes, little-endian, and then as much.
    while (missing.length >= 4 && missing.length >= 4 + missing.readUInt32LE(0)) {
      missing = missing.subarray(4 + missing.readUInt32LE(0));
      if (++messages === 1) onFirst();
    }
  });
  if (!connection.isOpen) throw new Error('the connection ended');
  return messages;
}

function mapRequest({ nodeKey }: NodeIdentity): object {
  return { Version: CLIENT_VERSION, Compress: 'zstd', KeepAlive: true, NodeKey: nodeKey, Endpoints: [] };
}

/** Waits for an answer to end. @throws when it is not a 200, or breaks off. */
async function answerTo(stream: ClientHttp2Stream, onData: (chunk: Buffer) => void = () => {}): Promise<void> {
  let status: number | undefined;
  let hasEnded = false;
  await new Promise<void>((resolve, reject) => {
    stream.once('response', (headers) => {
      status = headers[':status'];
    });
    stream.on('data', onData);
    stream.once('end', () => {
      hasEnded = true;
    });
    stream.once('error', reject);
    stream.once('close', resolve);
  });
  if (status === undefined || !hasEnded) throw new Error('the request was not answered to the end');
  if (status !== 200) throw new Error(`the request was answered with ${status}`);
}
