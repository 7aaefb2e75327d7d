import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/page/*.test.ts'],
    globalSetup: 'test/support/build.ts',
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // In CI they get a second try, and are named there: a busy machine is no fault of theirs.
    retry: process.env.CI ? 1 : 0,
    pool: 'forks',
    // Frame times are measured: nothing else runs beside it.
    fileParallelism: false,
    reporters: ['verbose'],
    disableConsoleIntercept: true,
  },
});
