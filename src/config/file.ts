import { StartError } from '../lib/errors.ts';
import type { ConfigFile } from './load.ts';
import { readSmallFile } from './secrets.ts';

/** A file of settings has hundreds of lines, not more; what is larger is some other file. */
const LARGEST_KIB = 128;

/**
 * Reads a file of settings, as UTF-8.
 *
 * @throws StartError when it cannot be read, is no regular file, larger than 128 KiB or not UTF-8.
 */
export function readConfigFile(path: string): ConfigFile {
  const bytes = readSmallFile({
    code: 'HSW_CONFIG_UNREADABLE',
    flag: '--config',
    path,
    largestKiB: LARGEST_KIB,
    cures: {
      missing: 'give the path of a file of settings',
      folder: 'name the file in it',
      larger: 'name a file of settings',
    },
  });
  try {
    return { path, text: new TextDecoder('utf-8', { fatal: true }).decode(bytes) };
  } catch (error) {
    throw new StartError('HSW_CONFIG_UNREADABLE', `--config ${path}: is not UTF-8; save it in that encoding`, {
      cause: error,
    });
  }
}
