/** Every setting with its default, as an operator writes it. */
export const DEFAULTS = {
  upstream: 'http://127.0.0.1:8080',
  listen: '0.0.0.0:8081',
  admin: '127.0.0.1:9191',
  silentAfter: '30s',
  goneAfter: '120s',
  probeIdle: 'off',
  hold: 'auto',
  observeOnly: false,
  upstreamSilentSever: false,
  drain: '20s',
  redisPrefix: 'headscale-watchdog',
  metricsMaxNodes: '1000',
  logLevel: 'info',
} as const;
