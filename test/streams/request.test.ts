import { describe, expect, test } from 'vitest';
import { readRequest } from '../../src/streams/request.ts';

const CONTROL = 'tailscale-control-protocol';

/** What is read of a request with these header lines. */
function read(line: string, ...headers: readonly string[]) {
  const [method, url, version = '1.1'] = line.split(' ');
  const rawHeaders = headers.flatMap((each) => {
    const colon = each.indexOf(':');
    return [each.slice(0, colon), each.slice(colon + 1).trim()];
  });
  return readRequest({ method, url, httpVersion: version, rawHeaders });
}

/** Its stream's kind and handshake; what else it is where it is no upgrade. */
function asked(line: string, ...headers: readonly string[]) {
  const found = read(line, 'Host: h', 'Connection: upgrade', ...headers);
  return found.kind === 'upgrade' ? `${found.asked.streamKind} ${found.asked.handshake}` : found.kind;
}

const inHeader = (value: string): string => `X-Tailscale-Handshake: ${value}`;

describe('readRequest, as Headscale reads it', () => {
  test.each([
    ['/ts2021', 'control header'],
    ['/ts2021?X-Tailscale-Handshake=query', 'control header'],
    ['/ts2021?', 'control header'],
    ['http://h/ts2021', 'control header'],
    ['HTTP://H/ts2021?a', 'control header'],
    ['/derp', 'derp undefined'],
    ['/derp/probe', 'other undefined'],
    ['/ts2021x', 'other undefined'],
    ['/ts2021/', 'other undefined'],
    ['//ts2021', 'other undefined'],
    ['/TS2021', 'other undefined'],
    ['/ts2021#x', 'other undefined'],
    ['http://h?/ts2021', 'other undefined'],
    ['/%74s2021', 'refused'],
    ['http://h/ts202%31', 'refused'],
    ['/%64erp', 'refused'],
  ])('POST %s is %s', (url, wanted) => {
    expect(asked(`POST ${url}`, `Upgrade: ${CONTROL}`, inHeader('header'))).toBe(wanted);
  });

  test.each([
    [['Upgrade: websocket', `Upgrade: ${CONTROL}`], 'control query'],
    [[`Upgrade: ${CONTROL}`, 'Upgrade: websocket'], 'control header'],
    [['upgrade: WebSocket'], 'control query'],
    [[`UPGRADE: ${CONTROL.toUpperCase()}`], 'control header'],
    [[`Upgrade: websocket, ${CONTROL}`], 'plain'],
    [['Upgrade: derp'], 'control undefined'],
    [['Upgrade: h2c', 'Upgrade: websocket'], 'plain'],
    [[], 'plain'],
  ])('of %j only the first value counts: %s', (upgrades, wanted) => {
    const line = 'GET /ts2021?a=b&X-Tailscale-Handshake=query';
    expect(asked(line, ...upgrades, inHeader('header'))).toBe(wanted);
  });

  test.each([
    ['X-Tailscale-Handshake=a%2Bb%3D', 'a+b='],
    ['X%2DTailscale-Handshake=a', 'a'],
    ['X-Tailscale-Handshake=a+b', 'a b'],
    ['x=%ff&X-Tailscale-Handshake=a', 'a'],
    ['&&X-Tailscale-Handshake=a', 'a'],
    // With these, it closes the session.
    ['X-Tailscale-Handshake=a&b;c', undefined],
    ['X-Tailscale-Handshake=a&b=%zz', undefined],
    ['x-tailscale-handshake=a', undefined],
    ['X-Tailscale-Handshake=', undefined],
    ['', undefined],
  ])("a browser's handshake in %j is %s", (query, wanted) => {
    expect(asked(`GET /ts2021?${query}`, 'Upgrade: websocket')).toBe(`control ${wanted}`);
  });

  test('two handshakes get 400 if they differ; equal ones count as one', () => {
    const two = (one: string, other: string) => asked('POST /ts2021', `Upgrade: ${CONTROL}`, one, other);
    expect(two(inHeader('a'), inHeader('b'))).toBe('refused');
    expect(two(inHeader('a'), 'X-TAILSCALE-HANDSHAKE: a')).toBe('control a');
    expect(two(inHeader('a'), 'x-tailscale-handshake: b')).toBe('refused');
    expect(asked('POST /ts2021', `Upgrade: ${CONTROL}`, 'x-tailscale-Handshake: a')).toBe('control a');
    expect(asked('GET /ts2021?X-Tailscale-Handshake=a&X-Tailscale-Handshake=b', 'Upgrade: websocket')).toBe('refused');
  });

  test('an upgrade with a body is a plain request', () => {
    for (const body of ['Content-Length: 1', 'Transfer-Encoding: chunked']) {
      expect(asked('POST /ts2021', `Upgrade: ${CONTROL}`, body)).toBe('plain');
    }
    expect(asked('POST /ts2021', `Upgrade: ${CONTROL}`, 'Content-Length: 0')).toBe('control undefined');
  });
});

