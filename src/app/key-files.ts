import { type BigIntStats, statSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { type Certificate, readApiKey, readCertificate, readNoiseKey } from '../config/secrets.ts';
import type { Config } from '../config/types.ts';
import type { NoiseKey } from '../identity/noise.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { reasonOf } from '../lib/errors.ts';
import type { Emit, WatchedFile } from '../streams/events.ts';

const LOOK_EVERY_MS = 5000;

export interface KeyFilesPorts {
  readonly clock: Clock;
  readonly emit: Emit;
}

/** Whoever uses a key is told when its file has changed and was read again. */
export interface KeyFileUsers {
  noiseKey(): void;
  apiKey(): void;
  /** @param listener the position in `listen`. */
  certificate(listener: number, certificate: Certificate): void;
}

/** The keys and certificates that come from files, read again when their files change. What cannot be used leaves the key in use. */
export class KeyFiles {
  readonly #ports: KeyFilesPorts;
  readonly #noise: KeyFile<NoiseKey>;
  readonly #api: KeyFile<string>;
  /** By their place in `listen`, which stays as it was at the start. */
  readonly #certificates: readonly (KeyFile<Certificate> | undefined)[];
  #users: KeyFileUsers = { noiseKey() {}, apiKey() {}, certificate() {} };
  #timer: Timer | undefined;
  #closed = false;

  /** @throws StartError when a file cannot be used. */
  constructor(config: Pick<Config, 'noiseKeyFile' | 'apiKeyFile' | 'listen'>, ports: KeyFilesPorts) {
    this.#ports = ports;
    this.#noise = new KeyFile(
      'noise key',
      ([path]) => readNoiseKey(path),
      () => this.#users.noiseKey(),
    );
    this.#api = new KeyFile(
      'API key',
      ([path]) => readApiKey(path),
      () => this.#users.apiKey(),
    );
    this.#certificates = config.listen.map(({ tls }, i) => {
      if (tls === undefined) return undefined;
      const read = ([certFile, keyFile = '']: Paths): Certificate => readCertificate({ certFile, keyFile });
      const file = new KeyFile<Certificate>('certificate', read, (renewed) => this.#users.certificate(i, renewed));
      file.prepare([tls.certFile, tls.keyFile])();
      return file;
    });
    this.prepare(config)();
    this.#schedule();
  }

  onChange(users: KeyFileUsers): void {
    this.#users = users;
  }

  /** Of one of `listen`, by its place there; undefined where it speaks plain HTTP. */
  certificateOf(listener: number): Certificate | undefined {
    return this.#certificates[listener]?.value;
  }

  /** When the first of the certificates expires; undefined where there is none. */
  get firstCertificateToExpire(): Date | undefined {
    const dates = this.#certificates.map((file) => file?.value?.expires).filter((date) => date !== undefined);
    return dates.length === 0 ? undefined : new Date(Math.min(...dates.map(Number)));
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
   * @returns what puts them to use, which returns what goes back to those in use now.
   * @throws StartError when one cannot be used.
   */
  prepare(config: Pick<Config, 'noiseKeyFile' | 'apiKeyFile'>): () => () => void {
    const { noiseKeyFile, apiKeyFile } = config;
    const uses = [
      this.#noise.prepare(noiseKeyFile === undefined ? undefined : [noiseKeyFile]),
      this.#api.prepare(apiKeyFile === undefined ? undefined : [apiKeyFile]),
    ];
    return () => {
      const undos = uses.map((use) => use());
      return () => {
        for (const undo of undos) undo();
      };
    };
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  /** Whether a file has changed is asked of its inode: a watch would lose it when the file is replaced. */
  async look(): Promise<void> {
    for (const file of [this.#noise, this.#api, ...this.#certificates]) {
      if (file !== undefined) await this.#lookAt(file);
    }
  }

  async #lookAt(file: Watched): Promise<void> {
    const was = file.paths;
    if (was === undefined || !(await file.hasChanged())) return;
    if (this.#closed || file.paths !== was) return;
    try {
      file.prepare(was)();
    } catch (error) {
      // It is tried again at each look, for what is wrong may be mended without a change of the file, and told once.
      const problem = reasonOf(error);
      if (file.isNews(problem)) this.#ports.emit({ kind: 'key_file_reload_failed', problem });
      return;
    }
    this.#ports.emit({ kind: 'key_file_reloaded', key: file.name, file: was[0] });
    file.tell();
  }

  #schedule(): void {
    if (this.#closed) return;
    this.#timer = this.#ports.clock.after(LOOK_EVERY_MS, () => {
      void this.look()
        .catch((error: unknown) =>
          this.#ports.emit({ kind: 'internal_error', during: 'looking at the key files', error }),
        )
        .finally(() => this.#schedule());
    });
  }
}

/** Of one value: a key has one, a certificate is two. */
type Paths = readonly [path: string, ...more: string[]];

type Watched = Pick<KeyFile<unknown>, 'name' | 'paths' | 'prepare' | 'hasChanged' | 'isNews' | 'tell'>;

class KeyFile<T> {
  readonly name: WatchedFile;
  readonly #read: (paths: Paths) => T;
  readonly #changed: (value: T) => void;
  #paths: Paths | undefined;
  #value: T | undefined;
  /** Of the files as they were last read. */
  #fingerprint: string | undefined;
  #problem: string | undefined;

  constructor(name: WatchedFile, read: (paths: Paths) => T, changed: (value: T) => void) {
    this.name = name;
    this.#read = read;
    this.#changed = changed;
  }

  get paths(): Paths | undefined {
    return this.#paths;
  }

  get value(): T | undefined {
    return this.#value;
  }

  prepare(paths: Paths | undefined): () => () => void {
    // Before the reading: what changes in between is seen as a change at the next look.
    const fingerprint = paths?.map(fingerprintNow).join();
    const value = paths === undefined ? undefined : this.#read(paths);
    return () => {
      const before = [this.#paths, this.#value, this.#fingerprint] as const;
      this.#problem = undefined;
      this.#use(paths, value, fingerprint);
      return () => this.#use(...before);
    };
  }

  #use(paths: Paths | undefined, value: T | undefined, fingerprint: string | undefined): void {
    this.#paths = paths;
    this.#value = value;
    this.#fingerprint = fingerprint;
  }

  /** Tells whoever uses it that there is another. */
  tell(): void {
    if (this.#value !== undefined) this.#changed(this.#value);
  }

  /** Whether this is another problem than the last one since it could be read. */
  isNews(problem: string): boolean {
    const isNews = problem !== this.#problem;
    this.#problem = problem;
    return isNews;
  }

  /** Whether a file is another than when it was last read. One that is not there has not changed. */
  async hasChanged(): Promise<boolean> {
    const paths = this.#paths;
    if (paths === undefined) return false;
    const found = await Promise.all(paths.map((path) => stat(path, { bigint: true }).catch(() => undefined)));
    if (found.includes(undefined) || paths !== this.#paths) return false;
    return found.map(fingerprintOf).join() !== this.#fingerprint;
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
