import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import fc from 'fast-check';
import { loadConfig } from '../../src/config/load.ts';
import { createListener } from '../../src/proxy/listener.ts';
import { trustOf } from '../../src/proxy/trusted-proxies.ts';
import type { AskedUpgrade } from '../../src/streams/request.ts';
import { mutated, type Target } from './target.ts';

/** What Go and Headscale find in a head. */
interface Found {
  readonly ok: boolean;
  readonly isControl: boolean;
  readonly protocol: string;
  readonly handshake: string;
}

/** What the listener made of a head: what it has read, and the head that Headscale is shown. */
interface Passed {
  readonly asked: AskedUpgrade | undefined;
  readonly shown: string;
}

const CONTROL = 'tailscale-control-protocol';
const NAME = 'X-Tailscale-Handshake';

/** Where everything is strange at once, only the first of it is looked at. */
function mostly<T>(usual: fc.Arbitrary<T>, strange: fc.Arbitrary<T>): fc.Arbitrary<T> {
  return fc.oneof({ weight: 6, arbitrary: usual }, { weight: 1, arbitrary: strange });
}

const target = fc
  .tuple(
    mostly(fc.constantFrom('', '', 'http://h', 'HTTP://h'), fc.constantFrom('https://h:80', 'http://other', 'h')),
    mostly(
      fc.constant('/ts2021'),
      fc.constantFrom('/%74s2021', '//ts2021', '/ts2021/', '/x/../ts2021', '/TS2021', '/derp', ''),
    ),
    fc.array(
      fc.constantFrom(
        `${NAME}=query`,
        `${NAME}=other`,
        'X%2DTailscale-Handshake=encoded',
        `${NAME.toLowerCase()}=cased`,
        `${NAME}=a%2Bb%3d+`,
        `${NAME}`,
        `${NAME}=`,
        'a=b',
        'a;b',
        '%zz',
        '%ff=%00',
        '',
        '#',
        '?',
      ),
      { maxLength: 3 },
    ),
  )
  .map(([before, path, query]) => `${before}${path}${query.length === 0 ? '' : `?${query.join('&')}`}`);

const header = fc.oneof(
  fc
    .tuple(
      fc.constantFrom('Upgrade', 'upgrade', 'UPGRADE'),
      mostly(
        fc.constantFrom(CONTROL, 'websocket', 'WebSocket', `\t${CONTROL} `),
        fc.constantFrom('derp', 'h2c', `${CONTROL}, websocket`, `websocket,${CONTROL}`, ''),
      ),
    )
    .map((of) => of.join(': ')),
  fc
    .tuple(
      fc.constantFrom(NAME, NAME.toLowerCase(), NAME.toUpperCase()),
      mostly(fc.constantFrom('header', ' header\t'), fc.constantFrom('other', '')),
    )
    .map((of) => of.join(':')),
  mostly(
    fc.constantFrom('Connection: upgrade', 'Connection: keep-alive', 'Connection: close', 'X: y', 'Content-Length: 0'),
    fc.constantFrom(
      `Connection: upgrade, ${NAME}`,
      'Host: other',
      ' folded',
      'Content-Length: 00',
      'Content-Length: 3',
    ),
  ),
);

const head = fc
  .tuple(
    fc.constantFrom('POST', 'GET', 'OPTIONS'),
    target,
    mostly(fc.constant('1.1'), fc.constantFrom('1.0', '2.0')),
    fc.array(header, { maxLength: 6 }),
  )
  .map(([method, url, version, headers]) =>
    Buffer.from(`${[`${method} ${url} HTTP/${version}`, 'Host: h', ...headers].join('\r\n')}\r\n\r\n`, 'latin1'),
  );

/** The program in `go/read-heads`. */
class GoReader {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #folder: string;

