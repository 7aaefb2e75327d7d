import { describe, expect, test } from 'vitest';
import { withUpgrade } from '../../src/proxy/first-bytes.ts';

const LINE = 'POST /ts2021 HTTP/1.1\r\n';
const START = `${LINE}Host: h\r\n`;
const given = (text: string): string => {
  const found = withUpgrade(Buffer.from(text, 'latin1'));
  return found.kind === 'done' ? found.rest.toString('latin1') : found.kind;
};

describe('withUpgrade', () => {
  test.each([
    ...['tailscale-control-protocol', 'WebSocket', 'derp', '\tderp \t'].map((protocol) => `Upgrade: ${protocol}`),
    'CONNECTION: keep-alive\r\nupgrade:derp',
    'Connection: x-upgrade, upgrades\r\nUpgrade: derp',
    // Of two, Headscale takes the first.
    'Upgrade: derp\r\nUpgrade: h2c',
  ])('adds Connection: upgrade to %j, and changes nothing else', (headers) => {
    const rest = `Host: h\r\nX-A: \xe9\r\n${headers}\r\nContent-Length: 0\r\n\r\nbehind it`;
    expect(given(LINE + rest)).toBe(`${LINE}Connection: upgrade\r\n${rest}`);
  });

  test.each([
    'Upgrade: h2c\r\nConnection: upgrade',
    'Upgrade: h2c\r\nupgrade:derp',
    'Upgrade: websocket, derp',
    'Upgrade: derp\r\nContent-Length: 1',
    'Upgrade: derp\r\nContent-Length: 00',
    'Upgrade: derp\r\nTransfer-Encoding: chunked',
  ])('removes the Upgrade of %j, and changes nothing else', (headers) => {
    const others = headers
      .split('\r\n')
      .filter((line) => !/^upgrade:/i.test(line))
      .map((line) => `${line}\r\n`)
      .join('');
    expect(given(`${START}${headers}\r\n\r\nUpgrade: derp\r\n\r\n`)).toBe(`${START}${others}\r\nUpgrade: derp\r\n\r\n`);
  });

  test.each([
    `${START}Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n`,
    `${START}Connection: Upgrade,close\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n`,
    `${START}Connection: keep-alive\r\n\r\nUpgrade: derp\r\n\r\n`,
    `POST /?Upgrade:derp HTTP/1.1\r\n\r\n`,
  ])('does not change %j', (text) => {
    expect(given(text)).toBe(text);
  });

  test('waits for the whole head, up to 16 KiB', () => {
    const head = `${START}Upgrade: derp\r\n\r\n`;
    for (let length = 1; length < head.length; length++) expect(given(head.slice(0, length))).toBe('more');
    const endless = `${START}X: ${'x'.repeat(20_000)}`;
    expect(given(endless)).toBe(endless);
  });
});
