import { readFileSync } from 'node:fs';
import { generateNoiseKey, startHandshake } from '../../src/demo/noise-handshake.ts';
import { type NoiseKey, parseNoiseKey } from '../../src/identity/noise.ts';

/** A handshake made by Tailscale's own code: see test/e2e/go/tailscale/record-initiation. */
export interface RecordedInitiation {
  readonly version: number;
  readonly serverPrivateKey: string;
  readonly serverPublicKey: string;
  readonly machineKey: string;
  /** The value of `X-Tailscale-Handshake`. */
  readonly header: string;
}

const file = new URL('../vectors/initiations.json', import.meta.url);
const recorded = JSON.parse(readFileSync(file, 'utf8')) as { readonly initiations: readonly RecordedInitiation[] };

export const initiations = recorded.initiations as readonly [RecordedInitiation, ...RecordedInitiation[]];

/** The server's key pair, read as from its key file. */
export function noiseKeyOf(recorded: RecordedInitiation): NoiseKey {
  const key = parseNoiseKey(Buffer.from(`${recorded.serverPrivateKey}\n`));
  if (key === undefined) throw new Error('the vector holds no key');
  return key;
}

const aMachine = generateNoiseKey();
/** Of the machine whose handshakes `freshHandshake` makes by default: 64 hex digits. */
export const aMachineKey = aMachine.publicRaw.toString('hex');

/** The value of `X-Tailscale-Handshake` with which `machine` begins another session: never the same twice. */
export function freshHandshake(server: RecordedInitiation, machine: NoiseKey = aMachine): string {
  return startHandshake(machine, noiseKeyOf(server).publicRaw, server.version).initiation.toString('base64');
}
