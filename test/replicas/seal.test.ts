import { describe, expect, test } from 'vitest';
import { generateNoiseKey } from '../../src/demo/noise-handshake.ts';
import type { Message } from '../../src/replicas/messages.ts';
import { Seal } from '../../src/replicas/seal.ts';
import type { StreamId } from '../../src/streams/stream.ts';

const key = generateNoiseKey();
const sever: Message = { kind: 'sever', from: 'a#1', id: 7 as StreamId };
const a = (): Seal => new Seal('a#1', () => key);
const b = (): Seal => new Seal('b#2', () => key);
const sealed = (seal: Seal, message: Message = sever, to: string | undefined = 'b#2'): string =>
  seal.seal(message, to) ?? expect.unreachable();

describe('Seal', () => {
  test('what a replica with the same key says is believed, once', () => {
    const receiver = b();
    const text = sealed(a());
    expect(receiver.open(text)).toEqual(sever);
    expect(receiver.open(text)).toBeUndefined();
  });

  test('what is for all each believes', () => {
    const here: Message = { kind: 'here', from: 'a#1' };
    const text = a().seal(here, undefined) ?? expect.unreachable();
    for (const name of ['b#2', 'c#3']) expect(new Seal(name, () => key).open(text)).toEqual(here);
    expect(a().open(text)).toBeUndefined();
  });

  test('messages may overtake each other, and none is believed twice', () => {
    const [sender, receiver] = [a(), b()];
    const texts = Array.from({ length: 3000 }, () => sealed(sender));
    const overtaken = texts.flatMap((text, i) => (i % 2 === 0 ? [texts[i + 1] ?? text, text] : []));
    expect(overtaken.filter((text) => receiver.open(text) !== undefined)).toHaveLength(3000);
    expect(texts.filter((text) => receiver.open(text) !== undefined)).toEqual([]);
  });

  test('what is for one replica no other believes, nor the same one after its next start', () => {
    expect(new Seal('c#3', () => key).open(sealed(a()))).toBeUndefined();
    expect(new Seal('b#9', () => key).open(sealed(a()))).toBeUndefined();
  });

  test('without the key nothing is said, and nothing is believed', () => {
    expect(new Seal('a#1', () => undefined).seal(sever, 'b#2')).toBeUndefined();
    expect(new Seal('b#2', () => undefined).open(sealed(a()))).toBeUndefined();
    expect(b().open(sealed(new Seal('a#1', generateNoiseKey)))).toBe('forged');
  });

  test('a forged one is not believed, whatever was changed in it', () => {
    const text = sealed(a());
    const receiver = b();
    for (let i = 0; i < text.length; i++) {
      const forged = `${text.slice(0, i)}${text[i] === 'x' ? 'y' : 'x'}${text.slice(i + 1)}`;
      // Of the seal's last character two bits say nothing.
      if (i !== 42) expect(receiver.open(forged), forged).toBe('forged');
    }
    for (const rubbish of ['', 'rubbish', JSON.stringify(sever), 'x'.repeat(100)]) {
      expect(receiver.open(rubbish)).toBe('forged');
    }
  });
});
