import { type Instant, plus } from '../clock.ts';
import type { MachineKey } from '../identity/keys.ts';
import type { Stream } from '../streams/stream.ts';

/** A severing by rule 2, as the guard sees it. Addresses are without ports. */
export interface Turn {
  readonly at: Instant;
  /** Whose old stream was severed. */
  readonly loser: string;
  /** Whose newcomer it made room for. */
  readonly winner: string;
  /** The loser's kernel has answered a probe: its machine is there. */
  readonly loserAnswers: boolean;
}

export interface Duplicate {
  readonly addresses: readonly [string, string];
  readonly restMs: number;
}

const TURNS = 3;
const WITHIN_MS = 5 * 60_000;
const REST_MS = 15 * 60_000;

interface Suspect {
  readonly turns: readonly Turn[];
  readonly restsUntil: Instant | undefined;
}

/** How long past the newcomer's first record both streams must still be heard to be two machines'. */
const BOTH_SPEAK_AFTER_MS = 30_000;

/**
 * Whether two streams of one key must be two machines': from two addresses, and both heard long after the newer one's
 * session had begun. A machine uses one stream; what it left behind falls silent.
 */
export function bothSpeak(old: Stream, newcomer: Stream): boolean {
  if (newcomer.firstRecordAt === undefined || old.address === newcomer.address) return false;
  const since = plus(newcomer.firstRecordAt, BOTH_SPEAK_AFTER_MS);
  return old.heardAt >= since && newcomer.heardAt >= since;
}

/**
 * Two machines with one key (a cloned VM) would sever each other for ever by rule 2. After three severings within five
 * minutes between two addresses in turn, rule 2 rests for that key for fifteen minutes. Behind one NAT both have
 * one address: then it is two machines only if the severed one was there, for a phone that only reconnects leaves nobody
 * behind. On loopback it is a proxy of this machine that was there, whoever its clients are.
 */
export class Guard {
  /** Only keys with a severing within the last minutes, and those at rest. */
  readonly #suspects = new Map<MachineKey, Suspect>();

  /** Notes a severing by rule 2. @returns the duplicate it has shown, if it has. */
  note(key: MachineKey, turn: Turn): Duplicate | undefined {
    this.#forget(turn.at);
    const turns = [...(this.#suspects.get(key)?.turns ?? []), turn].slice(-TURNS);
    if (isDuplicate(turns)) return this.rest(key, [turn.loser, turn.winner], turn.at);
    this.#suspects.set(key, { turns, restsUntil: undefined });
    return undefined;
  }

  /** Lets rule 2 rest for a key that two machines have been shown to have; undefined when it rests already. */
  rest(key: MachineKey, addresses: Duplicate['addresses'], now: Instant): Duplicate | undefined {
    this.#forget(now);
    if (this.restsUntil(key, now) !== undefined) return undefined;
    this.#suspects.set(key, { turns: [], restsUntil: plus(now, REST_MS) });
    return { addresses, restMs: REST_MS };
  }

  /** Until when rule 2 rests for `key`; undefined when it does not. */
  restsUntil(key: MachineKey | undefined, now: Instant): Instant | undefined {
    const until = key === undefined ? undefined : this.#suspects.get(key)?.restsUntil;
    return until !== undefined && now < until ? until : undefined;
  }

  /** For how many keys rule 2 rests. */
  resting(now: Instant): number {
    return [...this.#suspects.keys()].filter((key) => this.restsUntil(key, now) !== undefined).length;
  }

  #forget(now: Instant): void {
    for (const [key, { turns, restsUntil }] of this.#suspects) {
      const recent = turns.filter(({ at }) => now - at <= WITHIN_MS);
      if (recent.length > 0 || (restsUntil !== undefined && now < restsUntil)) {
        this.#suspects.set(key, { turns: recent, restsUntil });
      } else this.#suspects.delete(key);
    }
  }
}

function isDuplicate(turns: readonly Turn[]): boolean {
  if (turns.length < TURNS) return false;
  return turns.every(({ loser, winner, loserAnswers }, i) => {
    const before = turns[i - 1];
    if (before !== undefined && (before.winner !== loser || before.loser !== winner)) return false;
    return loser !== winner || (loserAnswers && !isLoopback(loser));
  });
}

function isLoopback(address: string): boolean {
  return /^(127\.|\[?::1\]?$|\[?::ffff:127\.)/.test(address);
}
