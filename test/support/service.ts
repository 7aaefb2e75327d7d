import { acceptStream, type Harness } from './harness.ts';
import { ServiceManager, type Unit } from './service-manager.ts';

/** A Headscale that takes every stream and answers every request. */
export async function headscale(harness: Harness): Promise<string> {
  const { url } = await harness.upstream(acceptStream, (_request, response) => void response.end('{}'));
  return url;
}

interface Service extends Omit<Unit, 'args'> {
  readonly flags?: readonly string[];
  readonly admin?: string;
}

/** A watchdog of which every --listen is a socket of the manager's, but for one named admin. */
export async function service(
  harness: Harness,
  { flags = [], admin = '127.0.0.1:0', ...unit }: Service,
): Promise<ServiceManager> {
  const upstream = await headscale(harness);
  const names = unit.names?.split(':') ?? [];
  return ServiceManager.with(harness, {
    ...unit,
    args: (ports) => {
      const listens = ports.filter((_, i) => names[i] !== 'admin').map((port) => `127.0.0.1:${port}`);
      const adminPort = ports[names.indexOf('admin')];
      const given = [...listens.flatMap((each) => ['--listen', each]), ...flags];
      return ['serve', '--upstream', upstream, '--admin', adminPort ? `127.0.0.1:${adminPort}` : admin, ...given];
    },
  });
}
