const PREFIX = 'headscale_watchdog_';
const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)$/;

interface Sample {
  readonly name: string;
  readonly labels: string;
  readonly value: number;
}

/** One answer of `/metrics`. Names are without the prefix that all have. */
export class Metrics {
  readonly #samples: readonly Sample[];

  constructor(text: string) {
    this.#samples = text
      .split('\n')
      .map((line) => SAMPLE.exec(line))
      .filter((match) => match !== null)
      .map(([, name = '', labels = '', value]) => ({ name, labels, value: Number(value) }));
  }

  /**
   * The sum of a metric's series, all or those with `label`, as in `reason="shutdown"`.
   *
   * @throws when there is none, since every series is there from the start.
   */
  sum(name: string, label = ''): number {
    const wanted = this.#samples.filter((sample) => sample.name === PREFIX + name && sample.labels.includes(label));
    if (wanted.length === 0) throw new Error(`no such metric: ${PREFIX}${name}{${label}}`);
    return wanted.reduce((total, { value }) => total + value, 0);
  }

  /** Streams that are open by what was opened and closed, less those said to be open: 0 where all is well. */
  get streamsUnaccountedFor(): number {
    return this.sum('streams_opened_total') - this.sum('streams_closed_total') - this.sum('streams');
  }
}
