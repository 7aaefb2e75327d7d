import type { WatchdogEvent } from '../streams/events.ts';

type RedisEvent = Extract<WatchdogEvent, { readonly kind: 'redis_up' | 'redis_down' | 'replica_message_rejected' }>;

export function redisLine(event: RedisEvent): readonly ['info' | 'warn' | 'error', object, string] {
  if (event.kind === 'redis_up') {
    return ['info', { redis: event.url }, "Redis is up: the watchdogs that use it know of each other's streams"];
  }
  if (event.kind === 'replica_message_rejected') {
    return [
      'warn',
      { redis: event.url },
      'a message in Redis was not believed: let all watchdogs there read the same --noise-key, or give this Headscale its own --redis-prefix',
    ];
  }
  const { url: redis, detail } = event;
  return ['error', { redis, detail }, 'Redis cannot be used: this watchdog goes on alone'];
}
