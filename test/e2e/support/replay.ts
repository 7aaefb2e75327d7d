import { randomBytes } from 'node:crypto';
import type { Lab } from './lab.ts';
import { until, within } from './wait.ts';
import type { Watchdog } from './watchdog.ts';

const RECORD_TYPE = 4;
const GARBAGE_LENGTH = 64;

/** Somebody who has no key, and sends a handshake again that he saw. */
export interface Replayer {
  /** A whole record that nobody can have sealed. */
  sendGarbage(): void;
  /** Whether the other side ends it within `ms`. */
  endedWithin(ms: number): Promise<boolean>;
  leave(): void;
}

/** Resolves when the session is open: the handshake itself is valid. */
export async function replay(lab: Lab, watchdog: Watchdog, handshake: string): Promise<Replayer> {
  const { host } = new URL(watchdog.url);
  const socket = lab.reach.connect(host);
  let received = '';
  socket.on('error', () => {});
  socket.on('data', (chunk: Buffer) => {
    received += chunk.toString('latin1');
  });
  const ended = new Promise((resolve) => socket.once('end', resolve).once('close', resolve));
  const head = ['POST /ts2021 HTTP/1.1', `Host: ${host}`, 'Connection: upgrade', 'Upgrade: tailscale-control-protocol'];
  socket.write([...head, `X-Tailscale-Handshake: ${handshake}`, 'Content-Length: 0', '', ''].join('\r\n'));
  await until('an open session', { timeoutMs: 5_000 }, () => received.startsWith('HTTP/1.1 101 ') || undefined);
  return {
    sendGarbage() {
      const header = Buffer.of(RECORD_TYPE, 0, GARBAGE_LENGTH);
      socket.write(Buffer.concat([header, randomBytes(GARBAGE_LENGTH)]));
    },
    endedWithin: (ms) => within(ms, ended),
    leave: () => socket.destroy(),
  };
}
