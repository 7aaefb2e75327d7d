import fc from 'fast-check';
import { expect, test } from 'vitest';
import { acts, Stage } from './acts.ts';

const RUNS = Number(process.env.MODEL_RUNS ?? 500);
const SEED = Number(process.env.MODEL_SEED ?? Math.floor(Math.random() * 2 ** 31));

test(`in any sequence of what two nodes and strangers may do, the rule is kept: MODEL_RUNS=${RUNS} MODEL_SEED=${SEED}`, {
  timeout: 60_000 + RUNS * 100,
}, () => {
  fc.assert(
    fc.property(acts, (commands) => {
      const stage = new Stage();
      fc.modelRun(() => ({ model: {}, real: stage }), commands);
      stage.end();
      expect(stage.bench.takeover.size, 'seats').toBe(0);
      expect(stage.bench.registry.size, 'streams in the registry').toBe(0);
      expect(stage.bench.clock.timers, 'timers').toBe(0);
    }),
    { numRuns: RUNS, seed: SEED },
  );
});
