import { describe, expect, test } from 'vitest';
import type { Api } from '../../src/commands/admin-client.ts';
import { type NodesOptions, showNodes } from '../../src/commands/nodes.ts';

async function saidOf(overview: object, options: NodesOptions = {}): Promise<string> {
  let text = '';
  const out = { write: (line: string) => (text += line) };
  const answers: Record<string, object> = { '/nodes': { total: 0, nodes: [] }, '/overview': overview };
  const api = { get: (path: string) => Promise.resolve(answers[path]) } as unknown as Api;
  const console = {
    ...{ stdout: out, stderr: out, colours: false, width: undefined, isInteractive: false },
    ...{ ask: () => Promise.resolve(''), signal: new AbortController().signal, pause: () => Promise.resolve() },
  };
  expect(await showNodes(api, undefined, options, console)).toBe(3);
  return text;
}

describe('headscale-watchdog nodes, when there are none', () => {
  test('says how the watchdog gets to know them', async () => {
    const text = await saidOf({ nodesListedAt: null, problems: [] });
    expect(text).toContain('No node has connected yet.\n');
    expect(text).toContain('--headscale-api-key-file');
  });

  test('says that Headscale has none', async () => {
    const text = await saidOf({ nodesListedAt: '2026-11-27T00:00:00.000Z', problems: [] });
    expect(text).toBe('Headscale has no nodes yet: log one in, for example with tailscale up.\n');
  });

  test('says that Headscale could not be asked, and what to do', async () => {
    const problem = { kind: 'nodes_list_failed', sentence: 'It did not answer.', advice: 'Start it.' };
    expect(await saidOf({ nodesListedAt: null, problems: [problem] })).toBe('It did not answer.\nStart it.\n');
  });

  test('says only that nothing matches, if something was asked for', async () => {
    expect(await saidOf({}, { search: 'x' })).toBe('No node matches.\n');
  });
});
