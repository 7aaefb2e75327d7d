import { type ChildProcess, spawn } from 'node:child_process';
import type { Server } from 'node:net';
import { reasonOf, StartError } from '../lib/errors.ts';
import type { SocketHandle } from '../lib/handles.ts';
import { hasFields } from '../lib/json.ts';
import type { ListeningSocket, OldSays, SuccessorSays } from './handover.ts';

/** Marks a process as a successor. */
const MARK = 'WATCHDOG_HANDOVER';
/** 0 to 2 are standard input, output and error, 3 is the channel. */
const FIRST_DESCRIPTOR = 4;
/** The channel of a process that has ended closes at once. */
const CHANNEL_CLOSES_WITHIN_MS = 1000;

/** The successor, as the old process sees it. */
export interface SuccessorProcess {
  readonly pid: number | undefined;
  /** Messages arrive in the order in which they were said. @param handle stays open here. */
  say(message: OldSays, handle?: SocketHandle): void;
  /** Tells it that everything is handed over, and closes the channel. It lives on. */
  part(): void;
  /** This process need not live as long as it. */
  forget(): void;
  kill(): void;
  /** Its exit code, or 1 after a signal. */
  readonly exited: Promise<number>;
}

export interface SuccessorListeners {
  heard(message: SuccessorSays): void;
  /** It has ended, or it cannot be started. Called once, after its last message. @param how to complete a sentence. */
  ended(how: string): void;
}

/** What the program was started with. */
export interface Program {
  readonly command: string;
  readonly args: readonly string[];
}

/** This program, as it is on disk now, with the arguments that this process has. */
export function thisProgram(): Program {
  return { command: process.execPath, args: [...process.execArgv, ...process.argv.slice(1)] };
}

/**
 * Starts the program that is to take over. It belongs to the same process group, and writes to the same log.
 *
 * @param sockets the descriptors of listening sockets here. It inherits them.
 */
export function startSuccessor(
  { command, args }: Program,
  env: NodeJS.ProcessEnv,
  sockets: readonly ListeningSocket[],
  hello: Omit<Extract<OldSays, { kind: 'hello' }>, 'kind' | 'listening'>,
  { heard, ended }: SuccessorListeners,
): SuccessorProcess {
  const child: ChildProcess = spawn(command, args, {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc', ...sockets.map(({ fd }) => fd)],
    env: { ...env, [MARK]: '1' },
  });
  let hasParted = false;
  let how: string | undefined;
  let isOver = false;
  const over = (): void => {
    if (isOver || hasParted) return;
    isOver = true;
    ended(how ?? 'closed the connection to this process');
  };
  const exited = new Promise<number>((resolve) => {
    child.once('exit', (code, signal) => {
      how ??= signal === null ? `ended with exit code ${code}` : `was ended by ${signal}`;
      // Its last message may still be on its way.
      if (child.connected) setTimeout(over, CHANNEL_CLOSES_WITHIN_MS).unref();
      else over();
      resolve(code ?? 1);
    });
    child.once('error', (error) => {
      how ??= `cannot be started: ${reasonOf(error)}`;
      over();
      resolve(1);
    });
  });
  child.on('disconnect', () => {
    if (how === undefined) setTimeout(over, CHANNEL_CLOSES_WITHIN_MS).unref();
    else over();
  });
  child.on('message', (message) => {
    if (hasFields(message)) heard(message as unknown as SuccessorSays);
  });
  const say = (message: OldSays, handle?: SocketHandle): void => {
    // A failure is reported by 'disconnect'. `child_process` takes any handle of tcp_wrap, and leaves it open here.
    if (child.connected) child.send(message, handle as unknown as Server, () => {});
  };
  const listening = sockets.map((socket, i) => ({ ...socket, fd: FIRST_DESCRIPTOR + i }));
  if (child.pid !== undefined) say({ kind: 'hello', listening, ...hello });
  return {
    ...{ pid: child.pid, say, exited },
    part() {
      hasParted = true;
      if (child.connected) child.disconnect();
    },
    forget: () => child.unref(),
    kill: () => void child.kill('SIGKILL'),
  };
}

/** The old process, as its successor sees it. */
export interface OldProcess {
  readonly hello: Extract<OldSays, { kind: 'hello' }>;
  /** Resolves when it is sent, or cannot be. */
  say(message: SuccessorSays): Promise<void>;
  /** Calls `act` once this process is the service's main one. */
  onMain(act: () => void): void;
  /** Hears what has been said so far, and all that follows. `alone` is called once the old process has ended or parted. */
  listen(listeners: { heard(message: OldSays, handle: SocketHandle | undefined): void; alone(): void }): void;
}

/** Nobody knows this process, and whoever started the old one starts it again. */
export function oldProcessEnded(): StartError {
  return new StartError(
    'HSW_HANDOVER_FAILED',
    'the process that started this one has ended before it had handed everything over, so this one ends, too',
  );
}

/**
 * Whether this process is to take over from another one. Removes the mark, so that no child process has it.
 *
 * @throws StartError when the other one has ended already.
 */
export async function takeOldProcess(env: NodeJS.ProcessEnv): Promise<OldProcess | undefined> {
  const isMarked = env[MARK] !== undefined;
  delete env[MARK];
  if (!isMarked) return undefined;
  if (!process.connected) throw oldProcessEnded();
  type Said = readonly [OldSays, SocketHandle | undefined];
  const early: Said[] = [];
  let listeners: Parameters<OldProcess['listen']>[0] | undefined;
  let isAlone = false;
  let main = (): void => {};
  const isMain = new Promise<void>((become) => {
    main = become;
  });
  return new Promise((resolve, reject) => {
    process.on('message', (message: unknown, handle: unknown) => {
      if (!hasFields(message)) return;
      const said = message as unknown as OldSays;
      if (said.kind === 'main') main();
      else if (said.kind === 'hello') resolve({ hello: said, say, listen, onMain: (act) => void isMain.then(act) });
      else if (listeners === undefined) early.push([said, handle as SocketHandle | undefined]);
      else listeners.heard(said, handle as SocketHandle | undefined);
    });
    process.once('disconnect', () => {
      isAlone = true;
      main();
      listeners?.alone();
      reject(oldProcessEnded());
    });
    const say = (message: SuccessorSays): Promise<void> =>
      new Promise((sent) => {
        if (process.connected) process.send?.(message, undefined, undefined, () => sent());
        else sent();
      });
    const listen: OldProcess['listen'] = (each) => {
      listeners = each;
      for (const [said, handle] of early.splice(0)) each.heard(said, handle);
      if (isAlone) each.alone();
    };
  });
}
