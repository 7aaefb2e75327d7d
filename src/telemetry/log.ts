import pino, { type DestinationStream, type Logger } from 'pino';
import type { LogLevel } from '../config/types.ts';
import { formatMachineKey, formatNodeKey, type MachineKey } from '../identity/keys.ts';
import type { NodeInfo } from '../identity/node-info.ts';
import type { WatchdogEvent } from '../streams/events.ts';
import { describeEvent, errorCodeOf, fieldsOf, levelOf, subjectOf } from './event-table.ts';

export type { Logger };

/** Writes JSON, one line for each event. On a terminal it writes readable lines, with colours unless NO_COLOR is set. */
export async function createLogger(level: LogLevel, out: NodeJS.WriteStream): Promise<Logger> {
  const options = { level, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  if (!out.isTTY) return pino(options, out as DestinationStream);
  // A service has no terminal, and starts without it.
  const { default: pretty } = await import('pino-pretty');
  const colorize = process.env.NO_COLOR === undefined || process.env.NO_COLOR === '';
  return pino(
    options,
    pretty({ destination: out, colorize, translateTime: 'SYS:HH:MM:ss.l', singleLine: true, sync: true }),
  );
}

/**
 * Logs each event as one line: its kind as `event`, the fields of its subject, and its sentence as the message.
 *
 * @param nodeOf the node of a machine key; undefined while Headscale has not listed it.
 */
export function logEvents(
  log: Logger,
  nodeOf: (key: MachineKey | undefined) => NodeInfo | undefined,
): (event: WatchdogEvent) => void {
  return (event) => {
    const level = levelOf(event);
    if (level === undefined || !log.isLevelEnabled(level)) return;
    const { machineKey, ...subject } = subjectOf(event);
    const line = {
      event: event.kind,
      code: errorCodeOf(event),
      node: nodeFields(nodeOf(machineKey)),
      machineKey: machineKey === undefined ? undefined : formatMachineKey(machineKey),
      ...subject,
      ...fieldsOf(event),
    };
    log[level](
      line,
      describeEvent(event, (key) => nodeOf(key)?.name),
    );
  };
}

function nodeFields(node: NodeInfo | undefined): object | undefined {
  if (node === undefined) return undefined;
  const { id, name, user, nodeKey } = node;
  return { id, name, user, nodeKey: formatNodeKey(nodeKey) };
}
