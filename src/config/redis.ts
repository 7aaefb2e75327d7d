import { hostname } from 'node:os';
import { addressAndPort } from '../lib/addresses.ts';
import { quoted } from './problems.ts';
import { Invalid, parseHostPort, type Reader, scalar, withoutUser } from './readers.ts';
import { readSecretLine, readSmallFile } from './secrets.ts';
import type { HostPort, RedisSettings, RedisUrl } from './types.ts';

/** An operating system's whole list of trusted certificates is a quarter of this. */
const LARGEST_CA_KIB = 1024;

/** What a connection to Redis needs. */
export interface RedisTarget extends Omit<RedisUrl, 'isTls'> {
  readonly password: string | undefined;
  readonly tls: { readonly ca?: Buffer } | undefined;
  readonly prefix: string;
}

const FORMS =
  'write redis://HOST:PORT or rediss://HOST:PORT, redis+sentinel://HOST:PORT,HOST:PORT/MASTER or redis+cluster://HOST:PORT,HOST:PORT';
const DEFAULT_PORT = { one: 6379, sentinel: 26_379, cluster: 6379 } as const;

/**
 * Reads `redis[s][+sentinel|+cluster]://[USER@]HOST[:PORT][,HOST[:PORT]…][/DB]`; with sentinels `/MASTER[/DB]`.
 *
 * @returns a text if it cannot be read: what is wrong, and what to write.
 */
export function parseRedisUrl(text: string): RedisUrl | string {
  const match = /^redis(s)?(?:\+(sentinel|cluster))?:\/\/(?:([^@/]*)@)?([^/@]+)(?:\/(.*))?$/i.exec(text);
  if (match === null) return `is not a URL of Redis: ${FORMS}`;
  const [, tls, scheme, user, hosts = '', path = ''] = match;
  if (user?.includes(':')) {
    return 'holds a password, which every user of this machine could see: put the password in a file, and give its path as redis-password-file';
  }
  const kind = (scheme?.toLowerCase() ?? 'one') as RedisUrl['kind'];
  const nodes = hosts
    .split(',')
    .map((each) => parseHostPort(/:\d+$/.test(each) ? each : `${each}:${DEFAULT_PORT[kind]}`));
  if (nodes.includes(undefined)) return `is not a URL of Redis: ${FORMS}`;
  if (kind === 'one' && nodes.length > 1) return 'names several servers: write redis+sentinel://… or redis+cluster://…';
  const [first = '', second = ''] = path.split('/');
  const [masterName, dbText] = kind === 'sentinel' ? [first, second] : [undefined, first];
  if (masterName === '') return 'does not name the master: write redis+sentinel://HOST:PORT/mymaster';
  if (!/^\d{0,4}$/.test(dbText))
    return `ends with '${dbText}', which is not the number of a database: write /0, or nothing`;
  if (kind === 'cluster' && Number(dbText) > 0) return 'names a database, but a cluster has only one: remove it';
  const username = user === undefined || user === '' ? undefined : decoded(user);
  if (username === null) return 'has a user name that is not percent-encoded: write %25 for a percent sign';
  return { kind, nodes: nodes as HostPort[], isTls: tls !== undefined, username, db: Number(dbText), masterName };
}

export const redisUrl: Reader<RedisUrl> = scalar({ kind: 'Redis URL' }, (text) => {
  const parsed = parseRedisUrl(text);
  return typeof parsed === 'string' ? new Invalid(`${quoted(withoutUser(text))} ${parsed}`) : parsed;
});

/** Decodes percent-encoding. @returns null if it is not valid UTF-8 in percent-encoding. */
function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

/** The URL as an operator would write it. */
export function formatRedisUrl({ kind, nodes, isTls, username, db, masterName }: RedisUrl): string {
  const scheme = `redis${isTls ? 's' : ''}${kind === 'one' ? '' : `+${kind}`}`;
  const user = username === undefined ? '' : `${encodeURIComponent(username)}@`;
  const master = masterName === undefined ? '' : `/${masterName}`;
  return `${scheme}://${user}${nodes.map(({ host, port }) => addressAndPort(host, port)).join(',')}${master}${db === 0 ? '' : `/${db}`}`;
}

/** The default name of a replica: the name of its machine. */
export function ownName(): string {
  return hostname().slice(0, 60);
}

/** @throws StartError when a file cannot be used. */
export function redisTargetOf({ url, passwordFile, caFile, prefix }: RedisSettings): RedisTarget {
  const { isTls, ...rest } = url;
  const password = passwordFile === undefined ? undefined : readRedisPassword(passwordFile);
  const tls = isTls ? (caFile === undefined ? {} : { ca: readCa(caFile) }) : undefined;
  return { ...rest, password, tls, prefix };
}

function readRedisPassword(path: string): string {
  return readSecretLine({
    ...{ code: 'HSW_REDIS_FILE_UNREADABLE', flag: '--redis-password-file', path },
    advice: {
      missing: 'put the password of the ACL user there',
      folder: 'name the file in it that holds the password',
    },
    expected: 'it should hold one line, the password of the ACL user',
    badCharacters: 'holds spaces or characters that are not ASCII',
  });
}

function readCa(path: string): Buffer {
  return readSmallFile({
    ...{ code: 'HSW_REDIS_FILE_UNREADABLE', flag: '--redis-ca-file', path, largestKiB: LARGEST_CA_KIB },
    advice: {
      missing: "put the certificate authority's certificate there, as PEM",
      folder: "name the file in it that holds the certificate authority's certificate",
      larger: 'it should hold certificates, as PEM',
    },
  });
}
