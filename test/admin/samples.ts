import { OPERATIONS } from './api-description.ts';

/* The samples in docs/api.md: what a real run answered, with one item of each list. */

const HEADING = '## A sample of each answer';

const INTRODUCTION = `A real watchdog gave these answers, with one node that is connected. Each list is cut after its first item. \`API_SAMPLES=docs/api.md npx vitest run test/admin/openapi.test.ts\` makes them anew.`;

export interface Sample {
  /** As it was asked for, with its parameters. */
  readonly path: string;
  readonly status: number;
  readonly text: string;
}

/** @param sampleOf the answer for `get /streams 200`. */
export function withSamples(page: string, sampleOf: (key: string) => Sample | undefined): string {
  const sections = OPERATIONS.map(({ method, path, answers }) => {
    const [status = ''] = Object.keys(answers);
    const sample = sampleOf(`${method} ${path} ${status}`);
    if (sample === undefined) throw new Error(`${method} ${path} was not asked for`);
    return sectionOf(method, sample);
  });
  const before = page.includes(HEADING) ? page.slice(0, page.indexOf(HEADING)) : `${page.trimEnd()}\n\n`;
  return `${before}${HEADING}\n\n${INTRODUCTION}\n\n${sections.join('\n')}`;
}

function sectionOf(method: string, { path, text }: Sample): string {
  const isJson = text.startsWith('{');
  const lines = text.trimEnd().split('\n').slice(0, 16).join('\n');
  const [language, shown] = isJson
    ? ['json', cutJson(text)]
    : text.startsWith('<svg')
      ? ['xml', lines]
      : ['text', lines];
  return `\`${method.toUpperCase()} ${path}\`\n\n\`\`\`${language}\n${shown}\n\`\`\`\n`;
}

function cutJson(text: string): string {
  const value = JSON.parse(text) as Record<string, unknown>;
  const isDescription = 'openapi' in value;
  return JSON.stringify(isDescription ? { openapi: value.openapi, info: value.info } : cut(value), undefined, 2);
}

function cut(value: unknown): unknown {
  if (Array.isArray(value)) return value.slice(0, 1).map(cut);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, cut(inner)]));
}

/** The samples of a page, with the method and the path of each. */
export function samplesIn(
  page: string,
): readonly { readonly method: string; readonly path: string; readonly text: string }[] {
  const [, section = ''] = page.split(HEADING);
  return [...section.matchAll(/^`(GET|POST) (\S+)`\n\n```\w+\n([\s\S]*?)\n```$/gm)].map(
    ([, method = '', path = '', text = '']) => ({ method: method.toLowerCase(), path, text }),
  );
}
