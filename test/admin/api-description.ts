import { z } from 'zod';
import { availabilityList, nodeAvailability, nodeHealth } from '../../src/admin/availability-views.ts';
import { NODE_FILTERS, NODE_SORT_COLUMNS } from '../../src/admin/node-list.ts';
import { BADGES } from '../../src/admin/routes.ts';
import {
  askedToSever,
  done,
  handedOver,
  handoverProblem,
  problem,
  reloaded,
  reloadProblem,
  severed,
} from '../../src/admin/schemas.ts';
import { SORT_COLUMNS, STREAM_FILTERS } from '../../src/admin/stream-list.ts';
import {
  eventList,
  eventView,
  nodeDetail,
  nodeList,
  overview,
  readiness,
  shortReadiness,
  streamList,
} from '../../src/admin/views.ts';
import { STREAM_KINDS } from '../../src/streams/stream.ts';
import { LEVELS } from '../../src/telemetry/event-rows.ts';
import { EVENT_KINDS } from '../../src/telemetry/event-table.ts';

/* The description of the admin API. openapi.test.ts writes it to openapi.json, which the running watchdog serves. */

/** An answer in JSON with its schema, or text of another type. */
type Content = z.ZodType | { readonly text: string };

interface Answer {
  readonly description: string;
  readonly content?: Content;
}

interface Operation {
  readonly method: 'get' | 'post';
  readonly path: string;
  readonly summary: string;
  /** Whether it answers requests without the token. */
  readonly isPublic?: true;
  /** What `:id` in the path is. */
  readonly id?: z.ZodType;
  readonly query?: z.ZodObject;
  readonly body?: z.ZodType;
  /** By status. `default` is for every error that is not listed. */
  readonly answers: Readonly<Record<number, Answer>>;
}

const ok = (description: string, content: Content): Answer => ({ description, content });
const failed = (description: string): Answer => ({ description, content: problem });

/** Several of these words, with commas between them. */
function words(all: readonly string[]): z.ZodType {
  return z.string().describe(`One of these, or several with commas between them: ${all.join(', ')}.`);
}

function column(all: readonly string[]): z.ZodType {
  return z
    .enum(all.flatMap((name) => [name, `-${name}`]))
    .describe('What to sort by. A leading - sorts in descending order.');
}

const text = z.string().describe('Any text that is in an item.');
const anyNode = z.string().describe('The name, id, machine key or node key of a node.');
const ofNode = { id: anyNode } as const;
const limit = (most: number) => z.int().min(1).max(most);
const page = {
  limit: limit(100_000),
  after: z.string().describe('What `next` was in the answer before. Not together with `sort`.'),
};
const after = (what: string) =>
  z.string().describe(`${what} the events after this one: a \`seq\`, or what \`next\` was.`);
const since = z
  .string()
  .describe(
    'Only from then on: `7d` (also `s`, `m`, `h`) is that long ago; or a time in ISO 8601, in UTC unless it says otherwise.',
  );
const until = z.string().describe('Only before then, in the same form. By default now.');
const availabilityQuery = z.object({
  since,
  until,
  timezone: z.string().default('UTC').describe('Where days begin, as in `Europe/Berlin`.'),
});
const eventFilter = {
  since,
  until,
  node: anyNode,
  stream: z.int().min(1).describe('The id of a stream.'),
  kind: words(EVENT_KINDS),
  level: words(LEVELS),
};
const wrongParameter = failed('A parameter cannot be used.');
const unknownNode = { 404: failed('Nobody knows this node.'), 409: failed('Several nodes match.') };

