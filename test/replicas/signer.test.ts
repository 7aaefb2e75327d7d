import { describe, expect, test } from 'vitest';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import type { Message } from '../../src/replicas/messages.ts';
import { MessageSigner } from '../../src/replicas/signer.ts';
import type { StreamId } from '../../src/streams/stream.ts';

const key = generateNoiseKey();
const sever: Message = { kind: 'sever', from: 'a#1', id: 7 as StreamId };
const a = (): MessageSigner => new MessageSigner('a#1', () => key);
const b = (): MessageSigner => new MessageSigner('b#2', () => key);
const signed = (signer: MessageSigner, message: Message = sever, to: string | undefined = 'b#2'): string =>
  signer.sign(message, to) ?? expect.unreachable();

describe('MessageSigner', () => {
  test('a message from a replica with the same key is accepted once', () => {
    const receiver = b();
    const text = signed(a());
    expect(receiver.verify(text)).toEqual(sever);
    expect(receiver.verify(text)).toBeUndefined();
  });

  test('a message for all is accepted by each replica', () => {
    const here: Message = { kind: 'here', from: 'a#1' };
    const text = a().sign(here, undefined) ?? expect.unreachable();
    for (const name of ['b#2', 'c#3']) expect(new MessageSigner(name, () => key).verify(text)).toEqual(here);
    expect(a().verify(text)).toBeUndefined();
  });

  test('messages may overtake each other, and no message is accepted twice', () => {
    const [sender, receiver] = [a(), b()];
    const texts = Array.from({ length: 3000 }, () => signed(sender));
    const overtaken = texts.flatMap((text, i) => (i % 2 === 0 ? [texts[i + 1] ?? text, text] : []));
    expect(overtaken.filter((text) => receiver.verify(text) !== undefined)).toHaveLength(3000);
    expect(texts.filter((text) => receiver.verify(text) !== undefined)).toEqual([]);
  });

  test('two processes of one replica count for themselves, and no message of either is accepted twice', () => {
    const [before, after, receiver] = [a(), a(), b()];
    const texts = Array.from({ length: 3000 }, (_, i) => signed(i % 3 === 0 ? before : after));
    expect(texts.filter((text) => receiver.verify(text) !== undefined)).toHaveLength(3000);
    expect(texts.filter((text) => receiver.verify(text) !== undefined)).toEqual([]);
  });

  test('a message for one replica is not accepted by another, nor by the same one after a restart', () => {
    expect(new MessageSigner('c#3', () => key).verify(signed(a()))).toBeUndefined();
    expect(new MessageSigner('b#9', () => key).verify(signed(a()))).toBeUndefined();
  });

  test('without a key, nothing is signed and nothing is accepted', () => {
    expect(new MessageSigner('a#1', () => undefined).sign(sever, 'b#2')).toBeUndefined();
    expect(new MessageSigner('b#2', () => undefined).verify(signed(a()))).toBeUndefined();
    expect(b().verify(signed(new MessageSigner('a#1', generateNoiseKey)))).toBe('forged');
  });

  test('a forged message is rejected, whatever was changed in it', () => {
    const text = signed(a());
    const receiver = b();
    for (let i = 0; i < text.length; i++) {
      const forged = `${text.slice(0, i)}${text[i] === 'x' ? 'y' : 'x'}${text.slice(i + 1)}`;
      // Of the signer's last character two bits say nothing.
      if (i !== 42) expect(receiver.verify(forged), forged).toBe('forged');
    }
    for (const rubbish of ['', 'rubbish', JSON.stringify(sever), 'x'.repeat(100)]) {
      expect(receiver.verify(rubbish)).toBe('forged');
    }
  });
});
