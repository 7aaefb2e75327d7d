import type { Disagreement } from '../streams/events.ts';

/**
 * What a Headscale can do, and what it gets wrong. Whatever depends on Headscale's version is decided in this file.
 *
 * A Headscale before 0.27 does not tell its version, so it is treated like one that has not answered yet: as the most careful
 * case of 0.22 to 0.26. A build from source says `dev` or names a commit. It tells its version at all, so it is 0.27 or later,
 * and the most careful case of these counts.
 */
export interface Capabilities {
  /** It may refuse a second stream of a node, as 0.23.0-alpha6 to alpha11 do. Then `hold: auto` holds newcomers. */
  readonly mayRefuseSecondStream: boolean;
  /** Where it lists its nodes for an API key. The first path that it knows counts: 0.22 has the second one only. */
  readonly nodePaths: readonly [path: string, ...otherwise: string[]];
  /** Whether it has OAuth clients, and the v2 API for them. They are new in 0.30. */
  readonly oauthClients: 'yes' | 'no' | 'unknown';
  /** The issues of Headscale that it has, by how the watchdog and Headscale then disagree about a node. */
  readonly issues: Readonly<Partial<Record<Disagreement, number>>>;
}

const V1_NODES = '/api/v1/node';
const V1_MACHINES = '/api/v1/machine';

const ISSUES = { shown_offline: 3428, deleted: 3410 } as const satisfies Capabilities['issues'];

const WITHOUT_VERSION: Capabilities = {
  mayRefuseSecondStream: true,
  nodePaths: [V1_NODES, V1_MACHINES],
  oauthClients: 'unknown',
  issues: ISSUES,
};

const FROM_SOURCE: Capabilities = { ...WITHOUT_VERSION, mayRefuseSecondStream: false, nodePaths: [V1_NODES] };

const FROM_0_27: Capabilities = { ...FROM_SOURCE, oauthClients: 'no' };
const FROM_0_29: Capabilities = { ...FROM_0_27, issues: { deleted: ISSUES.deleted } };
const FROM_0_30: Capabilities = { ...FROM_0_29, oauthClients: 'yes', issues: {} };

/** By the first version of each, the newest first. */
const RELEASES: readonly (readonly [major: number, minor: number, can: Capabilities])[] = [
  [0, 30, FROM_0_30],
  [0, 29, FROM_0_29],
  [0, 27, FROM_0_27],
];

/** As in `v0.29.2` and `0.30.0-beta.1`. A beta counts as its release. */
const RELEASE = /^v?(\d+)\.(\d+)\.\d+(?:[-+.].*)?$/;
/** What Go calls a build of a commit that has no version: the next one, a date and the commit. */
const COMMIT = /[-.]\d{14}-[0-9a-f]{12}(?:\+.*)?$/;

/** @param version what Headscale answers to `GET /version`; undefined if it does not, or has not been asked. */
export function capabilitiesOf(version: string | undefined): Capabilities {
  if (version === undefined) return WITHOUT_VERSION;
  const release = COMMIT.test(version) ? null : RELEASE.exec(version);
  if (release === null) return FROM_SOURCE;
  const [major, minor] = [Number(release[1]), Number(release[2])];
  const row = RELEASES.find(([ofMajor, ofMinor]) => major > ofMajor || (major === ofMajor && minor >= ofMinor));
  return row?.[2] ?? WITHOUT_VERSION;
}

/** What an operator has given the watchdog to ask Headscale with. */
export interface Credentials {
  readonly apiKey: string | undefined;
  readonly oauthClientSecret: string | undefined;
}

/** How to ask Headscale for its nodes. */
export type NodesAccess =
  | { readonly by: 'API key'; readonly apiKey: string; readonly paths: Capabilities['nodePaths'] }
  | { readonly by: 'OAuth client'; readonly secret: string };

/**
 * How to ask this Headscale for its nodes. With both credentials it is the OAuth client if Headscale certainly has them, and
 * otherwise the API key, which every version accepts.
 *
 * @returns undefined without credentials.
 */
export function nodesAccess(
  { apiKey, oauthClientSecret }: Credentials,
  { oauthClients, nodePaths }: Capabilities,
): NodesAccess | undefined {
  if (oauthClientSecret !== undefined && (oauthClients === 'yes' || apiKey === undefined)) {
    return { by: 'OAuth client', secret: oauthClientSecret };
  }
  return apiKey === undefined ? undefined : { by: 'API key', apiKey, paths: nodePaths };
}