export const OPERATIONS: readonly Operation[] = [
  {
    ...{ method: 'get', path: '/streams', summary: 'The streams that are not closed.' },
    query: z.object({
      state: words(STREAM_FILTERS),
      kind: words(STREAM_KINDS),
      node: anyNode,
      q: text,
      sort: column(SORT_COLUMNS),
      ...page,
    }),
    answers: { 200: ok('The streams that match.', streamList), 400: wrongParameter },
  },
  {
    ...{ method: 'post', path: '/streams/:id/sever', summary: 'Severs a stream.' },
    id: z.int().min(1).describe('The id of a stream.'),
    query: z.object({ replica: z.string().describe('The replica that has the stream.') }),
    answers: {
      200: ok('It is severed.', severed),
      202: ok('Another replica was asked to sever it.', askedToSever),
      404: failed('There is no such stream.'),
      409: failed('It is ending already.'),
    },
  },
  {
    ...{ method: 'get', path: '/nodes', summary: 'Every node, connected or not.' },
    query: z.object({
      state: words(NODE_FILTERS),
      q: text,
      sort: column(NODE_SORT_COLUMNS),
      ...page,
    }),
    answers: { 200: ok('The nodes that match.', nodeList), 400: wrongParameter },
  },
  {
    ...{ method: 'get', path: '/nodes/:id', summary: 'One node.', ...ofNode },
    answers: { 200: ok('The node.', nodeDetail), ...unknownNode },
  },
  {
    ...{ method: 'get', path: '/nodes/:id/health', summary: 'Whether a node is connected, for probes.', ...ofNode },
    answers: {
      200: ok('It is connected.', nodeHealth),
      503: ok('It is not connected.', nodeHealth),
      ...unknownNode,
    },
  },
  {
    ...{ method: 'get', path: '/nodes/:id/badge.svg', summary: 'A badge with the state of a node.', ...ofNode },
    query: z.object({ label: z.string().describe('What stands on the left, in place of the name.') }),
    answers: { 200: ok('A picture.', { text: 'image/svg+xml' }), 400: wrongParameter, ...unknownNode },
  },
  {
    ...{ method: 'get', path: '/badge.svg', summary: 'A badge for other pages.' },
    query: z.object({ show: z.enum(BADGES).default('nodes').describe('How many nodes are connected, or Headscale.') }),
    answers: { 200: ok('A picture.', { text: 'image/svg+xml' }), 400: wrongParameter },
  },
  {
    ...{ method: 'get', path: '/nodes/:id/availability', summary: 'When a node was online.', ...ofNode },
    query: availabilityQuery,
    answers: {
      200: ok('The last thirty days, or what was asked for.', nodeAvailability),
      400: wrongParameter,
      ...unknownNode,
    },
  },
  {
    ...{ method: 'get', path: '/availability', summary: 'How long each node was online, day by day.' },
    query: availabilityQuery,
    answers: {
      200: ok('The last thirty days, or what was asked for.', availabilityList),
      400: wrongParameter,
    },
  },
  {
    ...{ method: 'get', path: '/events', summary: 'What happened, oldest first.' },
    query: z.object({
      after: after('Without it, the newest events; with it,'),
      limit: limit(20_000).default(100),
      ...eventFilter,
    }),
    answers: { 200: ok('The events that match.', eventList), 400: wrongParameter },
  },
  {
    ...{ method: 'get', path: '/events/live', summary: 'The events as they happen, over WebSocket.' },
    query: z.object({
      after: after('First send'),
      limit: limit(20_000).describe('Has no effect here.'),
      ...eventFilter,
    }),
    answers: {
      101: ok('A WebSocket. Each message is one event.', eventView),
      400: wrongParameter,
      503: failed('Too many clients are listening.'),
    },
  },
  {
    ...{ method: 'get', path: '/overview', summary: 'The state of Headscale, of the keys and of the streams.' },
    answers: { 200: ok('The head of the status page.', overview) },
  },
  {
    ...{ method: 'post', path: '/reload', summary: 'Reads the settings again and applies them.' },
    answers: {
      200: ok('They apply.', reloaded),
      422: ok('They cannot be used, and nothing has changed.', reloadProblem),
    },
  },
  {
    ...{ method: 'post', path: '/handover', summary: 'Hands all streams over to the program that is on disk now.' },
    answers: {
      200: ok('A new process has them.', handedOver),
      422: ok('It cannot take over, and nothing has changed.', handoverProblem),
    },
  },
  {
    ...{ method: 'post', path: '/login', summary: 'Logs a browser in.', isPublic: true },
    body: z.object({ token: z.string() }),
    answers: {
      200: ok('The answer has a cookie.', done),
      401: failed('This is not the token.'),
      413: failed('The body is too large.'),
    },
  },
  {
    ...{ method: 'post', path: '/logout', summary: "Ends the login of the request's cookie.", isPublic: true },
    answers: { 200: ok('The answer deletes the cookie.', done) },
  },
  {
    ...{ method: 'get', path: '/metrics', summary: 'For Prometheus.' },
    answers: { 200: ok("Prometheus's text format.", { text: 'text/plain' }) },
  },
  {
    ...{ method: 'get', path: '/healthz', summary: 'Whether the process answers.', isPublic: true },
    answers: { 200: ok('It does.', { text: 'text/plain' }) },
  },
  {
    ...{ method: 'get', path: '/readyz', summary: 'Whether clients can connect.', isPublic: true },
    answers: {
      200: ok('They can. Without the token, the answer is short.', z.union([readiness, shortReadiness])),
      503: ok('They cannot.', z.union([readiness, shortReadiness])),
    },
  },
  {
    ...{ method: 'get', path: '/openapi.json', summary: 'This description.', isPublic: true },
    answers: { 200: ok('OpenAPI 3.1.', z.looseObject({ openapi: z.literal('3.1.1') })) },
  },
];

