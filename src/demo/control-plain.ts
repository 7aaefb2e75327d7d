import type { IncomingMessage } from 'node:http';
import { formatMachineKey, machineKeyOf } from '../identity/keys.ts';
import { formatNoiseKey, type NoiseKey } from '../identity/machine-key.ts';
import type { SecondStream } from './map-streams.ts';

export interface PlainAnswer {
  readonly status: number;
  readonly type?: string;
  readonly body?: string;
}

const NOISE_SINCE_VERSION = 39;
const LEGACY_KEY = formatMachineKey(machineKeyOf(Buffer.alloc(32)));
const VERSION = {
  version: 'v0.29.2',
  commit: 'stand-in',
  buildTime: '1970-01-01T00:00:00Z',
  go: { version: 'none', os: process.platform, arch: process.arch },
  dirty: false,
};

/** What comes outside a Noise session. Source: `hscontrol/handlers.go`, 0.23.0-alpha10 and 0.29.2. */
export function answerPlain(noiseKey: NoiseKey, secondStream: SecondStream, request: IncomingMessage): PlainAnswer {
  const [path, query] = (request.url ?? '/').split('?');
  switch (`${request.method} ${path}`) {
    case 'GET /key':
      return answerKey(noiseKey, new URLSearchParams(query).get('v'));
    case 'GET /health':
      return json('application/health+json; charset=utf-8', { status: 'pass' });
    case 'GET /version':
      // It came with 0.27; a Headscale that refuses is older.
      return secondStream === 'accept' ? json('application/json', VERSION) : { status: 404 };
    case 'POST /ts2021':
      // A client behind a proxy that does not pass upgrades on.
      return { status: 500, type: 'text/plain; charset=utf-8', body: 'Internal error\n' };
    default:
      return { status: 404 };
  }
}

function answerKey(noiseKey: NoiseKey, version: string | null): PlainAnswer {
  const clientVersion = Number.parseInt(version ?? '', 10);
  if (Number.isNaN(clientVersion)) return { status: 500, type: 'text/plain; charset=utf-8' };
  if (clientVersion < NOISE_SINCE_VERSION) return { status: 200 };
  return json('application/json', { legacyPublicKey: LEGACY_KEY, publicKey: formatNoiseKey(noiseKey) });
}

function json(type: string, value: object): PlainAnswer {
  return { status: 200, type, body: `${JSON.stringify(value)}\n` };
}
