import type { AddressInfo, Server } from 'node:net';
import type { HostPort } from '../config/types.ts';
import { addressAndPort } from '../lib/addresses.ts';
import { codeOf, reasonOf, StartError } from '../lib/errors.ts';

/** During a restart, new connections wait in an inherited socket. The kernel's default limit is the same since Linux 5.4. */
const BACKLOG = 4096;

/**
 * Makes a server listen.
 *
 * @param flag the option that gave the address, for error messages.
 * @param inherited the descriptor of a socket that already listens. It must listen on the configured port.
 * @throws StartError when the address cannot be listened on.
 */
export function listen(server: Server, where: HostPort, flag: string, inherited?: number): Promise<AddressInfo> {
  const { host, port } = where;
  return new Promise((resolve, reject) => {
    if (inherited !== undefined) {
      server.once('error', (error) => reject(inheritedError(`is no listening TCP socket, ${reasonOf(error)}`)));
      // With a descriptor, Node reads the backlog only from this argument.
      server.listen({ fd: inherited }, BACKLOG, () => {
        const address = server.address();
        const problem = misfitOf(address, port);
        if (problem === undefined) resolve(address as AddressInfo);
        else server.close(() => reject(inheritedError(problem)));
      });
      return;
    }
    server.once('error', (error) => reject(listenError(error, flag, host, port)));
    server.listen({ host, port }, () => resolve(server.address() as AddressInfo));
  });
  function inheritedError(problem: string): StartError {
    const socket = `the socket that was passed in for ${flag} ${addressAndPort(host, port)}, descriptor ${inherited},`;
    return new StartError(
      'HSW_INHERITED_SOCKET_INVALID',
      `${socket} ${problem}: write ListenStream=${port} into the .socket unit, the lines in the order of --listen, and Accept=no`,
    );
  }
}

/** What is wrong with the address of an inherited socket. Undefined if nothing is. */
function misfitOf(address: AddressInfo | string | null, port: number): string | undefined {
  if (address === null || typeof address === 'string') return 'is no TCP socket';
  if (port === 0 || address.port === port) return undefined;
  return `listens on ${addressAndPort(address.address, address.port)}`;
}

function listenError(error: Error, flag: string, host: string, port: number): StartError {
  const where = `cannot listen on ${flag} ${addressAndPort(host, port)}`;
  switch (codeOf(error)) {
    case 'EADDRINUSE':
      return new StartError(
        'HSW_LISTEN_FAILED',
        `${where}: the port is in use; stop what uses it or choose another port`,
        { cause: error },
      );
    case 'EACCES':
      return new StartError('HSW_LISTEN_FAILED', `${where}: not allowed; ports below 1024 need CAP_NET_BIND_SERVICE`, {
        cause: error,
      });
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new StartError(
        'HSW_LISTEN_FAILED',
        `${where}: the name '${host}' is unknown; write an address of this machine`,
        {
          cause: error,
        },
      );
    case 'EADDRNOTAVAIL':
      return new StartError(
        'HSW_LISTEN_FAILED',
        `${where}: this machine does not have that address; write one that it has, or 0.0.0.0 or [::] for all`,
        { cause: error },
      );
    default:
      return new StartError('HSW_LISTEN_FAILED', `${where}: ${reasonOf(error)}`, { cause: error });
  }
}
