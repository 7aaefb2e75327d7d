import { request } from 'node:http';
import { formatHostPort, type HostPort } from '../config/host-port.ts';
import { reasonOf, StartError } from '../lib/errors.ts';

const TIMEOUT_MS = 10_000;

export interface AdminAnswer {
  readonly status: number;
  readonly text: string;
}

/** Asks a running watchdog's admin server. @throws StartError when nobody answers there. */
export function askAdmin(admin: HostPort, method: 'GET' | 'POST', path: string, token?: string): Promise<AdminAnswer> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return new Promise((resolve, reject) => {
    const failed = (error: unknown): void => {
      const where = `${method} http://${formatHostPort(admin)}${path}`;
      const cure = 'is a watchdog running, and is this the --admin address it was started with?';
      reject(new StartError(`${where}: ${reasonOf(error)}; ${cure}`, { cause: error }));
    };
    const asking = request(
      { ...whereToConnect(admin), method, path, headers, agent: false, timeout: TIMEOUT_MS },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', failed);
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() }));
      },
    );
    asking.on('timeout', () => asking.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
    asking.on('error', failed);
    asking.end();
  });
}

/** What listens on every address is reached on this machine's own. */
function whereToConnect({ host, port }: HostPort): HostPort {
  if (host === '0.0.0.0') return { host: '127.0.0.1', port };
  return host === '::' ? { host: '::1', port } : { host, port };
}
