import { describe, expect, test } from 'vitest';
import type { NotifyFormat } from '../../src/config/types.ts';
import type { NodeInfo } from '../../src/identity/node-info.ts';
import { type Message, messagesFor, outgoing, signature } from '../../src/notify/messages.ts';
import { keyOf, nodeOf } from './bench.ts';

const AT = new Date('2026-11-27T06:00:00Z');
const NOW = new Date('2026-11-27T06:00:05.900Z');
const SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;

function offline(name = 'router', more: Partial<NodeInfo> = {}): Message {
  const change = { type: 'node.offline', machineKey: keyOf(1), says: 'is offline' } as const;
  const [message] = messagesFor([change], AT, () => nodeOf(1, { name, ...more }));
  if (message === undefined) throw new Error('there is no message');
  return message;
}

const sent = (format: NotifyFormat, message: Message, secret?: string, url = 'https://r.example/path') =>
  outgoing({ format, url: new URL(url) }, secret, message, NOW);

describe('Standard Webhooks', () => {
  test('signs as the vector of its reference libraries does', () => {
    const [id, timestamp, body] = ['msg_p5jXN8AQM9LWM0D4loKWxJek', '1614265330', '{"test": 2432232314}'];
    expect(signature('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', id, timestamp, body)).toBe(
      'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    );
  });

  test('has the time of the event in the body, and the time of the attempt in the header', () => {
    const message = offline();
    const { headers, body } = sent('standard', message, SECRET);
    expect(JSON.parse(body)).toEqual({
      type: 'node.offline',
      timestamp: '2026-11-27T06:00:00.000Z',
      data: {
        node: { machineKey: `mkey:${keyOf(1)}`, id: '1', name: 'router', user: 'alice' },
        text: 'router is offline.',
      },
    });
    expect(headers).toEqual({
      'content-type': 'application/json',
      'webhook-id': message.id,
      'webhook-timestamp': '1795759205',
      'webhook-signature': signature(SECRET, message.id, '1795759205', body),
    });
    expect(sent('standard', message).headers).not.toHaveProperty('webhook-signature');
  });
});

describe('the other formats', () => {
  test('what arrives late says when it was written, because a receiver shows when it has come', () => {
    const late = new Date(AT.getTime() + 16 * 60_000);
    const bodyOf = (format: NotifyFormat, now: Date): string =>
      outgoing({ format, url: new URL('https://r.example/path') }, undefined, offline(), now).body;
    for (const format of ['ntfy', 'gotify', 'slack', 'discord', 'text'] as const) {
      expect(bodyOf(format, late)).toContain('At 06:00 UTC on 2026-11-27: router is offline.');
      expect(bodyOf(format, NOW)).not.toContain('UTC');
    }
    // This one has a timestamp.
    expect(bodyOf('standard', late)).toContain('"text":"router is offline."');
  });

  test('ntfy: title, priority and tags are headers, in ASCII', () => {
    const { headers, body } = sent('ntfy', offline(), 'tk_secret');
    expect(body).toBe('router is offline.');
    expect(headers).toMatchObject({ title: 'Node offline: router', priority: '4', tags: 'red_circle' });
    expect(headers.authorization).toBe('Bearer tk_secret');
    const { title } = sent('ntfy', offline('кухня')).headers;
    expect(title).toMatch(/^=\?UTF-8\?B\?[\w+/=]+\?=$/);
    expect(Buffer.from(title?.slice(10, -2) ?? '', 'base64').toString()).toBe('Node offline: кухня');
  });

  test('the user of a URL is sent as a header', () => {
    const { headers } = sent('ntfy', offline(), undefined, 'https://me:p%40ss@r.example/topic');
    expect(headers.authorization).toBe(`Basic ${Buffer.from('me:p@ss').toString('base64')}`);
  });

  test('gotify: JSON and its own header', () => {
    const { headers, body } = sent('gotify', offline(), 'Atoken');
    expect(headers['x-gotify-key']).toBe('Atoken');
    expect(JSON.parse(body)).toEqual({ title: 'Node offline: router', message: 'router is offline.', priority: 8 });
  });

  test('slack and discord: a node cannot mention everyone', () => {
    expect(JSON.parse(sent('slack', offline('<!channel>')).body)).toEqual({ text: '&lt;!channel&gt; is offline.' });
    expect(JSON.parse(sent('discord', offline('@everyone')).body)).toEqual({
      content: '@everyone is offline.',
      allowed_mentions: { parse: [] },
    });
  });

  test('text: the text, with a token if there is one', () => {
    expect(sent('text', offline(), 'abc')).toEqual({
      headers: { 'content-type': 'text/plain; charset=utf-8', authorization: 'Bearer abc' },
      body: 'router is offline.',
    });
  });

  test('a name with line breaks breaks no header', () => {
    expect(sent('ntfy', offline('a\r\nX-Evil: 1')).headers.title).toBe('Node offline: a\\u000d\\nX-Evil: 1');
  });
});

test('thousands of nodes are one message with twenty names and a hundred nodes', () => {
  const changes = Array.from({ length: 5000 }, (_, i) => ({
    ...({ type: 'node.offline', machineKey: keyOf(i), says: 'is offline' } as const),
  }));
  const messages = messagesFor(changes, AT, (key) => nodeOf(Number.parseInt(key, 16), { name: 'n'.repeat(200) }));
  expect(messages).toHaveLength(1);
  expect(messages[0]).toMatchObject({ count: 5000, title: 'Node offline: 5000 nodes' });
  expect(messages[0]?.nodes).toHaveLength(100);
  expect(messages[0]?.text.length).toBeLessThan(1500);
  expect(messages[0]?.text).toMatch(/and 4980 more\.$/);
});
