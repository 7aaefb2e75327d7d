import { describe, expect, test } from 'vitest';
import { type Capabilities, capabilitiesOf, nodesAccess } from '../../src/headscale/capabilities.ts';

/** What each version may do wrong, by one letter: refuse a second stream, miss a return, keep deleted nodes' streams. */
function mistakesOf(can: Capabilities): string {
  const { mayRefuseSecondStream, issues } = can;
  expect([3428, undefined]).toContain(issues.shown_offline);
  expect([3410, undefined]).toContain(issues.deleted);
  const letters = { R: mayRefuseSecondStream, M: issues.shown_offline, D: issues.deleted };
  return Object.entries(letters)
    .flatMap(([letter, may]) => (may === undefined || may === false ? [] : [letter]))
    .join('');
}

const NODES = '/api/v1/node';
const MACHINES = '/api/v1/machine';

describe('capabilitiesOf', () => {
  test.each([
    // 0.22 to 0.26 do not tell their version. Neither does one that has not answered yet.
    [undefined, 'RMD', 'unknown', [NODES, MACHINES]],
    // A number below 0.27 is none that Headscale sends.
    ['v0.26.1', 'RMD', 'unknown', [NODES, MACHINES]],
    ['v0.27.0-beta.1', 'MD', 'no', [NODES]],
    ['v0.27.0', 'MD', 'no', [NODES]],
    ['v0.27.1', 'MD', 'no', [NODES]],
    ['v0.28.0', 'MD', 'no', [NODES]],
    ['v0.29.0', 'D', 'no', [NODES]],
    ['v0.29.2', 'D', 'no', [NODES]],
    ['0.29.2', 'D', 'no', [NODES]],
    ['v0.29.2+dirty', 'D', 'no', [NODES]],
    ['v0.29.10', 'D', 'no', [NODES]],
    ['v0.30.0-beta.1', '', 'yes', [NODES]],
    ['v0.30.0', '', 'yes', [NODES]],
    ['v0.31.4', '', 'yes', [NODES]],
    ['v1.0.0', '', 'yes', [NODES]],
    // Builds from source: any version from 0.27 on.
    ['dev', 'MD', 'unknown', [NODES]],
    ['v0.29.3-0.20260721112835-f20f1f127842', 'MD', 'unknown', [NODES]],
    ['v0.30.0-beta.1.0.20260721112835-f20f1f127842+dirty', 'MD', 'unknown', [NODES]],
    ['v0.0.0-20260721112835-f20f1f127842', 'MD', 'unknown', [NODES]],
    ['', 'MD', 'unknown', [NODES]],
    ['0.30', 'MD', 'unknown', [NODES]],
    ['f20f1f1', 'MD', 'unknown', [NODES]],
  ])('%j: mistakes %s, OAuth clients %s, nodes at %j', (version, mistakes, oauthClients, nodePaths) => {
    const can = capabilitiesOf(version);
    expect([mistakesOf(can), can.oauthClients, can.nodePaths]).toEqual([mistakes, oauthClients, nodePaths]);
  });
});

describe('nodesAccess', () => {
  const credentials = { apiKey: 'the-key', oauthClientSecret: 'the-secret' };
  const byClient = { by: 'OAuth client', secret: 'the-secret' };
  const byKey = { by: 'API key', apiKey: 'the-key', paths: [NODES] };

  test.each([
    [undefined, { ...byKey, paths: [NODES, MACHINES] }],
    ['v0.29.2', byKey],
    ['dev', byKey],
    ['v0.30.0', byClient],
  ])('with both credentials, and version %j: %j', (version, access) => {
    expect(nodesAccess(credentials, capabilitiesOf(version))).toEqual(access);
  });

  test.each([undefined, 'v0.29.2', 'dev', 'v0.30.0'])(
    'with one credential it is that one, for version %j too',
    (version) => {
      const can = capabilitiesOf(version);
      expect(nodesAccess({ ...credentials, apiKey: undefined }, can)).toEqual(byClient);
      expect(nodesAccess({ ...credentials, oauthClientSecret: undefined }, can)?.by).toBe('API key');
      expect(nodesAccess({ apiKey: undefined, oauthClientSecret: undefined }, can)).toBeUndefined();
    },
  );
});
