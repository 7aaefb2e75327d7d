import pino, { type DestinationStream, type Logger } from 'pino';
import pretty from 'pino-pretty';
import type { LogLevel } from '../config/types.ts';

export type { Logger };

/** JSON, a line an event; on a terminal readable, with colours unless NO_COLOR is set. */
export function createLogger(level: LogLevel, out: NodeJS.WriteStream): Logger {
  const options = { level, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  if (!out.isTTY) return pino(options, out as DestinationStream);
  const colorize = process.env.NO_COLOR === undefined || process.env.NO_COLOR === '';
  return pino(
    options,
    pretty({ destination: out, colorize, translateTime: 'SYS:HH:MM:ss.l', singleLine: true, sync: true }),
  );
}
