import type { WatchdogEvent } from '../events.ts';

type RedisEvent = Extract<WatchdogEvent, { readonly kind: 'redis up' | 'redis down' }>;

export function redisLine(event: RedisEvent): readonly ['info' | 'error', object, string] {
  if (event.kind === 'redis up') {
    return ['info', { redis: event.url }, "Redis is up: the watchdogs that use it know of each other's streams"];
  }
  const { url: redis, reason } = event;
  return ['error', { redis, reason }, 'Redis cannot be used: this watchdog goes on alone'];
}
