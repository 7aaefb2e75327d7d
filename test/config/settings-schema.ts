import { fileKey, MOST_RULES, MOST_TARGETS } from '../../src/config/file.ts';
import { KEY_FORMS, kebabCase } from '../../src/config/problems.ts';
import { type Form, LONGEST_HOLD_MS, type Readable } from '../../src/config/readers.ts';
import {
  LISTEN_SETTINGS,
  RULE_MATCHES,
  RULE_SETTINGS,
  SETTING_NAMES,
  SETTINGS,
  type SettingHelp,
  type SettingName,
  TARGET_SETTINGS,
} from '../../src/config/settings.ts';
import { NOTICE_TYPES } from '../../src/config/types.ts';
import { formatDuration, parseDuration, parseSize, UNITS_MS, UNITS_OF_SIZE } from '../../src/lib/units.ts';

/*
 * A JSON schema of the settings file, for editors, made from the table of settings. settings-schema.test.ts writes it to
 * deploy/watchdog.schema.json. It knows each setting by itself, and not what depends on several of them or on flags:
 * headscale-watchdog check finds that.
 */

type Schema = Readonly<Record<string, unknown>>;

/** Draft 7, which every editor knows. */
export function settingsSchema(): Schema {
  return {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'Settings of headscale-watchdog',
    // A file of comments sets nothing.
    type: ['object', 'null'],
    additionalProperties: false,
    properties: {
      ...Object.fromEntries(SETTING_NAMES.filter(isAtTop).map((name) => [fileKey(name), settingSchema(name)])),
      metrics: mapping({ 'max-nodes': settingSchema('metricsMaxNodes') }),
      nodes: { ...NODES, description: 'rules for single nodes; the first one that matches counts' },
      notify: { ...NOTIFY, description: 'who is told when a node goes offline and the like' },
    },
  };
}

/** Only `metrics.max-nodes` is nested. */
function isAtTop(name: SettingName): boolean {
  return !fileKey(name).includes('.');
}

function settingSchema(name: SettingName): Schema {
  const { help, byDefault }: SettingHelp = SETTINGS[name];
  const setting = SETTINGS[name];
  const schema = 'read' in setting ? schemaOf(setting.read.form) : LISTS[name as keyof typeof LISTS];
  return { description: help, ...(byDefault !== undefined && { default: byDefault }), ...schema };
}

function schemaOf(form: Form): Schema {
  switch (form.kind) {
    case 'duration':
      return text(durations(form.shortest, form.longest), form.off ? ['off'] : []);
    case 'hold':
      return text(durations('0s', `${LONGEST_HOLD_MS}ms`), ['auto', 'off']);
    case 'size':
      return text(sizes(form.least, form.most));
    case 'number':
      return {
        anyOf: [
          { type: 'integer', minimum: form.least, maximum: form.most },
          text(wholeNumbers(form.least, form.most), form.off ? ['off'] : []),
        ],
      };
    case 'boolean':
      return { type: 'boolean' };
    case 'words':
      return { enum: form.words };
    case 'text':
      return { type: 'string', minLength: 1 };
    case 'plain name':
      return text('[\\w.-]{1,60}');
    case 'secret file':
      return { type: 'string', minLength: 1, not: { anyOf: KEY_FORMS.map((key) => ({ pattern: anyCase(key) })) } };
    case 'key':
      return text(`${form.prefix}:[0-9a-f]{64}`);
    case 'address':
      return text(ADDRESS);
    case 'upstream URL':
      return text(`${SCHEME}${URL_HOST}/?`);
    case 'notify URL':
      return text(`${SCHEME}(?:[^/?#@\\s]*@)?${URL_HOST}(?:[/?#].*)?`);
    case 'Redis URL':
      return text(REDIS);
    default:
      return form satisfies never;
  }
}

/** Text that matches as a whole, or is one of some words. */
function text(pattern: string, words: readonly string[] = []): Schema {
  return { type: 'string', pattern: `^(?:${[...words, pattern].join('|')})$` };
}

/** Keys of a mapping by their names, without any other. */
function mapping(properties: Schema): Schema {
  return { type: 'object', additionalProperties: false, properties };
}

