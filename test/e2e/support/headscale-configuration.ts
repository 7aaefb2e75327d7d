import { join } from 'node:path';
import type { HeadscaleOptions } from './headscale.ts';

export type HeadscaleVersion = '0.30-dev' | '0.29.2' | '0.28.0' | '0.23.0';

export const HEADSCALE_PORT = 8080;
/** Prometheus metrics; 0.29 has its `/debug/` there as well. */
export const DEBUG_PORT = 9090;
export const STUN_PORT = 3478;

/** Headscale reads its configuration as YAML, and JSON is YAML. What one version does not know it ignores. */
export function configuration(
  folder: string,
  serverUrl: string,
  { gatherWritesMs, relayAt, ephemeralAfterMs }: Omit<HeadscaleOptions, 'version'>,
): string {
  const settings = {
    server_url: relayAt ?? serverUrl,
    listen_addr: `0.0.0.0:${HEADSCALE_PORT}`,
    metrics_listen_addr: `127.0.0.1:${DEBUG_PORT}`,
    grpc_listen_addr: '127.0.0.1:50443',
    noise: { private_key_path: join(folder, 'noise_private.key') },
    prefixes: { v4: '100.64.0.0/10', allocation: 'sequential' },
    derp:
      relayAt === undefined
        ? { server: { enabled: false }, urls: [], paths: [join(folder, 'derp.yaml')], auto_update_enabled: false }
        : { server: relay(folder, relayAt), urls: [], paths: [], auto_update_enabled: false },
    disable_check_updates: true,
    database: { type: 'sqlite', sqlite: { path: join(folder, 'db.sqlite'), write_ahead_log: true } },
    log: { level: 'info', format: 'text' },
    policy: { mode: 'file', path: '' },
    dns: { magic_dns: false, base_domain: 'tailnet.test', override_local_dns: false, nameservers: { global: [] } },
    unix_socket: join(folder, 'headscale.sock'),
    unix_socket_permission: '0700',
    logtail: { enabled: false },
    ...(ephemeralAfterMs === undefined ? {} : ephemeral(`${ephemeralAfterMs}ms`)),
    ...(gatherWritesMs === undefined ? {} : { tuning: { node_store_batch_timeout: `${gatherWritesMs}ms` } }),
  };
  return JSON.stringify(settings, undefined, 2);
}

/** 0.29 has another name for it, and ignores the old one. */
function ephemeral(timeout: string): object {
  return { ephemeral_node_inactivity_timeout: timeout, node: { ephemeral: { inactivity_timeout: timeout } } };
}

/** Headscale's embedded relay, which clients look for at its server URL. */
function relay(folder: string, serverUrl: string): object {
  return {
    enabled: true,
    region_id: 999,
    region_code: 'headscale',
    region_name: 'Headscale',
    verify_clients: true,
    stun_listen_addr: `0.0.0.0:${STUN_PORT}`,
    private_key_path: join(folder, 'derp_private.key'),
    automatically_add_embedded_derp_region: true,
    ipv4: new URL(serverUrl).hostname,
  };
}

/**
 * A client is Running only after it has chosen a relay. So there is one region, with a STUN server that makes
 * the choice quick; nothing listens for the relay itself.
 */
export function derpMap(address: string): string {
  return `
regions:
  900:
    regionid: 900
    regioncode: none
    regionname: None
    nodes:
      - { name: 900a, regionid: 900, hostname: ${address}, ipv4: ${address}, ipv6: none, stunport: ${STUN_PORT} }
`;
}
