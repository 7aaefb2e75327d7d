import { describe, expect, test } from 'vitest';
import { badgeSvg, healthBadge, nodeBadge, nodesBadge } from '../../src/admin/badge.ts';
import type { Readiness } from '../../src/admin/views.ts';
import type { NodePresence, NodeState } from '../../src/nodes/presence.ts';

/** A node that has an open stream if it is in a state in which it may have one. */
function node(state: NodeState, hasStream = state === 'connected'): NodePresence {
  const current = hasStream ? { state: 'open', openedAt: 0, lastSignAt: 0 } : undefined;
  const connectedSince = hasStream ? 0 : undefined;
  return { state, current, connectedSince, streams: current === undefined ? [] : [current] } as unknown as NodePresence;
}

describe('nodesBadge', () => {
  test.each<[readonly NodePresence[], string, string]>([
    [[node('connected'), node('connected')], '2 of 2 connected', 'good'],
    [[node('connected'), node('offline'), node('connecting')], '1 of 3 connected', 'unsure'],
    [[node('offline'), node('expired')], '0 of 2 connected', 'bad'],
    [[], '0 of 0 connected', 'good'],
    // Keys of strangers and deleted nodes are not nodes that should be there.
    [[node('connected'), node('unknown', true), node('deleted', true)], '1 of 1 connected', 'good'],
  ])('%#', (nodes, message, is) => {
    expect(nodesBadge(nodes)).toEqual({ label: 'nodes', message, is });
  });
});

describe('healthBadge', () => {
  const up = { url: '', up: true, silentOn: null, isHeadscale: true, detail: null, version: '0.29.2' };
  const well: Readiness = { ready: true, draining: false, listen: [], upstream: up, noiseKeyMatches: true };

  test.each<[Partial<Readiness>, string, string]>([
    [{}, 'up', 'good'],
    [{ noiseKeyMatches: null }, 'up', 'good'],
    [{ noiseKeyMatches: false }, 'wrong Noise key', 'bad'],
    [{ upstream: { ...up, isHeadscale: false } }, 'not Headscale', 'bad'],
    [{ upstream: { ...up, silentOn: 'streams' } }, 'silent', 'bad'],
    [{ upstream: { ...up, up: false } }, 'down', 'bad'],
    [{ upstream: { ...up, up: null } }, 'not checked yet', 'unsure'],
    [{ ready: false }, 'watchdog not ready', 'bad'],
    [{ ready: false, draining: true }, 'watchdog stops', 'unsure'],
  ])('%o: %s', (change, message, is) => {
    expect(healthBadge({ ...well, ...change })).toEqual({ label: 'headscale', message, is });
  });
});

test('a badge is well-formed whatever its texts are, and never wider than its texts need', () => {
  const svg = badgeSvg(nodeBadge(node('offline'), `<"&'>${'x'.repeat(500)}`));
  expect(svg).toContain('&#60;&#34;&#38;&#39;&#62;xxx');
  expect(svg).not.toMatch(/<"|&'/);
  const [, width] = /<svg [^>]*width="(\d+)"/.exec(svg) ?? [];
  expect(Number(width)).toBeLessThan(600);
});
