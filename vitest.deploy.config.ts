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
    // Two at once, on machines that may have two cores: each runs several programs, and mostly waits for them.
    maxWorkers: 2,
  },
});