/** The description as OpenAPI 3.1. */
export function describeApi(): object {
  const paths: Record<string, Record<string, object>> = {};
  for (const operation of OPERATIONS) {
    const path = operation.path.replace(':id', '{id}');
    paths[path] = { ...paths[path], [operation.method]: operationObject(operation) };
  }
  return {
    openapi: '3.1.1',
    info: {
      title: 'The admin API of headscale-watchdog',
      version: '1',
      description:
        'Times are ISO 8601. Names that end in `Ms` are durations in milliseconds. Later versions may add members and words.',
      license: { name: 'BSD-3-Clause', identifier: 'BSD-3-Clause' },
    },
    servers: [{ url: '.' }],
    security: [{ token: [] }, { login: [] }, {}],
    paths,
    components: {
      schemas: componentSchemas(),
      responses: { Problem: responseObject(failed('Any other error.')) },
      securitySchemes: {
        token: { type: 'http', scheme: 'bearer', description: 'If the watchdog was started with a token.' },
        login: { type: 'apiKey', in: 'cookie', name: 'headscale_watchdog', description: 'From POST /login.' },
      },
    },
  };
}

function operationObject({ method, path, summary, isPublic, id, query, body, answers }: Operation): object {
  const parameters = [
    ...(id === undefined ? [] : [{ name: 'id', in: 'path', required: true, ...described(id) }]),
    ...Object.entries(query?.shape ?? {}).map(([name, type]) => ({
      name,
      in: 'query',
      ...described(type as z.ZodType),
    })),
  ];
  const responses = Object.entries(answers).map(([status, answer]) => [status, responseObject(answer)]);
  return {
    operationId: [method, ...path.split(/[^a-z]+/)].filter((word) => word !== '').join('_'),
    summary,
    ...(isPublic && { security: [] }),
    ...(parameters.length > 0 && { parameters }),
    ...(body && { requestBody: { required: true, content: { 'application/json': { schema: schemaOf(body) } } } }),
    responses: { ...Object.fromEntries(responses), default: { $ref: '#/components/responses/Problem' } },
  };
}

function responseObject({ description, content }: Answer): object {
  if (content === undefined) return { description };
  if ('text' in content) return { description, content: { [content.text]: { schema: { type: 'string' } } } };
  const type = PROBLEMS.has(content) ? 'application/problem+json' : 'application/json';
  return { description, content: { [type]: { schema: schemaOf(content) } } };
}

const PROBLEMS: ReadonlySet<Content> = new Set([problem, reloadProblem, handoverProblem]);

/** A parameter's description stands beside its schema. */
function described(type: z.ZodType): object {
  const { description, ...schema } = schemaOf(type) as { readonly description?: string };
  return description === undefined ? { schema } : { description, schema };
}

/** @returns a reference if the schema has a name. */
function schemaOf(type: z.ZodType): object {
  const all = z.toJSONSchema(type, { ...OPTIONS, reused: 'inline' });
  const { $schema, $defs, id, ...schema } = all;
  return id === undefined ? (referring(schema) as object) : { $ref: referenceTo(String(id)) };
}

function componentSchemas(): object {
  const { schemas } = z.toJSONSchema(z.globalRegistry, { ...OPTIONS, uri: referenceTo });
  const entries = Object.entries(schemas).map(([name, { $schema, $id, id, ...schema }]) => [name, schema]);
  return Object.fromEntries(entries.sort(([a], [b]) => (String(a) < String(b) ? -1 : 1)));
}

const referenceTo = (name: string): string => `#/components/schemas/${name}`;

/** Definitions that zod puts beside a schema are components of the document. */
function referring(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value).replaceAll('"#/$defs/', '"#/components/schemas/'));
}

const OPTIONS = {
  io: 'output',
  override({ jsonSchema }) {
    // A client must not refuse what a later version adds.
    delete jsonSchema.additionalProperties;
    // The format says it, and the pattern fills three lines.
    if (jsonSchema.format === 'date-time') delete jsonSchema.pattern;
    if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
    if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
  },
} as const satisfies Parameters<typeof z.toJSONSchema>[1];
