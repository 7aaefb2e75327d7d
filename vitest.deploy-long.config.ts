import { defineConfig } from 'vitest/config';

/** Packages and containers, really installed and run: minutes, as root. */
export default defineConfig({
  test: {
    include: ['test/deploy/long/**/*.test.ts'],
    reporters: ['verbose'],
    // For what hangs.
    testTimeout: 120_000,
    hookTimeout: 600_000,
    pool: 'forks',
    maxWorkers: 1,
    fileParallelism: false,
  },
});
