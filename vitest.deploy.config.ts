import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/deploy/*.test.ts'],
    globalSetup: ['test/support/build.ts'],
    reporters: ['verbose'],
    testTimeout: 60_000,
    // For what hangs: the dashboard is filled for half a minute first, and longer on a busy machine.
    hookTimeout: 240_000,
    // In CI they get a second try, and are named there: a busy machine is no fault of theirs.
    retry: process.env.CI ? 1 : 0,
    pool: 'forks',
    // One file after another: each runs several programs, on machines that may have two cores.
    maxWorkers: 1,
    fileParallelism: false,
  },
});
