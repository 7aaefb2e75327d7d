import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/** What spawns programs, drives a shell, waits for real time or takes long. */
export default defineConfig({
  test: {
    include: ['test/**/*.process.test.ts'],
    exclude: ['test/e2e/**', 'test/page/**', 'test/deploy/**'],
    globalSetup: ['test/support/build.ts'],
    // For what hangs: no test is to be fast.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // In CI they get a second try, and are named there: a busy machine is no fault of theirs.
    retry: process.env.CI ? 1 : 0,
    pool: 'forks',
    // They often wait, so on a machine with two cores a third one fits in.
    maxWorkers: Math.max(3, availableParallelism()),
  },
});
