import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Harness, until } from '../support/harness.ts';
import { failure, freePort, run } from '../support/process.ts';

const harness = new Harness();
let folder: string;
let file: string;
beforeEach(() => {
  folder = harness.folder();
  file = join(folder, 'watchdog.yaml');
});
afterEach(() => harness.closeAll());

describe('headscale-watchdog reload', () => {
  test('prints what has changed, or what is wrong; SIGHUP writes the same into the log', async () => {
    const [port, admin] = await Promise.all([freePort(), freePort()]);
    const lines = (silentAfter: string) =>
      `upstream: http://127.0.0.1:9\nlisten: 127.0.0.1:${port}\nadmin: 127.0.0.1:${admin}\nsilent-after: ${silentAfter}\n`;
    writeFileSync(file, lines('30s'));
    const serve = run(harness, 'serve', '--config', file);
    await until(() => serve.stdout.includes('listening'), 'it has started');

    writeFileSync(file, lines('10s'));
    const reload = run(harness, 'reload', '--config', file);
    expect((await reload.ended).code).toBe(0);
    expect(reload.stdout).toBe(`silent-after: 30s → 10s\nreloaded ${file}\n`);
    expect(reload.stderr).toBe('');

    // The file of the command only says where the watchdog is.
    const other = join(folder, 'other.yaml');
    writeFileSync(other, lines('5s'));
    const mistaken = run(harness, 'reload', '--config', other);
    expect((await mistaken.ended).code).toBe(0);
    expect(mistaken.stdout).toBe(`reloaded ${file}: no setting has changed\n`);
    expect(mistaken.stderr).toBe(`note: ${other} was not applied; it only said where the watchdog is\n`);

    writeFileSync(file, lines('soon'));
    const bad = await failure(harness, 'reload', '--admin', `127.0.0.1:${admin}`);
    expect(bad.code).toBe(1);
    expect(bad.lines.join('\n')).toContain(`${file}:4:15: `);

    writeFileSync(file, lines('20s'));
    serve.child.kill('SIGHUP');
    await until(() => serve.stdout.includes('silent-after: 10s → 20s'), 'it has reloaded');
    expect(serve.child.exitCode).toBeNull();
  });

  test('without a running watchdog: one line, exit 1', async () => {
    const { code, lines } = await failure(harness, 'reload', '--admin', '127.0.0.1:9');
    expect(code).toBe(1);
    expect(lines).toEqual([
      expect.stringMatching(/127\.0\.0\.1:9\/reload \(--admin\): nothing listens there: start the watchdog/),
    ]);
  });
});
