import type { WatchdogEvent } from '../streams/events.ts';
import type { Stream } from '../streams/stream.ts';
import type { Happening } from './history.ts';

type About = Omit<Happening, 'seq' | 'at' | 'kind' | 'sentence'>;

const NOBODY: About = {
  machineKey: undefined,
  stream: undefined,
  otherStream: undefined,
  address: undefined,
  reason: undefined,
  silentMs: undefined,
  kernel: undefined,
};

/** Whom and which streams an event is about. Nothing of the stream itself is kept: it would live as long as the history. */
export function aboutOf(event: WatchdogEvent): About {
  switch (event.kind) {
    case 'stream opened':
    case 'held':
      return of(event.stream);
    case 'released':
      return { ...of(event.stream), reason: event.why };
    case 'stream closed':
      return { ...of(event.stream), reason: event.reason };
    case 'severed': {
      const { stream, newcomer, because, silentMs, kernel } = event;
      return { ...of(stream), otherStream: newcomer.id, reason: because, silentMs: Math.round(silentMs), kernel };
    }
    case 'would sever':
      return { ...of(event.stream), reason: event.because };
    case 'upstream silent':
      return { ...NOBODY, reason: event.silence.on };
    case 'contest opened':
      return { ...of(event.newcomer), otherStream: event.old.id };
    case 'contest ended':
      return { ...of(event.newcomer), otherStream: event.old.id, reason: event.verdict };
    case 'duplicate machine key':
      return { ...NOBODY, machineKey: event.machineKey };
    case 'handshake':
      return { ...NOBODY, address: event.remoteAddress, reason: event.result };
    case 'limit reached':
      return { ...NOBODY, address: event.address, reason: event.limit };
    case 'noise key checked':
      return { ...NOBODY, reason: event.matches ? 'matches' : 'differs' };
    case 'proxy not trusted':
    case 'client addresses hidden':
    case 'upgrade header lost':
      return { ...NOBODY, address: event.address };
    case 'connection refused':
      return { ...NOBODY, address: event.address, reason: event.because };
    case 'upstream refused':
    case 'upstream misled':
      return { ...NOBODY, address: event.remoteAddress };
    default:
      return NOBODY;
  }
}

function of({ machineKey, id, remoteAddress }: Stream): About {
  return { ...NOBODY, machineKey, stream: id, address: remoteAddress };
}
