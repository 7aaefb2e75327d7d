import type { AddressInfo, Socket } from 'node:net';
import type { AdminServer } from '../admin/server.ts';
import type { Config } from '../config/types.ts';
import { plainAddress } from '../lib/addresses.ts';
import type { Admission } from '../pipeline/admission.ts';
import type { ClientListener } from '../proxy/listener.ts';
import { listen } from '../proxy/listening.ts';
import type { Trust } from '../proxy/trusted-proxies.ts';
import type { Upstream } from '../proxy/upstream.ts';
import type { InheritedSockets } from '../service/inherited.ts';
import type { OldProcess, SuccessorProcess } from '../service/successor-process.ts';
import { type HandedState, Handover, type HandoverOptions, type HandoverOutcome } from './handover.ts';
import type { Shutdown } from './shutdown.ts';
import { Succession, type SuccessionOptions } from './successor.ts';

/** A new process listens, and has everything that can go. */
export interface HandedOver {
  readonly successor: SuccessorProcess;
  /** Resolves when what could not go has ended, and this process has nothing open any more. */
  readonly left: Promise<void>;
}

type Shared = 'clock' | 'emit' | 'registry' | 'acceptor';

interface HandingOverOptions
  extends Pick<SuccessionOptions, Shared | 'checkup' | 'isKeyMissing' | 'replicas'>,
    Pick<HandoverOptions, 'fromManager' | 'kept' | 'notifier'> {
  readonly config: Pick<Config, 'admin'>;
  readonly listeners: readonly ClientListener[];
  readonly admission: Admission;
  readonly upstream: Upstream;
  /** The trusted proxies now. */
  trust(): Trust;
  readonly shutdown: Shutdown;
  drainMs(): number;
  /** Undefined if there can be no hand-over. */
  readonly successor: Pick<HandoverOptions, 'program' | 'env'> | undefined;
}

/** Both ends of a hand-over: from the process before this one, and to the one after it. */
export class HandingOver {
  readonly #options: HandingOverOptions;
  readonly handedOver: Promise<HandedOver>;
  #tell: (handed: HandedOver) => void = () => {};
  #admin: AdminServer | undefined;
  #states: readonly HandedState[] = [];
  #current: Handover | undefined;

  constructor(options: HandingOverOptions) {
    this.#options = options;
    this.handedOver = new Promise((resolve) => {
      this.#tell = resolve;
    });
    options.shutdown.onStop(() => this.#current?.cancel());
  }

  /**
   * Listens on every address. On the sockets of the old process only once it has given everything.
   *
   * @throws StartError when an address cannot be listened on, or this process cannot take over.
   */
  async listen(
    admin: AdminServer,
    states: readonly HandedState[],
    inherited: InheritedSockets,
    old: OldProcess | undefined,
  ): Promise<{ readonly adminAddress: AddressInfo; readonly listenAddresses: readonly AddressInfo[] }> {
    this.#admin = admin;
    this.#states = states;
    const { config, listeners } = this.#options;
    const servers = [
      { server: admin, where: config.admin, flag: '--admin', fd: inherited.forAdmin },
      ...listeners.map(({ server, listen: where }, i) => {
        return { server, where, flag: '--listen', fd: inherited.forListener(i) };
      }),
    ];
    const addresses = new Map<object, AddressInfo>();
    const open = async (those: typeof servers): Promise<void> => {
      for (const { server, where, flag, fd } of those) addresses.set(server, await listen(server, where, flag, fd));
    };
    if (old === undefined) await open(servers);
    else {
      // New addresses first: if one cannot be used, the old process still has everything.
      await open(servers.filter(({ fd }) => fd === undefined));
      const succession = new Succession(old, {
        ...this.#options,
        states,
        connected: (...sockets) => this.#connected(...sockets),
      });
      await succession.takeOver();
      await open(servers.filter(({ fd }) => fd !== undefined));
      succession.listening();
    }
    const [adminAddress, ...listenAddresses] = servers.map(({ server }) => addresses.get(server) as AddressInfo);
    return { adminAddress: adminAddress as AddressInfo, listenAddresses };
  }

  /** Hands everything over to a new process. */
  handOver(): Promise<HandoverOutcome> {
    const { successor, shutdown, listeners, config, drainMs } = this.#options;
    const refused = (problem: string): Promise<HandoverOutcome> =>
      Promise.resolve({ ok: false, code: 'HSW_HANDOVER_FAILED', problems: [problem] });
    if (successor === undefined) return refused('this process cannot start another one');
    if (this.#current?.isOver === false) return refused('a hand-over is under way already');
    if (shutdown.isDraining) return refused('the watchdog is stopping');
    const admin = this.#admin;
    this.#current = new Handover({
      ...this.#options,
      ...successor,
      states: this.#states,
      listening: () => [
        ...(admin === undefined ? [] : [{ server: admin, use: 'admin' as const, ...config.admin }]),
        ...listeners.map(({ server, listen: { host, port } }) => ({ server, use: 'clients' as const, host, port })),
      ],
      leave: (process) => {
        const left = shutdown.leave(drainMs()).then(async () => {
          this.#current?.close();
          await this.#current?.sayLast();
          process.part();
        });
        this.#tell({ successor: process, left });
      },
    });
    return this.#current.outcome;
  }

  #connected(client: Socket, upstream: Socket | undefined): void {
    const { admission, trust } = this.#options;
    const address = plainAddress(client.remoteAddress);
    client.once('close', admission.adopt(trust()(address) ? undefined : address));
    if (upstream !== undefined) this.#options.upstream.connections.add(upstream);
  }
}
