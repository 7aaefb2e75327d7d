import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './child.ts';
import type { Lab } from './lab.ts';

/** A certificate for the lab's server, its own authority, and what it takes to be replaced. */
export interface Certificate {
  readonly certFile: string;
  readonly keyFile: string;
  /** Both in one file, as HAProxy wants them. */
  readonly bundleFile: string;
}

/** Makes one that every phone of the lab trusts which is made after it. */
export async function certificateFor(lab: Lab, name = 'server'): Promise<Certificate> {
  const folder = lab.folder(`certificate-${name}`);
  const [certFile, keyFile] = [join(folder, 'cert.pem'), join(folder, 'key.pem')];
  await run(
    ...(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'] as const),
    ...(['-days', '7', '-subj', `/CN=${name}`, '-addext', `subjectAltName=IP:${lab.server.address}`] as const),
    ...(['-keyout', keyFile, '-out', certFile] as const),
  );
  const bundleFile = join(folder, 'bundle.pem');
  await run('sh', '-c', `cat ${certFile} ${keyFile} > ${bundleFile}`);
  lab.caFile ??= certFile;
  return { certFile, keyFile, bundleFile };
}

/** Puts another in the place of one, as certbot and lego do. */
export function replace({ certFile, keyFile }: Certificate, by: Certificate): void {
  cpSync(by.certFile, certFile);
  cpSync(by.keyFile, keyFile);
}

/** A `--listen` with TLS on the lab's server. */
export function listenWithTls(lab: Lab, port: number, { certFile, keyFile }: Certificate, more = ''): string {
  return `https://${lab.server.address}:${port}?cert=${certFile}&key=${keyFile}${more}`;
}
