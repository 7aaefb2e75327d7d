import { readFileSync } from 'node:fs';

/** For what is open beside clients' connections: listeners, files, the admin server's clients, Redis. */
const RESERVED = 128;
/** A client's connection, and that to Headscale. */
const PER_CONNECTION = 2;

/** How many connections the limit of open files leaves room for; undefined where it is not known. */
export function roomForConnections(limits = readLimits()): number | undefined {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? undefined : Math.max(1, Math.floor((Number(soft) - RESERVED) / PER_CONNECTION));
}

function readLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return '';
  }
}
