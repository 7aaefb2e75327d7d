import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { codeOf, reasonOf, StartError } from '../lib/errors.ts';

/** A key takes a line; what is larger is some other file. */
export const LARGEST_KEY_KIB = 4;

export interface SmallFile {
  /** The flag that names it: `--config`. */
  readonly flag: string;
  readonly path: string;
  readonly largestKiB: number;
  /** What to do where there is no such file, where it is a folder, and where it is larger. */
  readonly cures: { readonly missing: string; readonly folder: string; readonly larger: string };
}

/**
 * Reads a regular file, or what a symbolic link to one leads to, whole. A pipe
 * or a device is not read: it may never answer, and this one thread carries every stream.
 *
 * @returns a buffer of its own, so that wiping it leaves no copy.
 * @throws StartError when it cannot be read, is no regular file or is larger.
 */
export function readSmallFile(file: SmallFile): Buffer {
  const { flag, path, largestKiB } = file;
  let bytes: Buffer | undefined;
  try {
    bytes = regularBytes(path, largestKiB * 1024 + 1);
  } catch (error) {
    throw new StartError(`${flag} ${path}: ${cureOf(error, file)}`, { cause: error });
  }
  if (bytes === undefined) throw new StartError(`${flag} ${path}: ${NO_REGULAR_FILE}`);
  if (bytes.length <= largestKiB * 1024) return bytes;
  bytes.fill(0);
  throw new StartError(`${flag} ${path}: is larger than ${largestKiB} KiB; ${file.cures.larger}`);
}

const NO_REGULAR_FILE = 'is a pipe, a socket or a device; name a regular file';

/** O_NONBLOCK: to open a pipe would else wait for its writer. O_NOCTTY: to open a terminal would else make it ours. */
const FLAGS = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** The first bytes of a file, `most` of them at most; undefined when it is no regular file. */
function regularBytes(path: string, most: number): Buffer | undefined {
  const file = openSync(path, FLAGS);
  try {
    const found = fstatSync(file);
    // A folder fails at the reading, with a code that says so.
    if (!found.isFile() && !found.isDirectory()) return undefined;
    return bytesOf(file, most);
  } finally {
    closeSync(file);
  }
}

function bytesOf(file: number, most: number): Buffer {
  const bytes = Buffer.alloc(most);
  let length = 0;
  try {
    for (let read = -1; read !== 0 && length < most; length += read) {
      read = readSync(file, bytes, length, most - length, null);
    }
    return bytes.subarray(0, length);
  } catch (error) {
    // It may be part of a key.
    bytes.fill(0);
    throw error;
  }
}

function cureOf(error: unknown, { cures }: SmallFile): string {
  switch (codeOf(error)) {
    case 'ENOENT':
      return `there is no such file; ${cures.missing}`;
    case 'EACCES':
      return 'this user may not read it; give it read access, for example through a group';
    case 'EISDIR':
      return `is a folder; ${cures.folder}`;
    // A socket cannot be opened at all, nor a device that is not plugged in.
    case 'ENXIO':
      return NO_REGULAR_FILE;
    default:
      return reasonOf(error);
  }
}
