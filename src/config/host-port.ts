import type { HostPort } from './types.ts';

/** Reads `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (every address of this machine); undefined where it is something else. */
export function parseHostPort(text: string): HostPort | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]\s]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) return undefined;
  return { host: match[1] ?? (match[2] || '::'), port };
}
