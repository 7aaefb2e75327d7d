import type { NodeTotals } from './node-metrics.ts';

/*
 * Counters that go on where another process has stopped. prom-client has no way to set a counter or a histogram, so what was
 * counted before is added whenever the values are read.
 */

interface Value {
  readonly value: number;
  readonly labels: Readonly<Record<string, string | number | undefined>>;
  readonly sharedLabels?: Readonly<Record<string, string | number | undefined>>;
  /** Of a histogram: which of its series. */
  readonly metricName?: string;
}

interface Values {
  readonly values: readonly Value[];
}

/** What is used of a counter or a histogram of prom-client. */
interface ContinuedMetric {
  readonly name?: string;
  get(): Promise<Values>;
  /** A histogram's `get` calls it. */
  getForPromString?(): Promise<Values>;
}

/** The values of counters, by the name of the metric and then by the series. */
type Counted = Readonly<Record<string, Readonly<Record<string, number>>>>;

/** All that a process has counted. */
export interface MetricsState {
  readonly counters: Counted;
  readonly nodes: readonly NodeTotals[];
}

/** Makes counters and histograms continue what was counted before. */
export class ContinuedMetrics {
  readonly #metrics: readonly ContinuedMetric[];
  #before: Counted = {};

  constructor(metrics: readonly ContinuedMetric[]) {
    this.#metrics = metrics;
    for (const metric of metrics) this.#continue(metric);
  }

  /** Everything that was counted, here and before. */
  async counted(): Promise<Counted> {
    const all = this.#metrics.map(async (metric) => {
      const { values } = await metric.get();
      return [nameOf(metric), Object.fromEntries(values.map((each) => [seriesOf(each), each.value]))] as const;
    });
    return Object.fromEntries(await Promise.all(all));
  }

  /** What was counted before. It replaces what was given earlier. Metrics that this version does not have are ignored. */
  continueFrom(before: Counted): void {
    this.#before = before;
  }

  #continue(metric: ContinuedMetric): void {
    const method = metric.getForPromString === undefined ? 'get' : 'getForPromString';
    const own = (metric[method] as ContinuedMetric['get']).bind(metric);
    metric[method] = async () => {
      const data = await own();
      const before = this.#before[nameOf(metric)];
      if (before === undefined) return data;
      return {
        ...data,
        values: data.values.map((each) => ({ ...each, value: each.value + numberOf(before[seriesOf(each)]) })),
      };
    };
  }
}

function nameOf({ name = '' }: ContinuedMetric): string {
  return name;
}

function seriesOf({ labels, sharedLabels, metricName = '' }: Value): string {
  const all = Object.entries({ ...sharedLabels, ...labels }).map(([name, value]) => `${name}=${value}`);
  return [metricName, ...all.sort()].join(' ');
}

function numberOf(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}
