import { randomBytes } from 'node:crypto';
import { formatRedisUrl, type RedisSettings, redisTargetOf } from '../config/redis.ts';
import { plus } from '../lib/clock.ts';
import { RedisLink, type RedisLinkParts } from './redis-link.ts';
import { Replicas, type ReplicasParts } from './replicas.ts';

/**
 * Joins the other watchdogs that use the same Redis.
 *
 * @throws StartError when a file of its settings cannot be used.
 */
export function openReplicas(
  parts: Omit<ReplicasParts, 'name' | 'link'> & Pick<RedisLinkParts, 'noiseKey'>,
  settings: RedisSettings,
): Replicas {
  const { clock, emit, noiseKey } = parts;
  const url = formatRedisUrl(settings.url);
  // Of the same name, and yet another one: what one before it left in Redis is not its own.
  const name = `${settings.replicaName}#${randomBytes(3).toString('hex')}`;
  let tellAgainAt = clock.now();
  const link = new RedisLink({
    ...{ clock, name, noiseKey, target: redisTargetOf(settings) },
    heard: (message) => replicas.heard(message),
    notBelieved: () => {
      if (clock.now() < tellAgainAt) return;
      tellAgainAt = plus(clock.now(), 60_000);
      emit({ kind: 'replica not believed', url });
    },
    changed: (isUp, reason) => {
      if (isUp) replicas.joined();
      emit(isUp ? { kind: 'redis up', url } : { kind: 'redis down', url, reason: reason ?? 'it does not answer' });
    },
  });
  const replicas: Replicas = new Replicas({ ...parts, name, link });
  replicas.start();
  return replicas;
}
