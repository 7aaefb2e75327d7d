/** The rooms of src, from the ground up. Each may use those before it, and none after it. */
const ROOMS = [
  ...['lib', 'identity', 'config', 'streams', 'liveness', 'takeover', 'nodes'],
  ...['proxy', 'headscale', 'pipeline', 'replicas', 'notify'],
  ...['telemetry', 'history', 'admin', 'service', 'demo', 'app', 'commands'],
];

/** These meet the outside, each another part of it: app joins them, and they do not know each other. */
const SHELL = ['proxy', 'headscale', 'replicas', 'notify', 'admin', 'service'];

/** One library, one file (commander: the commands). */
const LIBRARIES = {
  commander: '(cli|commands/[^/]+)',
  'http-proxy(-3)?': 'proxy/plain',
  ioredis: 'replicas/redis-link',
  koffi: '(liveness/(kernel|sock-diag)|service/service-manager)',
  'pino(-pretty)?': 'telemetry/log',
  'prom-client': 'telemetry/(metrics|node-metrics)',
  undici: '(headscale/agent|notify/delivery)',
  ws: 'admin/live',
  yaml: 'config/yaml',
  zod: 'admin/(schemas|(availability-)?views)',
};

const rule = (name, from, to) => ({ name, severity: 'error', from, to });
const folder = (names) => `^src/(${names.join('|')})/`;

export default {
  forbidden: [
    rule('no circles, types included', {}, { circular: true }),
    ...ROOMS.map((room, i) =>
      rule(
        `${room} does not know what stands on it`,
        { path: folder([room]) },
        { path: `${folder(ROOMS.slice(i + 1))}|^src/cli` },
      ),
    ),
    ...SHELL.map((room) =>
      rule(
        `${room} does not know the others of the shell`,
        { path: folder([room]) },
        { path: folder(SHELL.filter((other) => other !== room)) },
      ),
    ),
    rule('the top of src holds cli.ts and rooms', { path: '^src/' }, { path: '^src/(?!cli\\.ts)[^/]+\\.ts$' }),
    rule(
      'the core has no sockets and no files',
      { path: '^src/(identity|takeover|history/(?!history-(file|reading))|lib/(clock|units|token-bucket))' },
      { dependencyTypes: ['core'], pathNot: '^(node:)?crypto$' },
    ),
    ...Object.entries(LIBRARIES).map(([library, file]) =>
      rule(
        `${library} has one file`,
        { path: '^src/', pathNot: `^src/${file}\\.ts$` },
        { path: `node_modules/${library}/` },
      ),
    ),
  ],
  options: { parser: 'swc', tsPreCompilationDeps: true, doNotFollow: { path: 'node_modules' } },
};
