import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, SerializedError, TestCase, TestModule, TestSuite } from 'vitest/node';

/** A test, a file or a run, and the first line of what went wrong with it. */
interface Fault {
  readonly name: string;
  readonly error: string;
}

/**
 * Writes to the file that OUTCOME names what CI says at its end. Vitest's own JSON leaves out three things: a hook
 * that failed, an error outside of every test, and which tests passed with their second try only.
 */
export default class Outcome implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    const tests = modules.flatMap((module) => [...module.children.allTests()]);
    const holders = modules.flatMap((module) => [module, ...module.children.allSuites()]);
    const failed = [
      ...holders.flatMap((holder) =>
        holder.errors().map((error) => ({ name: nameOf(holder), error: firstLine(error) })),
      ),
      ...tests.filter((each) => each.result().state === 'failed').map(faultOf),
      ...unhandled.map((error) => ({ name: 'outside of the tests', error: firstLine(error) })),
    ];
    const passed = tests.filter((each) => each.result().state === 'passed').length;
    const again = tests.filter((each) => each.diagnostic()?.flaky).map(faultOf);
    writeFileSync(process.env.OUTCOME ?? 'outcome.json', JSON.stringify({ passed, failed, again }));
  }
}

function faultOf(test: TestCase): Fault {
  return { name: nameOf(test), error: firstLine(test.result().errors?.[0]) };
}

function nameOf(task: TestCase | TestSuite | TestModule): string {
  const file = relative(process.cwd(), task.type === 'module' ? task.moduleId : task.module.moduleId);
  return task.type === 'module' ? file : `${file} > ${task.fullName}`;
}

function firstLine(error: { readonly message?: string } | undefined): string {
  return error?.message?.split('\n')[0] ?? 'no error was given';
}
