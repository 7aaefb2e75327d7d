import { describe, expect, test } from 'vitest';
import { type Column, tableOf, usesColours } from '../../src/commands/terminal.ts';

const IPV6 = '[2001:db8:1234:5678:9abc:def0:1234:5678]:51820';
const COLUMNS: readonly Column[] = [
  { title: 'ID', isNumber: true },
  { title: 'NODE', isName: true },
  { title: 'ADDRESS' },
  { title: 'IN', isNumber: true, leaveOut: 1 },
  { title: 'HEARD', isNumber: true, leaveOut: 2 },
];
const row = (node: string, address = IPV6): string[] => ['7', node, address, '12.1 kB', '3 s ago'];

describe('tableOf', () => {
  test('on a wide terminal: everything, numbers on the right', () => {
    const other = ['12', 'a', '192.0.2.1:1', '1 B', '1 min ago'];
    const { head, rows, note } = tableOf(COLUMNS, [row('phone'), other], 200);
    const wide = (text: string): string => text.padEnd(IPV6.length);
    expect([head, ...rows]).toEqual([
      `ID  NODE   ${wide('ADDRESS')}       IN      HEARD`,
      ` 7  phone  ${wide(IPV6)}  12.1 kB    3 s ago`,
      `12  a      ${wide('192.0.2.1:1')}      1 B  1 min ago`,
    ]);
    expect(note).toBeUndefined();
  });

  test('leaves out columns in their order until it fits, and says which', () => {
    const { head, rows, note } = tableOf(COLUMNS, [row('phone')], 70);
    expect(head.split(/ +/)).toEqual(['ID', 'NODE', 'ADDRESS', 'HEARD']);
    expect(rows).toEqual([` 7  phone  ${IPV6}  3 s ago`]);
    expect(note).toBe('This terminal is too narrow for IN. A pipe shows all: add | cat');
    expect(tableOf(COLUMNS, [row('phone')], 60).note).toContain('too narrow for IN, HEARD.');
  });

  test('keeps the column by which it is sorted', () => {
    expect(tableOf(COLUMNS, [row('phone')], 70, 'IN').head.split(/ +/)).toEqual(['ID', 'NODE', 'ADDRESS', 'IN']);
  });

  test('shortens names before it leaves out a column, and never an address', () => {
    const long = 'a-node-with-a-name-of-fourty-characters-';
    const wide = tableOf(COLUMNS, [row(long)], 100);
    expect(wide.note).toBeUndefined();
    expect(wide.rows[0]).toContain('a-node-with-a-name-of-f…  [2001:');
    const narrow = tableOf(COLUMNS, [row(long)], 40);
    expect(narrow.rows).toEqual([` 7  a-node-with…  ${IPV6}`]);
  });

  test('for a pipe, everything, however long', () => {
    const key = `mkey:${'1'.repeat(64)}`;
    const { rows, note } = tableOf(COLUMNS, [row(key)], undefined);
    expect(rows).toEqual([` 7  ${key}  ${IPV6}  12.1 kB  3 s ago`]);
    expect(note).toBeUndefined();
  });
});

test.each([
  [{}, true, true],
  [{}, false, false],
  [{ NO_COLOR: '1' }, true, false],
  [{ NO_COLOR: '' }, true, true],
  [{ TERM: 'dumb' }, true, false],
  [{ FORCE_COLOR: '1' }, false, true],
  [{ FORCE_COLOR: '0' }, true, false],
  [{ FORCE_COLOR: '3', NO_COLOR: '1' }, false, true],
])('colours with %j, on a terminal %j: %j', (env, isTerminal, expected) => {
  expect(usesColours(env, isTerminal)).toBe(expected);
});
