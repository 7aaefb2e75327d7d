import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { Harness } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

describe('a WebSocket', () => {
  test('passes messages of every size in both directions, and closes with code and reason', async () => {
    const echo = new WebSocketServer({
      host: '127.0.0.1',
      port: 0,
      handleProtocols: () => 'tailscale-control-protocol',
    });
    await new Promise((resolve) => echo.once('listening', resolve));
    harness.defer(() => new Promise((resolve) => echo.close(resolve)));
    const closed = new Promise<readonly [number, string]>((resolve) => {
      echo.on('connection', (socket) => {
        socket.on('message', (data) => socket.send(data));
        socket.on('close', (code, reason) => resolve([code, reason.toString()]));
      });
    });
    const { port, events } = await harness.watchdog(`http://127.0.0.1:${(echo.address() as AddressInfo).port}`);
    const client = new WebSocket(
      `ws://127.0.0.1:${port}/ts2021?X-Tailscale-Handshake=AAAA`,
      'tailscale-control-protocol',
    );
    await new Promise((resolve) => client.once('open', resolve));
    expect(client.protocol).toBe('tailscale-control-protocol');
    for (const length of [0, 1, 126, 65_536, 1_000_000]) {
      const sent = Buffer.alloc(length, length % 251);
      const echoed = new Promise<Buffer>((resolve) => client.once('message', (data) => resolve(data as Buffer)));
      client.send(sent);
      expect((await echoed).equals(sent), `${length} bytes`).toBe(true);
    }
    client.close(4001, 'enough');
    expect(await closed).toEqual([4001, 'enough']);
    expect(events.filter(({ kind }) => kind === 'stream_opened')).toMatchObject([{ stream: { kind: 'control' } }]);
  });
});
