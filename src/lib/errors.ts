/** Where a code appears besides the log: as a command's exit code, or as the status of an answer of the admin API. */
interface Seen {
  /** 1: something failed. 2: the command was used wrongly. 3: nothing matched. */
  readonly exit?: 1 | 2 | 3;
  readonly status?: 400 | 401 | 403 | 404 | 405 | 409 | 413 | 500 | 503;
  /** `check` finds it. It exits with 1 if anything failed, whatever `exit` is. */
  readonly check?: true;
}

/**
 * Every error code, for scripts, alerts and searches. A code never changes its meaning. docs/errors.md explains each: what
 * has happened, and what to do.
 */
export const ERRORS = {
  // The command line and the configuration.
  HSW_USAGE_INVALID: { exit: 2 },
  HSW_OUTPUT_FAILED: { exit: 1 },
  HSW_CONFIG_INVALID: { exit: 2, check: true },
  HSW_CONFIG_UNREADABLE: { exit: 2, check: true },
  HSW_VARIABLE_UNKNOWN: {},
  HSW_RESTART_REQUIRED: {},
  HSW_HANDOVER_FAILED: { exit: 1 },
  // Keys, secrets and certificates in files.
  HSW_NOISE_KEY_MISSING: { check: true },
  HSW_NOISE_KEY_UNREADABLE: { exit: 1, check: true },
  HSW_NOISE_KEY_MISMATCH: { exit: 1, check: true },
  HSW_API_KEY_UNREADABLE: { exit: 1, check: true },
  HSW_OAUTH_CLIENT_UNREADABLE: { exit: 1, check: true },
  HSW_ADMIN_TOKEN_UNREADABLE: { exit: 2, check: true },
  HSW_CERTIFICATE_UNREADABLE: { exit: 1, check: true },
  HSW_CERTIFICATE_EXPIRING: { check: true },
  HSW_CERTIFICATE_SELF_SIGNED: { check: true },
  HSW_REDIS_FILE_UNREADABLE: { exit: 1, check: true },
  HSW_NOTIFY_SECRET_UNREADABLE: { exit: 1, check: true },
  // Notifications.
  HSW_NOTIFICATION_DELAYED: {},
  HSW_NOTIFICATION_DROPPED: {},
  // The history file.
  HSW_HISTORY_FILE_UNUSABLE: { exit: 1, check: true },
  HSW_HISTORY_FILE_FAILED: {},
  // Listening, systemd, and what the kernel and Node offer.
  HSW_LISTEN_FAILED: { exit: 1, check: true },
  HSW_INHERITED_SOCKET_INVALID: { exit: 1 },
  HSW_INHERITED_SOCKETS_UNUSED: {},
  HSW_SERVICE_MANAGER_UNREACHABLE: {},
  HSW_KERNEL_EVIDENCE_UNAVAILABLE: { check: true },
  HSW_READS_NOT_POOLED: {},
  // Headscale.
  HSW_UPSTREAM_UNREACHABLE: { check: true },
  HSW_UPSTREAM_SILENT: { check: true },
  HSW_UPSTREAM_NOT_HEADSCALE: { check: true },
  HSW_UPSTREAM_REFUSED: {},
  HSW_UPSTREAM_PROTOCOL_MISMATCHED: {},
  HSW_NODES_LIST_FAILED: { check: true },
  HSW_NODE_METRICS_DISABLED: {},
  HSW_NODE_DISAGREES: {},
  // Clients, and the proxies in front of the watchdog.
  HSW_MACHINE_KEY_DUPLICATED: {},
  HSW_CONNECTION_REFUSED: {},
  HSW_LIMIT_REACHED: {},
  HSW_PROXY_SOCKETS_HIDDEN: { check: true },
  HSW_PROXY_NOT_TRUSTED: { check: true },
  HSW_CLIENT_ADDRESSES_HIDDEN: { check: true },
  HSW_UPGRADE_HEADER_LOST: { check: true },
  // Replicas.
  HSW_REDIS_UNREACHABLE: {},
  HSW_REPLICA_MESSAGE_REJECTED: {},
  // The admin API, and the commands that use it.
  HSW_ADMIN_UNREACHABLE: { exit: 1 },
  HSW_ADMIN_TOKEN_REQUIRED: { exit: 1, status: 401 },
  HSW_ADMIN_TOKEN_WRONG: { exit: 1, status: 401 },
  HSW_ADMIN_TOKEN_READS_ONLY: { exit: 1, status: 403 },
  HSW_ADMIN_HOST_NOT_ALLOWED: { exit: 1, status: 403 },
  HSW_ADMIN_ORIGIN_NOT_ALLOWED: { exit: 1, status: 403 },
  HSW_ADMIN_PATH_UNKNOWN: { exit: 1, status: 404 },
  HSW_ADMIN_METHOD_NOT_ALLOWED: { exit: 1, status: 405 },
  HSW_ADMIN_REQUEST_INVALID: { exit: 1, status: 400 },
  HSW_ADMIN_BODY_TOO_LARGE: { exit: 1, status: 413 },
  HSW_ADMIN_FULL: { exit: 1, status: 503 },
  HSW_ADMIN_ANSWER_UNEXPECTED: { exit: 1 },
  HSW_PARAMETER_INVALID: { exit: 2, status: 400 },
  HSW_NODE_UNKNOWN: { exit: 3, status: 404, check: true },
  HSW_NODE_AMBIGUOUS: { exit: 1, status: 409 },
  HSW_STREAM_UNKNOWN: { exit: 3, status: 404 },
  HSW_STREAM_AMBIGUOUS: { exit: 1 },
  HSW_STREAM_ENDING: { exit: 1, status: 409 },
  HSW_NOT_CONFIRMED: { exit: 1 },
  // A bug in the watchdog.
  HSW_INTERNAL: { exit: 1, status: 500 },
} as const satisfies Readonly<Record<`HSW_${string}`, Seen>>;

