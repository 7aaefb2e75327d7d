import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, describe, expect, test } from 'vitest';
import { connectNoise, createSealer, readExactly } from '../../src/demo/noise-connection.ts';
import { closed, Harness, until } from '../support/harness.ts';

const harness = new Harness();
afterEach(() => harness.closeAll());

/** Two ends of one TCP connection, both half open like an http.Server's. */
async function socketPair(): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const near = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true });
  const [far] = (await once(server, 'connection')) as [Socket];
  harness.defer(() => {
    near.destroy();
    far.destroy();
    server.close();
  });
  return [near, far];
}

const [forth, back] = [randomBytes(32), randomBytes(32)];

async function noisePair() {
  const [near, far] = await socketPair();
  const client = connectNoise(near, { send: forth, receive: back });
  const server = connectNoise(far, { send: back, receive: forth });
  return { near, far, client, server };
}

describe('connectNoise', () => {
  test('carries 2 MiB in both directions at once, and the end of each direction', async () => {
    const { client, server } = await noisePair();
    const up = randomBytes(2 << 20).toString('base64');
    const down = randomBytes(2 << 20).toString('base64');
    client.duplex.end(up);
    server.duplex.end(down);
    const [heardDown, heardUp] = await Promise.all([text(client.duplex), text(server.duplex)]);
    expect(heardUp === up).toBe(true);
    expect(heardDown === down).toBe(true);
  });

  test('sends no unencrypted byte', async () => {
    const [near, far] = await socketPair();
    connectNoise(near, { send: forth, receive: back }).duplex.write('something to find');
    const [sealed] = (await once(far, 'data')) as [Buffer];
    expect(sealed[0]).toBe(4);
    expect(sealed.includes('something')).toBe(false);
  });

  test('a corrupted record ends the session on both sides, after everything before it was delivered', async () => {
    const [near, far] = await socketPair();
    const { duplex } = connectNoise(far, { send: back, receive: forth });
    const failed = once(duplex, 'error') as Promise<[Error]>;
    const heard: Buffer[] = [];
    duplex.on('data', (chunk) => heard.push(chunk));
    const seal = createSealer(forth);
    near.write(seal(Buffer.from('good')));
    await until(() => heard.length > 0, 'the good record is read');
    const bad = seal(Buffer.from('bad'));
    bad[4] = (bad[4] ?? 0) ^ 1;
    near.write(bad);
    const [error] = await failed;
    expect(error.message).toBe('Noise session ended: record whose tag does not fit');
    expect(Buffer.concat(heard).toString()).toBe('good');
    near.resume();
    near.end();
    await Promise.all([closed(near), closed(far)]);
  });

  test('a connection that ends within a record is an error, not a normal end', async () => {
    const [near, far] = await socketPair();
    const { duplex } = connectNoise(far, { send: back, receive: forth });
    const failed = once(duplex, 'error') as Promise<[Error]>;
    near.end(createSealer(forth)(Buffer.from('cut')).subarray(0, -1));
    duplex.resume();
    expect((await failed)[0].message).toBe('Noise session ended: connection closed within a record');
  });

  test('freeze: reads and writes nothing more, but the socket stays open', async () => {
    const { near, far, client, server } = await noisePair();
    const heard: Buffer[] = [];
    client.duplex.on('data', (chunk) => heard.push(chunk));
    server.duplex.write('before');
    await until(() => heard.length === 1, 'the client reads');
    client.freeze();
    const bytes = far.bytesRead;
    server.duplex.write('after');
    client.duplex.write('unheard');
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(Buffer.concat(heard).toString()).toBe('before');
    expect(far.bytesRead).toBe(bytes);
    expect(near.destroyed || far.destroyed).toBe(false);
  });
});

describe('connectNoise, frozen with a slow reader', () => {
  test('does not go on reading when the reader does', async () => {
    const { near, client, server } = await noisePair();
    client.duplex.once('readable', () => {});
    server.duplex.write(randomBytes(1 << 20));
    await until(() => near.isPaused(), 'the socket is paused, since nobody reads');
    client.freeze();
    client.duplex.resume();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(near.isPaused()).toBe(true);
  });
});

describe('readExactly', () => {
  test('waits for the given number of bytes, and leaves the rest in the stream', async () => {
    const [near, far] = await socketPair();
    const read = readExactly(far, 5);
    near.write('123');
    await new Promise((resolve) => setTimeout(resolve, 10));
    near.end('4567');
    expect((await read).toString()).toBe('12345');
    expect(await text(far)).toBe('67');
  });

  test('fails if the stream ends first', async () => {
    const [near, far] = await socketPair();
    const read = readExactly(far, 5);
    near.end('123');
    await expect(read).rejects.toThrow('connection ended where 5 more bytes were expected');
  });
});
