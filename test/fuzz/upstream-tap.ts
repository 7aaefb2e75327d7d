import assert from 'node:assert/strict';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';

/** Stands between a watchdog and its control server, and judges what it sends there. */
export interface Tap {
  readonly url: string;
  /** How many requests have passed. */
  readonly requests: number;
  /** What was wrong with what passed; none is right. */
  readonly complaints: readonly string[];
  close(): Promise<void>;
}

export async function startTap(target: URL): Promise<Tap> {
  const complaints: string[] = [];
  let requests = 0;
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname);
    const sent: Buffer[] = [];
    let switched = false;
    client.on('data', (chunk: Buffer) => void (switched || sent.push(chunk)));
    upstream.once('data', (chunk: Buffer) => {
      switched = /^HTTP\/1\.1 101 /.test(chunk.toString('latin1'));
    });
    client.pipe(upstream);
    upstream.pipe(client);
    for (const [one, other] of [[client, upstream] as const, [upstream, client] as const]) {
      one.on('error', () => {}).on('close', () => other.destroy());
    }
    client.once('close', () => {
      const bytes = Buffer.concat(sent).toString('latin1');
      try {
        requests += requestsIn(bytes, switched);
      } catch (error) {
        complaints.push(`${(error as Error).message}: ${JSON.stringify(bytes)}`);
      }
    });
  });
  const port = await listening(server);
  return {
    url: `http://127.0.0.1:${port}`,
    complaints,
    get requests() {
      return requests;
    },
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

function listening(server: Server): Promise<number> {
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
  });
}

/**
 * Reads requests more strictly than any server does, so that no two servers could read them differently; each must bear
 * what the watchdog says of its client, once.
 *
 * @returns how many there are; the last may be a part of one. @throws where something else stands there.
 */
export function requestsIn(bytes: string, switched: boolean): number {
  let rest = bytes;
  let count = 0;
  while (rest !== '') {
    const end = rest.indexOf('\r\n\r\n');
    // The client left in the middle of a head: ours are written whole, so there is none.
    assert.notEqual(end, -1, 'a part of a head');
    const [line = '', ...headers] = rest.slice(0, end).split('\r\n');
    rest = rest.slice(end + 4);
    count += 1;
    assert.ok(/^[A-Z-]+ [^ ]+ HTTP\/1\.1$/.test(line) && !hasControl(line), 'a request line that can be misread');
    for (const each of headers) {
      const isPlain = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+:/.test(each) && !hasControl(each.replaceAll('\t', ' '));
      assert.ok(isPlain, 'a header that can be misread');
    }
    const valuesOf = (name: string): string[] =>
      headers
        .filter((each) => each.toLowerCase().startsWith(`${name}:`))
        .map((each) => each.slice(name.length + 1).trim());
    // The watchdog's own questions are about no client.
    if (!/^GET \/(key\?v=142|version|health) /.test(line)) {
      for (const name of ['x-forwarded-for', 'x-real-ip']) assert.equal(valuesOf(name).length, 1, name);
    }
    if (valuesOf('upgrade').length > 0) {
      if (!switched) assert.equal(rest, '', 'something behind an upgrade without a 101');
      return count;
    }
    const body = bodyOf(rest, valuesOf('content-length'), valuesOf('transfer-encoding'));
    if (body === undefined) return count;
    rest = rest.slice(body);
  }
  return count;
}

function hasControl(text: string): boolean {
  return [...text].some((character) => character < ' ' || character === '\x7f');
}

/** How long a body is; undefined where it is not whole. */
function bodyOf(rest: string, lengths: readonly string[], encodings: readonly string[]): number | undefined {
  assert.ok(lengths.length + encodings.length <= 1, 'more than one length');
  if (encodings.length === 0) {
    const [length = '0'] = lengths;
    assert.match(length, /^\d{1,15}$/, 'a length that is no number');
    return rest.length < Number(length) ? undefined : Number(length);
  }
  assert.match(encodings[0] ?? '', /^chunked$/i, 'an encoding that can be misread');
  for (let at = 0; ; ) {
    const [size, digits] = /^([0-9a-fA-F]{1,8})\r\n/.exec(rest.slice(at)) ?? [];
    if (size === undefined || digits === undefined) {
      assert.match(rest.slice(at), /^[0-9a-fA-F]{0,8}\r?$/, 'a chunk that can be misread');
      return undefined;
    }
    at += size.length + Number.parseInt(digits, 16);
    if (rest.length < at + 2) return undefined;
    assert.equal(rest.slice(at, at + 2), '\r\n', 'a chunk without an end');
    at += 2;
    if (digits === '0') return at;
  }
}
