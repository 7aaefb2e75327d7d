import { performServerHandshake } from 'node:http2';
import type { Duplex } from 'node:stream';
import type { NoiseKey } from '../identity/machine-key.ts';
import type { ControlClient } from './control-events.ts';
import { EARLY_PAYLOAD_SINCE_VERSION, earlyPayload } from './early-payload.ts';
import { answerMachineRequest, type MachineApi } from './machine-api.ts';
import { connectNoise } from './noise-connection.ts';
import { answerHandshake } from './noise-handshake.ts';

const SWITCHING =
  'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tailscale-control-protocol\r\n\r\n';

/** The open Noise sessions of a control server: from the upgrade to the end of the connection. */
export class ControlSessions {
  readonly #noiseKey: NoiseKey;
  readonly #api: MachineApi;
  readonly #open = new Map<Duplex, Promise<void>>();
  #lastId = 0;

  constructor(noiseKey: NoiseKey, api: MachineApi) {
    this.#noiseKey = noiseKey;
    this.#api = api;
  }

  /** Answers `handshake` (base64) on a socket whose request was an upgrade, and serves HTTP/2 inside. */
  begin(
    socket: Duplex,
    head: Buffer,
    handshake: string,
    from: Pick<ControlClient, 'remoteAddress' | 'reachedAt'>,
  ): void {
    const { clock, emit } = this.#api;
    const now = (): Date => clock.dateOf(clock.now());
    this.#open.set(socket, new Promise((resolve) => socket.once('close', resolve)));
    socket.once('close', () => this.#open.delete(socket));
    const answer = answerHandshake(this.#noiseKey, handshake);
    // Headscale has said 101 by the time it reads the handshake, and closes without another word.
    socket.write(SWITCHING);
    if (!answer.ok) {
      emit({ kind: 'handshake failed', at: now(), remoteAddress: from.remoteAddress, why: answer.why });
      socket.end(() => socket.destroy());
      return;
    }
    socket.write(answer.response);
    if (head.length > 0) socket.unshift(head);
    const client: ControlClient = { sessionId: ++this.#lastId, machineKey: answer.machineKey, ...from };
    emit({ kind: 'session opened', at: now(), client });
    socket.once('close', () => emit({ kind: 'session closed', at: now(), client }));
    const { duplex } = connectNoise(socket, answer.keys);
    if (answer.version >= EARLY_PAYLOAD_SINCE_VERSION) duplex.write(earlyPayload());
    this.#serve(duplex, client);
  }

  #serve(duplex: Duplex, client: ControlClient): void {
    const session = performServerHandshake(duplex);
    session.on('stream', (stream, headers) => void answerMachineRequest(this.#api, client, stream, headers));
    // When the client has said its last word (FIN), Node's HTTP/2 session closes and takes every stream with it, as Go's does.
    duplex.once('close', () => session.destroy());
    duplex.on('error', () => session.destroy());
    session.on('error', () => duplex.destroy());
    session.once('close', () => duplex.destroy());
  }

  /** Ends every session at once, and resolves when their sockets have closed. */
  async close(): Promise<void> {
    const closed = [...this.#open.values()];
    for (const socket of this.#open.keys()) socket.destroy();
    await Promise.all(closed);
  }
}
