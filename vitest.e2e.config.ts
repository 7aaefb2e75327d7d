import { defineConfig } from 'vitest/config';

const patience = {
  testTimeout: 120_000,
  hookTimeout: 60_000,
  teardownTimeout: 30_000,
  // In CI they get a second try, and are named there: a busy machine is no fault of theirs.
  retry: process.env.CI ? 1 : 0,
};

export default defineConfig({
  test: {
    globalSetup: ['test/e2e/support/global-setup.ts'],
    reporters: ['verbose'],
    disableConsoleIntercept: true,
    projects: [
      {
        // One file after another: each measures tenths of a second, on machines that may have two cores.
        test: {
          ...patience,
          name: 'brisk',
          include: ['test/e2e/*.test.ts'],
          pool: 'forks',
          maxWorkers: 1,
          maxConcurrency: 10,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
      {
        // Side by side, each file in a lab of its own: they do little but wait, and measure no tenths of a second.
        test: {
          ...patience,
          name: 'patient',
          include: ['test/e2e/patient/*.test.ts'],
          pool: 'forks',
          maxWorkers: 6,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
