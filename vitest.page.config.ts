import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/page/*.test.ts'],
    globalSetup: 'test/support/build.ts',
    // For what hangs: no test is about how fast a machine is.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    // In CI they get a second try, and are named there: a busy machine is no fault of theirs.
    retry: process.env.CI ? 1 : 0,
    pool: 'forks',
    // One browser at a time, on machines that may have two cores.
    fileParallelism: false,
    reporters: ['verbose'],
    disableConsoleIntercept: true,
  },
});
