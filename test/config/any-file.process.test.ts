import { describe, expect, test } from 'vitest';
import { loadConfig } from '../../src/config/load.ts';
import { UsageError } from '../../src/lib/errors.ts';

const RIGHT = `# all of it
upstream: http://127.0.0.1:8080
listen: "[::]:8081"
headscale-api-key-file: /a
gone-after: 60s
probe-idle: off
redis: redis://w%40@a/1
metrics: { max-nodes: 5 }
nodes:
  - name: 'r-*' # routers
    probe-idle: 9s
  - { user: ä, hold: 1s, observe-only: true }
`;

/** What is wrong with how loadConfig takes a text: it gives a configuration, or problems that each have a place in it. */
function faultOf(text: string): string | undefined {
  try {
    loadConfig({}, { path: 'w.yaml', text });
  } catch (error) {
    if (!(error instanceof UsageError)) return `throws ${String(error)}`;
    if (error.problems.length === 0) return 'throws no problem';
    return error.problems.find((problem) => !hasPlace(problem, text.split('\n')));
  }
  return undefined;
}

function hasPlace(problem: string, lines: readonly string[]): boolean {
  const match = /^w\.yaml:(\d+):(\d+): \S.*\S$/.exec(problem);
  const line = lines[Number(match?.[1]) - 1];
  const column = Number(match?.[2]);
  return line !== undefined && column >= 1 && column <= line.length + 1;
}

function expectNoFault(texts: readonly string[]): void {
  const faults = texts.flatMap((text) => {
    const fault = faultOf(text);
    return fault === undefined ? [] : [{ text: text.slice(0, 400), fault }];
  });
  expect(faults).toEqual([]);
}

/** The same numbers each time, from 0 to below `below`. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const places = Array.from({ length: RIGHT.length + 1 }, (_, place) => place);

describe('loadConfig throws only UsageError, with line and column of each problem, whatever the file contains', () => {
  test('the file from which the other tests make their files is valid', () => {
    expect(loadConfig({}, { path: 'w.yaml', text: RIGHT }).rules).toHaveLength(2);
  });

  test('a valid file, cut off at any place', () => {
    expectNoFault(places.map((place) => RIGHT.slice(0, place)));
  });

  test('a valid file from which one character, or ten, are missing anywhere', () => {
    expectNoFault(places.flatMap((at) => [1, 10].map((length) => RIGHT.slice(0, at) + RIGHT.slice(at + length))));
  });

  test.each([...'\t\n\r:-?[]{}&*!|>\'"%@#,x7\0\u{1f4f1}', '\n---\n', '\n...\n', '<<: ', ': ', '\ufeff'])(
    'a valid file with %j inserted at every second place',
    (text) =>
      expectNoFault(places.filter((at) => at % 2 === 0).map((at) => RIGHT.slice(0, at) + text + RIGHT.slice(at))),
  );

  test('a thousand random sequences of words and punctuation', () => {
    const words = [
      'hold',
      'nodes',
      'metrics',
      'name',
      ':',
      ': ',
      '\n',
      '\n  ',
      '- ',
      '{',
      '}',
      '[',
      ']',
      ',',
      '&a ',
      '*a',
    ];
    const more = [
      '"',
      "'",
      '!',
      '!!set ',
      '!!binary ',
      '|',
      '>-',
      '? ',
      '~',
      '30',
      '30s',
      'off',
      'true',
      '.nan',
      '%YAML 1.1\n',
    ];
    const all = [...words, ...more, '---\n', '<<', '\t', '# ', '\r\n'];
    const below = numbers(7);
    const jumble = (): string => Array.from({ length: below(30) }, () => all[below(all.length)]).join('');
    expectNoFault(Array.from({ length: 1000 }, jumble));
  });

  test.each(['[', '{', '{a: ', '- ', '? ', 'a: ', '[? ', '{[', '"', '&a [', '!!map {'])(
    '%j nested 20 000 times',
    (text) => {
      expectNoFault([text.repeat(20_000), `nodes: ${text.repeat(20_000)}`]);
    },
  );

  test('aliases that would double in size with each line', () => {
    const lines = Array.from({ length: 60 }, (_, i) => `a${i + 1}: &a${i + 1} [*a${i}, *a${i}]`);
    expectNoFault([['a0: &a0 [x, x]', ...lines, 'nodes: *a60'].join('\n')]);
    expectNoFault([`nodes: [{ name: *a60, hold: off }]\n${lines.join('\n')}`]);
  });

  test('more mistakes in rules, or in the syntax, than a function call takes arguments', () => {
    expectNoFault([`nodes: [${'x,'.repeat(130_000)}]`, ']'.repeat(130_000), `- b${'\n'.repeat(130_000)}  # c`]);
  });

  test('texts in which the library miscounts the lines', () => {
    expectNoFault(['|: x\n\n]', `|- x\n\n${' '.repeat(20)}]`, '|: x\r\nhold: [\r\n}']);
  });

  test('random bytes, and files of other programs', () => {
    const below = numbers(11);
    const bytes = Buffer.from(Array.from({ length: 3000 }, () => below(256)));
    expectNoFault([
      bytes.toString('latin1'),
      bytes.toString('utf8'),
      '\x7fELF\0\0',
      '{"a":[1,{"b":null}]}',
      '<html>\n<body>\n',
    ]);
    expectNoFault(['[section]\nkey = value\n', 'key=value\n', 'Exec: a\nExec: b\n', '#!/bin/sh\nset -e\nexec "$@"\n']);
  });
});