export type ErrorCode = keyof typeof ERRORS;

/** The codes with which a command ends. */
export type ExitErrorCode = {
  [C in ErrorCode]: (typeof ERRORS)[C] extends { readonly exit: number } ? C : never;
}[ErrorCode];

/** The codes that an answer of the admin API carries. */
export type ApiErrorCode = {
  [C in ErrorCode]: (typeof ERRORS)[C] extends { readonly status: number } ? C : never;
}[ErrorCode];

/** The codes of what `check` finds. */
export type CheckErrorCode = {
  [C in ErrorCode]: (typeof ERRORS)[C] extends { readonly check: true } ? C : never;
}[ErrorCode];

export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(ERRORS, code);
}

/** Stops a start, a reload or a command. The message says what the program tried, with which value, and what to do. */
export class StartError extends Error {
  override readonly name = 'StartError';
  readonly code: ExitErrorCode;

  constructor(code: ExitErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Flags, a file or parameters are wrong. `problems` lists every mistake, so that nobody finds them one by one. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  readonly code: ExitErrorCode;
  readonly problems: readonly string[];

  constructor(code: ExitErrorCode, problems: readonly string[]) {
    super(problems.join('\n'));
    this.code = code;
    this.problems = problems;
  }
}

/** The line that a command prints for an error, with its line break. */
export function errorLine(code: ExitErrorCode, message: string): string {
  return `error [${code}]: ${message}\n`;
}

/** The other side accepted a connection but did not answer in time. */
export class NoAnswerError extends Error {
  override readonly name = 'NoAnswerError';
}

/** The short reason of a socket or file error, for a log line. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // Node throws an AggregateError when every address of a name fails. Its own message is empty.
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  if (speaksNoTls(error)) return 'what answers there does not speak TLS';
  // OpenSSL's message has two lines, with addresses and its own source files.
  const { reason } = error as { reason?: unknown };
  if (codeOf(error)?.startsWith('ERR_SSL_') && typeof reason === 'string') return `TLS failed: ${reason}`;
  return error.message;
}

/** Whether the answer to a TLS handshake was something else, such as HTTP. */
export function speaksNoTls(error: unknown): boolean {
  return /^ERR_SSL_(WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG)$/.test(codeOf(error) ?? '');
}

/** The `code` of a Node error (`ECONNREFUSED`, …), if it has one. */
export function codeOf(error: unknown): string | undefined {
  if (error instanceof AggregateError && error.errors.length > 0) return codeOf(error.errors[0]);
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}
