import { type BigIntStats, statSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { isSigned } from '../config/notify.ts';
import {
  type Certificate,
  readApiKey,
  readCertificate,
  readNoiseKey,
  readNotifySecret,
  readOauthClientSecret,
} from '../config/secrets.ts';
import type { Config, NotifyTarget } from '../config/types.ts';
import type { Credentials } from '../headscale/capabilities.ts';
import type { NoiseKey } from '../identity/noise.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { codeOf, reasonOf, StartError } from '../lib/errors.ts';
import type { Emit, WatchedFile } from '../streams/events.ts';

const LOOK_EVERY_MS = 5000;
/** While the Noise key is not there yet. Streams that open meanwhile stay without an identity. */
const LOOK_FOR_KEY_EVERY_MS = 500;

interface HeldCertificate extends Certificate {
  readonly readAt: Date;
}

export interface KeyFilesOptions {
  readonly clock: Clock;
  readonly emit: Emit;
}

type KeyPaths = Pick<Config, 'noiseKeyFile' | 'apiKeyFile' | 'oauthClientFile'> & Partial<Pick<Config, 'notify'>>;

/** Called when a key file has changed and has been read again. */
export interface KeyFileUsers {
  noiseKey(): void;
  /** The API key, or the secret of the OAuth client. */
  credentials(): void;
  /** @param listener the position in `listen`. */
  certificate(listener: number, certificate: Certificate): void;
  notifySecrets(): void;
}

/** The keys and certificates from files. A changed file is read again. If it cannot be used, the old key stays in use. */
export class KeyFiles {
  readonly #options: KeyFilesOptions;
  readonly #noise: KeyFile<NoiseKey>;
  readonly #api: KeyFile<string>;
  readonly #oauth: KeyFile<string>;
  /** By path: keys for signatures, and tokens. */
  readonly #signing: KeyFile<ReadonlyMap<string, string>>;
  readonly #tokens: KeyFile<ReadonlyMap<string, string>>;
  /** By position in `listen`. That list changes only with a restart. */
  readonly #certificates: readonly (KeyFile<HeldCertificate> | undefined)[];
  #users: KeyFileUsers = { noiseKey() {}, credentials() {}, certificate() {}, notifySecrets() {} };
  #timer: Timer | undefined;
  #closed = false;

  /** @throws StartError when a file cannot be used. The file with the Noise key may be missing: then it is used once it is there. */
  constructor(config: KeyPaths & Pick<Config, 'listen'>, options: KeyFilesOptions) {
    this.#options = options;
    this.#noise = new KeyFile(
      'Noise key',
      ([path]) => readNoiseKey(path),
      () => this.#users.noiseKey(),
      // Headscale makes it when it starts for the first time, which may be after us.
      { mayComeLater: true },
    );
    this.#api = new KeyFile(
      'API key',
      ([path]) => readApiKey(path),
      () => this.#users.credentials(),
    );
    this.#oauth = new KeyFile(
      'OAuth client',
      ([path]) => readOauthClientSecret(path),
      () => this.#users.credentials(),
    );
    const secrets = (signed: boolean) =>
      new KeyFile<ReadonlyMap<string, string>>(
        'secret for notifications',
        (paths) => new Map(paths.map((path) => [path, readNotifySecret(path, signed)])),
        () => this.#users.notifySecrets(),
      );
    this.#signing = secrets(true);
    this.#tokens = secrets(false);
    this.#certificates = config.listen.map(({ tls }, i) => {
      if (tls === undefined) return undefined;
      const read = ([certFile, keyFile = '']: Paths): HeldCertificate => ({
        ...readCertificate({ certFile, keyFile }),
        readAt: options.clock.dateOf(options.clock.now()),
      });
      const file = new KeyFile<HeldCertificate>('certificate', read, (renewed) => this.#users.certificate(i, renewed));
      file.prepare([tls.certFile, tls.keyFile])();
      return file;
    });
    this.prepare(config)();
  }

  onChange(users: KeyFileUsers): void {
    this.#users = users;
  }

  /** Starts looking at the files every five seconds. */
  watch(): void {
    this.#schedule();
  }

  /** @param listener the position in `listen`. @returns undefined if that listener speaks plain HTTP. */
  certificateOf(listener: number): HeldCertificate | undefined {
    return this.#certificates[listener]?.value;
  }

  /** When the first certificate expires; undefined if there are no certificates. */
  get firstCertificateToExpire(): Date | undefined {
    const dates = this.#certificates.map((file) => file?.value?.expires).filter((date) => date !== undefined);
    return dates.length === 0 ? undefined : new Date(Math.min(...dates.map(Number)));
  }

  get noiseKey(): NoiseKey | undefined {
    return this.#noise.value;
  }

  get credentials(): Credentials {
    return { apiKey: this.#api.value, oauthClientSecret: this.#oauth.value };
  }

  /** What the target's `secret-file` holds; undefined without one. */
  notifySecretOf(target: NotifyTarget): string | undefined {
    const { secretFile } = target;
    return secretFile && (isSigned(target) ? this.#signing : this.#tokens).value?.get(secretFile);
  }

  /**
   * Reads the key files of a configuration, but does not use the keys yet.
   *
   * @returns a function that starts using the new keys. It returns a function that goes back to the old ones.
   * @throws StartError when a file cannot be used.
   */
  prepare(config: KeyPaths): () => () => void {
    const { noiseKeyFile, apiKeyFile, oauthClientFile, notify = [] } = config;
    const secretsOf = (signed: boolean): Paths | undefined => {
      const [first, ...more] = new Set(
        notify.flatMap((target) =>
          target.secretFile !== undefined && isSigned(target) === signed ? [target.secretFile] : [],
        ),
      );
      return first === undefined ? undefined : [first, ...more];
    };
    const uses = [
      this.#noise.prepare(noiseKeyFile === undefined ? undefined : [noiseKeyFile]),
      this.#api.prepare(apiKeyFile === undefined ? undefined : [apiKeyFile]),
      this.#oauth.prepare(oauthClientFile === undefined ? undefined : [oauthClientFile]),
      this.#signing.prepare(secretsOf(true)),
      this.#tokens.prepare(secretsOf(false)),
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

  /** Reads again what has changed. It compares inodes, because a file watcher loses a file that is replaced. */
  async look(): Promise<void> {
    for (const file of [this.#noise, this.#api, this.#oauth, this.#signing, this.#tokens, ...this.#certificates]) {
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
      // The next look tries again, because permissions can change without the file. Each problem is reported once.
      const problem = reasonOf(error);
      const code = error instanceof StartError ? error.code : 'HSW_INTERNAL';
      if (file.isNews(problem)) this.#options.emit({ kind: 'key_file_reload_failed', code, detail: problem });
      return;
    }
    this.#options.emit({ kind: 'key_file_reloaded', key: file.name, file: was[0] });
    file.tell();
  }

  #schedule(): void {
    if (this.#closed) return;
    const everyMs = this.#noise.isAwaited ? LOOK_FOR_KEY_EVERY_MS : LOOK_EVERY_MS;
    this.#timer = this.#options.clock.after(everyMs, () => {
      void this.look()
        .catch((error: unknown) =>
          this.#options.emit({ kind: 'internal_error', during: 'looking at the key files', error }),
        )
        .finally(() => this.#schedule());
    });
  }
}

/** The files of one value: a key has one file, a certificate two. */
type Paths = readonly [path: string, ...more: string[]];

type Watched = Pick<KeyFile<unknown>, 'name' | 'paths' | 'prepare' | 'hasChanged' | 'isNews' | 'tell'>;

class KeyFile<T> {
  readonly name: WatchedFile;
  readonly #read: (paths: Paths) => T;
  readonly #changed: (value: T) => void;
  #paths: Paths | undefined;
  #value: T | undefined;
  /** The fingerprint of the files when they were last read. */
  #fingerprint: string | undefined;
  #problem: string | undefined;
  readonly #mayComeLater: boolean;
  #isStarted = false;

  constructor(
    name: WatchedFile,
    read: (paths: Paths) => T,
    changed: (value: T) => void,
    { mayComeLater = false }: { readonly mayComeLater?: boolean } = {},
  ) {
    this.name = name;
    this.#read = read;
    this.#changed = changed;
    this.#mayComeLater = mayComeLater;
  }

  /** Whether the file was missing at the start, and still is. */
  get isAwaited(): boolean {
    return this.#paths !== undefined && this.#value === undefined;
  }

  get paths(): Paths | undefined {
    return this.#paths;
  }

  get value(): T | undefined {
    return this.#value;
  }

  prepare(paths: Paths | undefined): () => () => void {
    // Take it before reading, so that the next look notices a change in between.
    const fingerprint = paths?.map(fingerprintNow).join();
    const value = paths === undefined ? undefined : this.#readOrAwait(paths);
    return () => {
      const before = [this.#paths, this.#value, this.#fingerprint] as const;
      this.#problem = undefined;
      this.#use(paths, value, fingerprint);
      return () => this.#use(...before);
    };
  }

  #readOrAwait(paths: Paths): T | undefined {
    try {
      return this.#read(paths);
    } catch (error) {
      const isMissing = error instanceof StartError && codeOf(error.cause) === 'ENOENT';
      const isStillAwaited = this.isAwaited && paths.join() === this.#paths?.join();
      if (isMissing && this.#mayComeLater && (!this.#isStarted || isStillAwaited)) return undefined;
      throw error;
    }
  }

  #use(paths: Paths | undefined, value: T | undefined, fingerprint: string | undefined): void {
    this.#isStarted = true;
    this.#paths = paths;
    this.#value = value;
    this.#fingerprint = fingerprint;
  }

  /** Tells whoever uses the value that it has changed. */
  tell(): void {
    if (this.#value !== undefined) this.#changed(this.#value);
  }

  /** Whether this problem is new since the files were last read successfully. */
  isNews(problem: string): boolean {
    const isNews = problem !== this.#problem;
    this.#problem = problem;
    return isNews;
  }

  /** Whether a file differs from when it was last read. A missing file counts as unchanged. */
  async hasChanged(): Promise<boolean> {
    const paths = this.#paths;
    if (paths === undefined) return false;
    const found = await Promise.all(paths.map((path) => stat(path, { bigint: true }).catch(codeOf)));
    if (found.includes('ENOENT') || paths !== this.#paths) return false;
    // A folder that may not be entered any more: reading the file will then report why.
    if (found.some((each) => typeof each !== 'object')) return true;
    return (found as BigIntStats[]).map(fingerprintOf).join() !== this.#fingerprint;
  }
}

/** @returns undefined if the file cannot be found. Reading it will then report why. */
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
