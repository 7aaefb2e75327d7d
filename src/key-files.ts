import { type BigIntStats, statSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Clock, Timer } from './clock.ts';
import { readApiKey } from './config/api-key.ts';
import { readNoiseKey } from './config/noise-key.ts';
import type { Config } from './config/schema.ts';
import { reasonOf } from './errors.ts';
import type { Emit } from './events.ts';
import type { NoiseKey } from './identity/machine-key.ts';

const LOOK_EVERY_MS = 5000;

export interface KeyFilesPorts {
  readonly clock: Clock;
  readonly emit: Emit;
  /** A file has changed and its key was read again. */
  changed(key: 'noise key' | 'API key'): void;
}

/** The two keys that come from files, read again when their files change. What cannot be used leaves the key in use. */
export class KeyFiles {
  readonly #ports: KeyFilesPorts;
  readonly #noise = new KeyFile('noise key', readNoiseKey);
  readonly #api = new KeyFile('API key', readApiKey);
  #timer: Timer | undefined;
  #closed = false;

  /** @throws StartError when a file cannot be used. */
  constructor(config: Pick<Config, 'noiseKeyFile' | 'apiKeyFile'>, ports: KeyFilesPorts) {
    this.#ports = ports;
    this.prepare(config)();
    this.#schedule();
  }

  get noiseKey(): NoiseKey | undefined {
    return this.#noise.value;
  }

  get apiKey(): string | undefined {
    return this.#api.value;
  }

  /**
   * Reads the files a configuration names, without using them yet.
   *
   * @returns what puts them to use.
   * @throws StartError when one cannot be used.
   */
  prepare(config: Pick<Config, 'noiseKeyFile' | 'apiKeyFile'>): () => void {
    const uses = [this.#noise.prepare(config.noiseKeyFile), this.#api.prepare(config.apiKeyFile)];
    return () => {
      for (const use of uses) use();
    };
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  /** Whether a file has changed is asked of its inode: a watch would lose it when the file is replaced. */
  async look(): Promise<void> {
    for (const file of [this.#noise, this.#api]) {
      const was = file.path;
      if (was === undefined || !(await file.hasChanged())) continue;
      if (this.#closed || file.path !== was) continue;
      try {
        file.prepare(was)();
      } catch (error) {
        // It is tried again at each look, for what is wrong may be mended without a change of the file, and told once.
        const problem = reasonOf(error);
        if (file.isNews(problem)) this.#ports.emit({ kind: 'key not read again', problem });
        continue;
      }
      this.#ports.emit({ kind: 'key read again', key: file.name, file: was });
      this.#ports.changed(file.name);
    }
  }

  #schedule(): void {
    if (this.#closed) return;
    this.#timer = this.#ports.clock.after(LOOK_EVERY_MS, () => {
      void this.look()
        .catch((error: unknown) =>
          this.#ports.emit({ kind: 'internal error', during: 'looking at the key files', error }),
        )
        .finally(() => this.#schedule());
    });
  }
}

class KeyFile<T> {
  readonly name: 'noise key' | 'API key';
  readonly #read: (path: string) => T;
  #path: string | undefined;
  #value: T | undefined;
  /** Of the file as it was last read. */
  #fingerprint: string | undefined;
  #problem: string | undefined;

  constructor(name: 'noise key' | 'API key', read: (path: string) => T) {
    this.name = name;
    this.#read = read;
  }

  get path(): string | undefined {
    return this.#path;
  }

  get value(): T | undefined {
    return this.#value;
  }

  prepare(path: string | undefined): () => void {
    // Before the reading: what changes in between is seen as a change at the next look.
    const fingerprint = path === undefined ? undefined : fingerprintNow(path);
    const value = path === undefined ? undefined : this.#read(path);
    return () => {
      this.#path = path;
      this.#value = value;
      this.#fingerprint = fingerprint;
      this.#problem = undefined;
    };
  }

  /** Whether this is another problem than the last one since it could be read. */
  isNews(problem: string): boolean {
    const isNews = problem !== this.#problem;
    this.#problem = problem;
    return isNews;
  }

  /** Whether the file is another than when it was last read. One that is not there has not changed. */
  async hasChanged(): Promise<boolean> {
    const path = this.#path;
    if (path === undefined) return false;
    const fingerprint = fingerprintOf(await stat(path, { bigint: true }).catch(() => undefined));
    return fingerprint !== undefined && path === this.#path && fingerprint !== this.#fingerprint;
  }
}

/** Undefined where it cannot be told: the reading says why. */
function fingerprintNow(path: string): string | undefined {
  try {
    return fingerprintOf(statSync(path, { bigint: true }));
  } catch {
    return undefined;
  }
}

function fingerprintOf(found: BigIntStats | undefined): string | undefined {
  return found && `${found.dev}:${found.ino}:${found.size}:${found.mtimeNs}:${found.ctimeNs}`;
}
