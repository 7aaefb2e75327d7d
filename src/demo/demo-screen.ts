import { styleText } from 'node:util';
import { type Clock, type Instant, systemClock } from '../lib/clock.ts';

/** How it went when a node came back. */
export interface Comeback {
  readonly name: string;
  readonly refusedTries: number;
  /** Time from the comeback until the node was accepted; if it was not, until the demo stopped watching. */
  readonly tookMs: number;
  readonly accepted: boolean;
}

type Tone = 'plain' | 'good' | 'bad' | 'faint';

const LABEL_WIDTH = 24;
const COLUMN_WIDTH = 26;

/** Writes the demo's output. Each event gets the seconds since the start. */
export class DemoScreen {
  readonly #write: (text: string) => void;
  readonly #coloured: boolean;
  readonly #clock: Clock;
  readonly #startedAt: Instant;

  constructor(write: (text: string) => void, coloured: boolean, clock: Clock = systemClock) {
    this.#write = write;
    this.#coloured = coloured;
    this.#clock = clock;
    this.#startedAt = clock.now();
  }

  paragraph(text: string): void {
    this.#write(`${text}\n\n`);
  }

  heading(text: string): void {
    this.#write(`\n${this.#styled('bold', text)}\n`);
  }

  /** Writes one line of the timeline. */
  event(text: string, tone: Tone = 'plain'): void {
    const seconds = (this.#clock.now() - this.#startedAt) / 1000;
    const time = this.#styled('dim', `${seconds.toFixed(1).padStart(6)} s  `);
    this.#write(`${time}${this.#toned(tone, text)}\n`);
  }

  /** Writes the results without and with the watchdog side by side. */
  comparison(without: readonly Comeback[], withIt: readonly Comeback[]): void {
    const row = (label: string, left: string, right: string): void => {
      this.#write(`  ${label.padEnd(LABEL_WIDTH)}${left.padEnd(COLUMN_WIDTH)}${right}\n`);
    };
    this.heading('Compared');
    row('', 'without the watchdog', 'with the watchdog');
    row('nodes that came back', String(without.length), String(withIt.length));
    row('accepted again', countOf(without), countOf(withIt));
    row('refused tries, each', triesOf(without), triesOf(withIt));
    row('seconds to accepted', secondsOf(without), secondsOf(withIt));
    this.#write('\n');
  }

  #toned(tone: Tone, text: string): string {
    switch (tone) {
      case 'plain':
        return text;
      case 'good':
        return this.#styled('green', text);
      case 'bad':
        return this.#styled('red', text);
      case 'faint':
        return this.#styled('dim', text);
      default:
        return tone satisfies never;
    }
  }

  #styled(style: 'bold' | 'dim' | 'green' | 'red', text: string): string {
    return this.#coloured ? styleText(style, text) : text;
  }
}

export function seconds(ms: number): string {
  return (ms / 1000).toFixed(1);
}

function countOf(comebacks: readonly Comeback[]): string {
  return String(comebacks.filter(({ accepted }) => accepted).length);
}

function triesOf(comebacks: readonly Comeback[]): string {
  return rangeOf(comebacks.map(({ refusedTries }) => refusedTries)).join(' to ') || '-';
}

function secondsOf(comebacks: readonly Comeback[]): string {
  const accepted = comebacks.filter((comeback) => comeback.accepted);
  if (accepted.length > 0) return rangeOf(accepted.map(({ tookMs }) => seconds(tookMs))).join(' to ');
  const longestMs = Math.max(0, ...comebacks.map(({ tookMs }) => tookMs));
  return comebacks.length === 0 ? '-' : `none within ${seconds(longestMs)}`;
}

/** The smallest and the largest value; only one if they are equal. */
function rangeOf<T extends string | number>(values: readonly T[]): readonly T[] {
  const sorted = values.toSorted((a, b) => Number(a) - Number(b));
  return [...new Set([...sorted.slice(0, 1), ...sorted.slice(-1)])];
}
