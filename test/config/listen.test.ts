import { describe, expect, test } from 'vitest';
import { formatListen } from '../../src/config/listen.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/types.ts';
import { UsageError } from '../../src/lib/errors.ts';

function load(flags: Record<string, unknown>, text?: string): Config {
  return loadConfig(flags, text === undefined ? undefined : { path: 'watchdog.yaml', text });
}

/** What an operator reads, a problem a line. */
function told(flags: Record<string, unknown>, text?: string): string {
  try {
    load(flags, text);
  } catch (error) {
    if (error instanceof UsageError) return error.problems.join('\n');
    throw error;
  }
  return '';
}

const PLAIN = { tls: undefined, redirect: false, proxyProtocol: false };
const TLS = { certFile: '/c.pem', keyFile: '/k.pem' };

describe('listen', () => {
  test.each([
    [':1', { host: '::', port: 1, ...PLAIN }],
    ['http://127.0.0.1:1', { host: '127.0.0.1', port: 1, ...PLAIN }],
    ['http://127.0.0.1', { host: '127.0.0.1', port: 80, ...PLAIN }],
    ['http://:1/?redirect=true', { host: '::', port: 1, ...PLAIN, redirect: true }],
    ['http://[::1]:1?redirect=false&proxy-protocol=true', { host: '::1', port: 1, ...PLAIN, proxyProtocol: true }],
    ['https://0.0.0.0?cert=/c.pem&key=/k.pem', { host: '0.0.0.0', port: 443, ...PLAIN, tls: TLS }],
    [
      'https://[::]?key=/k=2.pem&cert=/c+1.pem',
      {
        ...{ host: '::', port: 443, ...PLAIN },
        tls: { certFile: '/c+1.pem', keyFile: '/k=2.pem' },
      },
    ],
  ])('%s', (text, expected) => {
    const flags = { trustedProxies: '10.0.0.1' };
    expect(load({ ...flags, listen: text }).listen).toEqual([expected]);
    expect(load({ ...flags, listen: [text] }).listen).toEqual([expected]);
    expect(load(flags, `listen: "${text}"`).listen).toEqual([expected]);
    expect(load(flags, `listen: ["${text}"]`).listen).toEqual([expected]);
  });

  test('reads several addresses, in the file also as mappings, and formats them as an operator may write them', () => {
    const { listen } = load(
      {},
      `trusted-proxies: 10.0.0.0/8
listen:
  - 127.0.0.1:1
  - { address: "[::1]:1", redirect: true }
  - address: :443
    cert: /c.pem
    key: /k.pem
    proxy-protocol: true
`,
    );
    expect(listen).toEqual([
      { host: '127.0.0.1', port: 1, ...PLAIN },
      { host: '::1', port: 1, ...PLAIN, redirect: true },
      { host: '::', port: 443, tls: TLS, redirect: false, proxyProtocol: true },
    ]);
    const texts = listen.map(formatListen);
    expect(texts).toEqual([
      '127.0.0.1:1',
      'http://[::1]:1?redirect=true',
      'https://[::]:443?cert=/c.pem&key=/k.pem&proxy-protocol=true',
    ]);
    expect(load({ listen: texts, trustedProxies: '10.0.0.1' }).listen).toEqual(listen);
  });

  test('the addresses of the flags replace those of the file', () => {
    const { listen, trustedProxies } = load(
      { listen: ':1', trustedProxies: '10.0.0.1' },
      'listen: [":2", ":3"]\ntrusted-proxies: ["::1"]',
    );
    expect(listen.map(({ port }) => port)).toEqual([1]);
    expect(trustedProxies).toEqual(['10.0.0.1']);
  });

  test('reports all mistakes in flags at once', () => {
    const listen = [
      'x',
      'https://:1',
      'https://:2?cert=/c',
      'http://:3?cert=/c&key=/k',
      'https://:4?cert=/c&key=/k&redirect=true',
      'http://:5?redirect=yes',
      'http://:6?redirct=true',
      'http://:7?proxy-protocol=true',
      'ftp://:8',
      'https://:9?cert=&key=/k',
    ];
    expect(told({ listen })).toMatchInlineSnapshot(`
      "--listen: 'x' is not HOST:PORT: write 0.0.0.0:8081
      --listen: 'https://:1' has no certificate: write https://HOST:PORT?cert=FILE&key=FILE
      --listen: 'https://:2' has a certificate without its key: add key
      --listen: 'http://:3' has a certificate, which needs https://: write https://, or remove the certificate
      --listen: 'https://:4' already speaks HTTPS, where redirect sends browsers: remove redirect
      --listen: 'yes' cannot be used: write true or false
      --listen: 'redirct' is not an option here: write one of cert, key, redirect, proxy-protocol
      --listen: 'ftp://:8' is not HOST:PORT: write 0.0.0.0:8081
      --listen: needs the path of a file with a certificate
      --listen: 'https://:9' has a key without its certificate: add cert"
    `);
    expect(told({ trustedProxies: ['none', '10.0.0.1'] })).toBe(
      "--trusted-proxies: 'none' cannot be combined with addresses: remove it, or the addresses",
    );
    expect(load({}, 'trusted-proxies: none').trustedProxies).toEqual([]);
    // This machine's own proxies are trusted, unless nobody is.
    const proxied = { listen: 'http://:1?proxy-protocol=true' };
    expect(load(proxied).trustedProxies).toEqual(['127.0.0.0/8', '::1']);
    expect(told({ ...proxied, trustedProxies: 'none' })).toBe(
      '--listen: proxy-protocol needs trusted-proxies, which says none: name your proxies there, or remove proxy-protocol',
    );
  });

  test('an empty list is a mistake, because nobody could reach the watchdog', () => {
    expect(told({}, 'listen: []')).toBe(
      'watchdog.yaml:1:9: listen: the list is empty: write an address, or remove the line',
    );
  });

  test('reports each mistake in the file with its place', () => {
    const text = `listen:
  - { address: x, cert: /c }
  - { adress: ":1" }
  - { address: ":2", redirect: "true", key: 3 }
  - { cert: /c, key: /k }
  - [":3"]
  -
  - 8081
  - { address: ":4", proxy-protocol: true }
trusted-proxies:
  - 10.0.0.0/33
  - { a: 1 }
  - 0.0.0.0/0
  - localhost
`;
    expect(told({}, text)).toMatchInlineSnapshot(`
      "watchdog.yaml:2:5: listen: has a certificate without its key: add key
      watchdog.yaml:2:16: listen: 'x' is not HOST:PORT: write 0.0.0.0:8081
      watchdog.yaml:3:7: 'adress' is not a setting here: did you mean address?
      watchdog.yaml:4:32: listen: 'true' is text: write true without quotes
      watchdog.yaml:4:45: listen: '3' is a number to YAML: put it in quotes, '3'
      watchdog.yaml:5:5: listen: has no address: add address: HOST:PORT
      watchdog.yaml:6:5: listen: a list cannot be used here: write an address, or a list of them
      watchdog.yaml:7:4: listen: has no value: write an address, or a list of them, or remove the line
      watchdog.yaml:8:5: listen: '8081' is not HOST:PORT: write 0.0.0.0:8081
      watchdog.yaml:9:5: listen: proxy-protocol needs trusted-proxies, which says none: name your proxies there, or remove proxy-protocol
      watchdog.yaml:11:5: trusted-proxies: '10.0.0.0/33' is not an address or a range: write 127.0.0.1, 10.0.0.0/8 or fd00::/8, or none
      watchdog.yaml:12:5: trusted-proxies: a mapping cannot be used here: write a single value, or a list of them
      watchdog.yaml:13:5: trusted-proxies: '0.0.0.0/0' is every address there is, so anybody could claim to be any node: write your proxies' own addresses
      watchdog.yaml:14:5: trusted-proxies: 'localhost' is not an address or a range: write 127.0.0.1, 10.0.0.0/8 or fd00::/8, or none"
    `);
    expect(told({}, 'listen: [":1", "127.0.0.1:1"]\nadmin: "[::1]:1"\n')).toMatchInlineSnapshot(`
      "watchdog.yaml:1:16: listen: the same port as listen, 1: choose another
      watchdog.yaml:2:8: admin: the same port as listen, 1: choose another"
    `);
    expect(told({}, 'listen:\n')).toMatchInlineSnapshot(
      `"watchdog.yaml:1:1: listen: has no value: write an address, or a list of them, or remove the line"`,
    );
  });

  test('addresses that do not collide are no mistake', () => {
    expect(told({ listen: ['127.0.0.1:1', '[::1]:1', '192.0.2.1:1'], admin: '127.0.0.2:1' })).toBe('');
    expect(told({ listen: ['127.0.0.1:0', '127.0.0.1:0'] })).toBe('');
  });

  test('never shows a private key that stands in place of a path', () => {
    const secret = `privkey:${'5e'.repeat(32)}`;
    expect(told({ listen: `https://:1?cert=/c&key=${secret}` })).toMatch(/this is a key/);
    expect(told({ listen: `https://:1?cert=/c&key=${secret}` })).not.toContain('5e5e');
  });
});