function entries(table: Readonly<Record<string, Readable<unknown>>>): Schema {
  return Object.fromEntries(
    Object.entries(table).map(([name, { read, byDefault }]) => [
      kebabCase(name),
      { ...schemaOf(read.form), ...(byDefault !== undefined && { default: byDefault }) },
    ]),
  );
}

const keysOf = (table: object): readonly string[] => Object.keys(table).map(kebabCase);
const oneOrMore = (item: Schema): Schema => ({ anyOf: [item, { type: 'array', minItems: 1, items: item }] });
const needsOneOf = (keys: readonly string[]): Schema => ({ anyOf: keys.map((key) => ({ required: [key] })) });

/** @returns a pattern for whole numbers between two limits, also with zeros in front. */
function wholeNumbers(least: number, most: number, unit = ''): string {
  const tooSmall = least === 0 ? '' : `(?!0*(?:${upTo(least - 1)})${unit}$)`;
  return `${tooSmall}0*(?:${upTo(most)})${unit}`;
}

/** Whole numbers from 0: those with fewer digits, those that are smaller in one digit, and the number itself. */
function upTo(most: number): string {
  const digits = String(most);
  const any = (least: number, most: number): string =>
    most === 1 ? '\\d' : `\\d{${least === most ? most : `${least},${most}`}}`;
  const shorter = digits.length === 1 ? [] : [any(1, digits.length - 1)];
  const smaller = [...digits].flatMap((digit, i) => {
    const more = digits.length - 1 - i;
    const lower = digit === '1' ? '0' : `[0-${Number(digit) - 1}]`;
    return digit === '0' ? [] : [`${digits.slice(0, i)}${lower}${more === 0 ? '' : any(more, more)}`];
  });
  return [...shorter, ...smaller, digits].join('|');
}

/** Fractions may be a little beyond the limits: the schema compares only what stands before the point. */
function durations(shortest: string, longest: string): string {
  const [least, most] = [parseDuration(shortest) ?? 0, parseDuration(longest) ?? 0];
  return Object.entries(UNITS_MS)
    .flatMap(([unit, ms]) => {
      const fractions = wholeNumbers(
        Math.max(0, Math.floor((least - 1) / ms)),
        Math.floor(most / ms),
        `\\.\\d+${unit}`,
      );
      const [first, last] = [Math.ceil(least / ms), Math.floor(most / ms)];
      return first > last ? [fractions] : [wholeNumbers(first, last, unit), fractions];
    })
    .join('|');
}

function sizes(least: string, most: string): string {
  const [smallest, largest] = [parseSize(least) ?? 0, parseSize(most) ?? 0];
  return Object.entries(UNITS_OF_SIZE)
    .flatMap(([unit, bytes]) => {
      const [first, last] = [Math.ceil(smallest / bytes), Math.floor(largest / bytes)];
      return first > last ? [] : [wholeNumbers(first, last, unit)];
    })
    .join('|');
}

/** JSON schemas have no flags for patterns. */
function anyCase(pattern: RegExp): string {
  return pattern.source.replace(/\\.|\[[^\]]*\]|[a-z]/gi, (part) => {
    if (part.startsWith('[')) return part.replace(/([a-z])-([a-z])/gi, (range) => range + range.toUpperCase());
    return part.length > 1 ? part : `[${part.toLowerCase()}${part.toUpperCase()}]`;
  });
}

