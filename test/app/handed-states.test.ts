import { expect, test } from 'vitest';
import { handedStates } from '../../src/app/handed-states.ts';
import type { HandedMessages } from '../../src/notify/delivery.ts';

/** What is handed over of the notifications that wait, and what the new process takes from it. */
async function handOver(waiting: readonly HandedMessages[]) {
  const taken: HandedMessages[] = [];
  const notifier = { handed: () => waiting, take: (handed: HandedMessages) => void taken.push(handed) };
  const states = handedStates({ kept: {}, notifier } as never);
  const part = states.find((each) => each.part === 'notifications');
  for (const piece of (await part?.write(() => false)) ?? []) part?.read(JSON.parse(JSON.stringify(piece)));
  return taken;
}

test('that nothing waits is handed over, too: the new process may have read of a message that has been delivered since', async () => {
  expect(await handOver([['waiting/a/', []]])).toEqual([['waiting/a/', []]]);
});

test('many notifications go in pieces, in their order', async () => {
  const all = Array.from({ length: 1001 }, (_, i) => ({ id: `${i}` }));
  const taken = await handOver([['waiting/a/', all]]);
  expect(taken.map(([, messages]) => messages.length)).toEqual([0, 500, 500, 1]);
  expect(taken.flatMap(([, messages]) => messages)).toEqual(all);
});