  constructor() {
    this.#folder = mkdtempSync(join(tmpdir(), 'read-heads-'));
    const program = join(this.#folder, 'read-heads');
    execFileSync('go', ['build', '-o', program, './read-heads'], { cwd: join(import.meta.dirname, 'go') });
    this.#child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  }

  async read(bytes: Buffer): Promise<Found> {
    this.#child.stdin?.write(`${bytes.toString('base64')}\n`);
    return JSON.parse((await this.#lines.next()).value as string) as Found;
  }

  async stop(): Promise<void> {
    const closed = once(this.#child, 'close');
    this.#child.stdin?.end();
    await closed;
    rmSync(this.#folder, { recursive: true });
  }
}

/** A listener that passes nothing on: it writes down what it would. */
async function listenerTo(passed: (head: Passed) => void) {
  const shownOf = ({ method, url }: Pick<IncomingMessage, 'method' | 'url'>, rawHeaders: readonly string[]): string => {
    let text = `${method} ${url} HTTP/1.1\r\n`;
    for (let i = 0; i + 1 < rawHeaders.length; i += 2) text += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`;
    return `${text}\r\n`;
  };
  const config = loadConfig({ upstream: 'http://127.0.0.1:1', listen: '127.0.0.1:0', admin: '127.0.0.1:0' });
  const { server } = createListener(config.listen[0] as (typeof config.listen)[0], undefined, config.limits, {
    plain: (request: IncomingMessage, response: ServerResponse, rawHeaders: readonly string[]) => {
      passed({ asked: undefined, shown: shownOf(request, rawHeaders) });
      response.shouldKeepAlive = false;
      response.end();
    },
    upgrade: ({ request, asked, client, rawHeaders }) => {
      passed({ asked, shown: shownOf(request, rawHeaders) });
      client.end();
      client.resume();
    },
    trust: () => trustOf([]),
    pages: { httpsPort: 443, webroot: () => undefined },
    refused: () => {},
    connected: () => () => {},
    keepAlive: () => {},
    requested: () => {},
    tooLarge: () => {},
    limits: () => config.limits,
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, port: (server.address() as AddressInfo).port };
}

async function send(port: number, bytes: Buffer): Promise<void> {
  const socket = connect({ port, host: '127.0.0.1' });
  socket.on('error', () => {}).resume();
  socket.end(bytes);
  await once(socket, 'close');
}

async function compare(cases: number, seed: number): Promise<number> {
  const go = new GoReader();
  let passed: Passed | undefined;
  const { server, port } = await listenerTo((each) => {
    passed ??= each;
  });
  let upgrades = 0;
  const holds = fc.asyncProperty(fc.oneof({ weight: 4, arbitrary: head }, mutated(head)), async (bytes) => {
    passed = undefined;
    await send(port, bytes);
    // It is refused: there is nothing to read differently.
    if (passed === undefined) return;
    const { asked, shown } = passed as Passed;
    const [sent, seen] = [await go.read(bytes), await go.read(Buffer.from(shown, 'latin1'))];
    const ours = asked?.streamKind === 'control' ? (asked.handshake ?? '') : '';
    assert.equal(ours, seen.handshake, `the handshake in what Headscale is shown: ${JSON.stringify(shown)}`);
    if (asked !== undefined)
      assert.deepEqual([asked.streamKind === 'control', asked.protocol], [seen.isControl, seen.protocol]);
    else assert.equal(seen.protocol, '', 'a plain request is none that Headscale takes for an upgrade');
    if (ours === '') return;
    upgrades += 1;
    assert.equal(ours, sent.handshake, 'the handshake in what the client sent');
  });
  try {
    await fc.assert(holds, { numRuns: cases, seed });
    process.stdout.write(`  of ${cases} heads, ${upgrades} have a handshake\n`);
    return cases;
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await go.stop();
  }
}

/** The listener before Go's own parser: both read the same handshake, in what was sent and in what goes on. */
export const goHeads: Target = { name: 'heads as Go reads them', share: 0.05, run: compare };