const URL_PORT = `(?::(?:0*(?:${upTo(65_535)}))?)?`;
const URL_HOST = `(?:\\[[0-9A-Fa-f:.]+\\]|[^\\s/?#@:<>[\\]\\\\^|%]+)${URL_PORT}`;
const SCHEME = `${anyCase(/https?/)}://`;
const hostWithout = (more: string): string => `(?:\\[[0-9A-Fa-f:.]+\\]|[^:\\[\\]\\s${more}]*)`;
const HOST = hostWithout('/?#');
const PORT = `(?=\\d{1,5}(?!\\d))(?:${wholeNumbers(0, 65_535)})`;
const ADDRESS = `${hostWithout('')}:${PORT}`;
const REDIS_HOST = `${hostWithout('/@,')}(?::${PORT})?`;
const REDIS_USER = '(?:(?:[^@/:%]|%[0-9A-Fa-f]{2})*@)?';
const REDIS = [
  `${anyCase(/rediss?/)}://${REDIS_USER}(?=[^/@])${REDIS_HOST}(?:/\\d{0,4}(?:/.*)?)?`,
  `${anyCase(/rediss?\+sentinel/)}://${REDIS_USER}(?=[^/@])${REDIS_HOST}(?:,${REDIS_HOST})*/[^/]+(?:/\\d{0,4}(?:/.*)?)?`,
  `${anyCase(/rediss?\+cluster/)}://${REDIS_USER}(?=[^/@])${REDIS_HOST}(?:,${REDIS_HOST})*(?:/0{0,4}(?:/.*)?)?`,
].join('|');

const LISTEN_OPTIONS = '(?:(?:redirect|proxy-protocol)=(?:true|false))?';
const TLS_OPTIONS = '(?:proxy-protocol=(?:true|false)|redirect=false|(?:cert|key)=[^&]+)?';
const LISTEN_TEXTS = [
  ADDRESS,
  `http://${HOST}(?::${PORT})?/?(?:\\?${LISTEN_OPTIONS}(?:&${LISTEN_OPTIONS})*)?`,
  `https://${HOST}(?::${PORT})?/?\\?(?=(?:.*&)?cert=)(?=(?:.*&)?key=)${TLS_OPTIONS}(?:&${TLS_OPTIONS})*`,
];

const LISTEN_MAPPING: Schema = {
  ...mapping(entries(LISTEN_SETTINGS)),
  required: ['address'],
  dependencies: { cert: ['key'], key: ['cert'] },
  not: { required: ['cert', 'redirect'], properties: { redirect: { const: true } } },
};

const BYTE = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
const IPV4 = `(?:${BYTE}\\.){3}${BYTE}`;
const IPV6 = ipv6('[0-9A-Fa-f]{1,4}');

/** RFC 3986, section 3.2.2. @param group the pattern of four digits. */
function ipv6(group: string): string {
  const last = `(?:${group}:${group}|${IPV4})`;
  const upToGroups = (most: number): string => (most === 0 ? '' : `(?:(?:${group}:){0,${most - 1}}${group})?`);
  const compressed = [5, 4, 3, 2, 1, 0].map((after) => `${upToGroups(5 - after)}::(?:${group}:){${after}}${last}`);
  const all = [`(?:${group}:){6}${last}`, ...compressed, `${upToGroups(6)}::${group}`, `${upToGroups(7)}::`];
  return `(?:${all.join('|')})`;
}

/** How many bits a range has, not 0: that would be every address. */
const bits = (most: number): string => `/(?=\\d{1,3}(?!\\d))(?!0+(?!\\d))0*(?:${upTo(most)})(?!\\d)`;
const CIDR = `\\s*(?:${IPV4}(?:${bits(32)})?|${IPV6}(?:${bits(128)})?)\\s*`;

/** A list, or the word none for an empty one. */
function orNone(pattern: string): Schema {
  const none = { enum: ['none'] };
  return {
    anyOf: [none, { type: 'array', maxItems: 1, items: none }, text(pattern), { type: 'array', items: text(pattern) }],
  };
}

const LISTS = {
  listen: oneOrMore({ anyOf: [text(LISTEN_TEXTS.join('|')), LISTEN_MAPPING] }),
  trustedProxies: orNone(`${CIDR}(?:,${CIDR})*`),
  adminCorsOrigin: orNone(`${SCHEME}${URL_HOST}/?`),
} as const;

const MATCHES: Schema = { ...mapping(entries(RULE_MATCHES)), minProperties: 1 };

const NODES: Schema = {
  type: 'array',
  maxItems: MOST_RULES,
  items: {
    ...mapping(entries(RULE_SETTINGS)),
    allOf: [
      needsOneOf(keysOf(RULE_MATCHES)),
      needsOneOf(keysOf(RULE_SETTINGS).filter((key) => !keysOf(RULE_MATCHES).includes(key))),
    ],
  },
};

