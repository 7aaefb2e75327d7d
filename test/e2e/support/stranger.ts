import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import {
  beginSession,
  CLIENT_VERSION,
  followMap,
  logIn,
  type NodeConnection,
  newNodeIdentity,
} from '../../../src/demo/node-connection.ts';
import { startHandshake } from '../../../src/demo/noise-handshake.ts';
import { WebSocketPayload } from '../../../src/streams/first-record.ts';
import type { Lab } from './lab.ts';
import { until } from './wait.ts';
import type { Watchdog } from './watchdog.ts';

/** A request for a control stream that has two handshakes, each in one of the places where a server may look. */
export interface TwoHandshakes {
  /** The values of its Upgrade headers, in their order. Headscale takes the first. */
  readonly upgrades: readonly ('websocket' | 'tailscale-control-protocol')[];
  /** Where the stranger's own handshake is; the captured one is in the other place. */
  readonly own: 'header' | 'query';
}

export interface Stranger {
  /** As Headscale and the watchdog show it. */
  readonly machineKey: string;
  readonly connection: NodeConnection;
}

/**
 * A node of its own that also shows a handshake which it has captured. It logs in and gets a map.
 *
 * @throws when Headscale answers any handshake but its own.
 */
export async function logInWithTwo(
  lab: Lab,
  watchdog: Watchdog,
  name: string,
  { upgrades, own }: TwoHandshakes,
  { captured, authKey }: { readonly captured: string; readonly authKey: string },
): Promise<Stranger> {
  const url = new URL(watchdog.url);
  const identity = newNodeIdentity(name, authKey);
  const { body } = await lab.reach.get(url.host, `/key?v=${CLIENT_VERSION}`);
  const [, serverKey = ''] = /"publicKey":"mkey:([0-9a-f]{64})"/.exec(body) ?? [];
  const handshake = startHandshake(identity.machine, Buffer.from(serverKey, 'hex'), CLIENT_VERSION);
  const ownValue = handshake.initiation.toString('base64');
  const [inHeader, inQuery] = own === 'header' ? [ownValue, captured] : [captured, ownValue];
  const isWebSocket = upgrades[0] === 'websocket';
  const socket = lab.reach.connect(url.host);
  socket.on('error', () => {});
  socket.write(
    [
      `${isWebSocket ? 'GET' : 'POST'} /ts2021?X-Tailscale-Handshake=${encodeURIComponent(inQuery)} HTTP/1.1`,
      `Host: ${url.host}`,
      'Connection: upgrade',
      ...upgrades.map((upgrade) => `Upgrade: ${upgrade}`),
      `X-Tailscale-Handshake: ${inHeader}`,
      ...['Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='],
      ...['Sec-WebSocket-Protocol: tailscale-control-protocol', ...(isWebSocket ? [] : ['Content-Length: 0']), '', ''],
    ].join('\r\n'),
  );
  await switched(socket);
  const session = isWebSocket ? insideWebSocket(socket) : socket;
  const connection = await beginSession(session, handshake, url, 0);
  await logIn(connection, identity);
  await new Promise<void>((resolve, reject) => {
    followMap(connection, identity, resolve).catch(reject);
  });
  return { machineKey: `mkey:${identity.machine.publicRaw.toString('hex')}`, connection };
}

/** Resolves when the 101 has come; what follows it stays in the socket. */
async function switched(socket: Socket): Promise<void> {
  let head = Buffer.alloc(0);
  await until('an open session', { timeoutMs: 5_000, everyMs: 10 }, () => {
    head = Buffer.concat([head, (socket.read() as Buffer | null) ?? Buffer.alloc(0)]);
    return head.includes('\r\n\r\n') || undefined;
  });
  const text = head.toString('latin1');
  if (!text.startsWith('HTTP/1.1 101 ')) throw new Error(`no session: ${text}`);
  const rest = head.subarray(head.indexOf('\r\n\r\n') + 4);
  if (rest.length > 0) socket.unshift(rest);
}

const LONGEST_FRAME = 4096;

/** What binary messages carry. */
function insideWebSocket(socket: Socket): Duplex {
  const payload = new WebSocketPayload();
  const inside = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      for (let at = 0; at < chunk.length; at += LONGEST_FRAME) {
        const part = chunk.subarray(at, at + LONGEST_FRAME);
        // Binary, whole, with a mask of zeros.
        const head = Buffer.from([0x82, 0x80 | 126, 0, 0, 0, 0, 0, 0]);
        head.writeUInt16BE(part.length, 2);
        socket.write(
          part.length < 126
            ? Buffer.concat([Buffer.from([0x82, 0x80 | part.length, 0, 0, 0, 0]), part])
            : Buffer.concat([head, part]),
        );
      }
      done();
    },
    final(done) {
      socket.end(done);
    },
    destroy(error, done) {
      socket.destroy();
      done(error);
    },
  });
  socket.on('data', (chunk: Buffer) => {
    const carried = payload.feed(chunk);
    if (carried.length > 0) inside.push(carried);
  });
  socket.on('end', () => inside.push(null)).on('close', () => inside.destroy());
  return inside;
}
