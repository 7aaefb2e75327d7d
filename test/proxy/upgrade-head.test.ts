import { describe, expect, test } from 'vitest';
import { withUpgrade } from '../../src/proxy/upgrade-head.ts';

const START = 'POST /ts2021 HTTP/1.1\r\nHost: h\r\n';
const given = (text: string): string => {
  const found = withUpgrade(Buffer.from(text, 'latin1'));
  return found.kind === 'done' ? found.rest.toString('latin1') : found.kind;
};

describe('withUpgrade', () => {
  test.each(['tailscale-control-protocol', 'WebSocket', 'derp'])(
    'names the upgrade to %s, and keeps all else',
    (protocol) => {
      const asked = `${START}X-A: \xe9\r\nUpgrade: ${protocol}\r\nCONNECTION: keep-alive\r\nContent-Length: 0\r\n\r\nbehind it`;
      expect(given(asked)).toBe(
        `${START}X-A: \xe9\r\nUpgrade: ${protocol}\r\nContent-Length: 0\r\nConnection: upgrade\r\n\r\nbehind it`,
      );
    },
  );

  test('also where there is no Connection at all', () => {
    expect(given(`${START}Upgrade: derp\r\n\r\n`)).toBe(`${START}Upgrade: derp\r\nConnection: upgrade\r\n\r\n`);
  });

  test.each([
    `${START}Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n`,
    `${START}Upgrade: h2c\r\nConnection: keep-alive\r\n\r\n`,
    `${START}Upgrade: websocket, derp\r\nConnection: keep-alive\r\n\r\n`,
    `${START}Connection: keep-alive\r\n\r\nUpgrade: derp\r\n\r\n`,
    `${START}Upgrade: derp\r\nConnection: a\r\n b\r\n\r\n`,
    `POST /?Upgrade:derp HTTP/1.1\r\n\r\n`,
  ])('leaves as it is %j', (text) => {
    expect(given(text)).toBe(text);
  });

  test('waits for the whole head, up to 16 KiB of it', () => {
    const head = `${START}Upgrade: derp\r\n\r\n`;
    for (let length = 1; length < head.length; length++) expect(given(head.slice(0, length))).toBe('more');
    const endless = `${START}X: ${'x'.repeat(20_000)}`;
    expect(given(endless)).toBe(endless);
  });
});