const EVENT: Schema = {
  anyOf: [
    { enum: NOTICE_TYPES },
    text(
      `[A-Za-z.*?]*[*?][A-Za-z.*?]*|${NOTICE_TYPES.map((type) => anyCase(new RegExp(type.replace('.', '\\.')))).join('|')}`,
    ),
  ],
};

const TARGET: Schema = {
  ...mapping({
    ...entries(TARGET_SETTINGS),
    events: { ...oneOrMore(EVENT), description: 'what it is told; all but takeover by default' },
    nodes: { ...oneOrMore(MATCHES), description: 'which nodes it is told of; every node by default' },
  }),
  required: ['url'],
};

const NOTIFY: Schema = { anyOf: [TARGET, { type: 'array', maxItems: MOST_TARGETS, items: TARGET }] };

/** Every key of the file, as a table for the docs. */
export function settingsReference(): string {
  const row = (key: string, value: string, byDefault: string | boolean | undefined): string =>
    `| \`${key}\` | ${value} | ${byDefault === undefined ? '' : `\`${byDefault}\``} |`;
  const rowsOf = (before: string, table: Readonly<Record<string, Readable<unknown>>>): readonly string[] =>
    Object.entries(table).map(([name, { read, byDefault }]) =>
      row(`${before}${kebabCase(name)}`, inWords(read.form), byDefault),
    );
  const settings = SETTING_NAMES.map((name) => {
    const setting: SettingHelp = SETTINGS[name];
    const value =
      name in LISTS
        ? LISTS_IN_WORDS[name as keyof typeof LISTS]
        : inWords((SETTINGS[name] as Readable<unknown>).read.form);
    return row(fileKey(name), value, setting.byDefault);
  });
  return [
    '| key | value | default |',
    '| --- | --- | --- |',
    ...settings,
    ...rowsOf('listen[].', LISTEN_SETTINGS),
    ...rowsOf('nodes[].', RULE_SETTINGS),
    ...rowsOf('notify[].', TARGET_SETTINGS),
    row(
      'notify[].events',
      'one or more of the [events](notifications.md#events); `*` stands for any characters',
      'all but takeover',
    ),
    ...rowsOf('notify[].nodes[].', RULE_MATCHES),
  ].join('\n');
}

const LISTS_IN_WORDS: Readonly<Record<keyof typeof LISTS, string>> = {
  listen: 'one or more of `HOST:PORT`, a URL with options, or a mapping with the keys below',
  trustedProxies: 'one or more addresses or ranges, or `none`',
  adminCorsOrigin: 'one or more of `https://HOST` or `https://HOST:PORT`, or `none`',
};

function inWords(form: Form): string {
  switch (form.kind) {
    case 'duration':
      return `\`${form.shortest}\` to \`${form.longest}\`${form.off ? ', or `off`' : ''}`;
    case 'hold':
      return `up to \`${formatDuration(LONGEST_HOLD_MS)}\`, \`auto\` or \`off\``;
    case 'size':
      return `\`${form.least}\` to \`${form.most}\``;
    case 'number':
      return `${form.least} to ${form.most}${form.off ? ', or `off`' : ''}`;
    case 'boolean':
      return '`true` or `false`';
    case 'words':
      return form.words.map((word) => `\`${word}\``).join(', ');
    case 'text':
      return 'text, not empty';
    case 'plain name':
      return 'up to 60 letters, digits, dots, hyphens and underscores';
    case 'secret file':
      return 'the path of a file';
    case 'key':
      return `\`${form.prefix}:\` and 64 hex digits`;
    case 'address':
      return '`HOST:PORT`; `:PORT` is every address';
    case 'upstream URL':
      return '`http://HOST:PORT` or `https://HOST:PORT`';
    case 'notify URL':
      return '`https://…` or `http://…`';
    case 'Redis URL':
      return 'a [URL of Redis](replicas.md)';
    default:
      return form satisfies never;
  }
}