describe('readRequest', () => {
  test.each([
    ['GET /x', 'Host: a', 'Host: a'],
    ['GET /x', 'Host: a, b'],
    ['GET /x', 'Host: a/b'],
    ['GET /x', 'Host: a@b'],
    ['GET /x', 'Host: [::1'],
    ['GET /x', 'Host: a:b'],
    ['GET http://a/x', 'Host: b'],
    ['GET http://a@b/x', 'Host: b'],
    ['GET http://[/', 'Host: h'],
    ['GET http://:80/', 'Host: h'],
    ['GET ftp://h/x', 'Host: h'],
    ['GET http:/x', 'Host: h'],
    ['GET *', 'Host: h'],
    ['GET x', 'Host: h'],
    ['GET /x 2.0', 'Host: h'],
    ['POST /x 1.0', 'Transfer-Encoding: chunked'],
    ['POST /x', 'Host: h', 'Transfer-Encoding: ,chunked'],
    ['POST /x', 'Host: h', 'Transfer-Encoding: chunked, chunked'],
    ['POST /x', 'Host: h', 'Transfer-Encoding: gzip, chunked'],
    ['POST /x', 'Host: h', 'Transfer-Encoding: identity', 'Transfer-Encoding: chunked'],
    ['POST /x', 'Host: h', 'Transfer-Encoding: '],
    ['POST /x', 'Host: h', 'Content-Length: 010'],
    ['POST /x', 'Host: h', 'Content-Length: +1'],
    ['POST /x', 'Host: h', 'Content-Length: '],
  ])('refuses %s with %s %s', (line, ...headers) => {
    expect(read(line, ...headers).kind).toBe('refused');
  });

  test.each([
    ['GET /x?a=b#c', 'Host: h'],
    ['GET /x', 'Host: [2001:db8::1]:8080'],
    ['GET /x', 'Host: a_b.example:1'],
    ['GET /x', 'Host:'],
    ['GET http://a.example:80/x', 'Host: A.example:80'],
    ['OPTIONS *', 'Host: h'],
    ['POST /x', 'Host: h', 'Transfer-Encoding: Chunked'],
    ['POST /x', 'Host: h', 'Content-Length: 0'],
  ])('accepts %s with %s %s', (line, ...headers) => {
    expect(read(line, ...headers).kind).toBe('plain');
  });

  test('drops headers about the connection and those that Connection names, except those that frame the message', () => {
    expect(
      read(
        'POST /x',
        'Host: h',
        'Connection: close, X-One,x-two',
        'Connection: content-length, host',
        ...['X-One: 1', 'x-TWO: 2', 'X-Three: 3', 'Keep-Alive: 5', 'TE: trailers', 'Trailer: X', 'Upgrade: h2c'],
        ...['HTTP2-Settings: A', 'Proxy-Connection: x', 'Expect: 100-continue', 'Content-Length: 0'],
      ),
    ).toEqual({ kind: 'plain', headers: ['Host', 'h', 'X-Three', '3', 'Content-Length', '0'] });
  });

  test('gives a request without Host an empty one, because it is passed on as HTTP/1.1', () => {
    expect(read('GET /x 1.0')).toEqual({ kind: 'plain', headers: ['Host', ''] });
  });
});
