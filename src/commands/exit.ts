/** What a command ends with, for scripts: done, it went wrong, it was called wrong, nothing matched. */
export const EXIT = { done: 0, failed: 1, usage: 2, nothing: 3 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];
