import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: ['test/**/*.process.test.ts', 'test/e2e/**', 'test/page/**', 'test/deploy/**'],
    // For what hangs: no test is to be fast.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: '100%',
  },
});
