import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { PROJECT, programs } from '../support/build.ts';
import { useLab } from '../support/lab.ts';
import { onHost } from '../support/network.ts';

describe('the Headscale configurations in deploy, read by Headscale 0.29.2', () => {
  const here = useLab();

  it.each(['deploy/compose/headscale.yaml', 'deploy/kubernetes/config.yaml', 'deploy/kubernetes-replicas/config.yaml'])(
    '%s',
    async (path) => {
      const folder = here.lab.folder(`shipped-${path.split('/')[1]}`);
      const file = join(folder, 'config.yaml');
      const text = readFileSync(join(PROJECT, path), 'utf8');
      writeFileSync(file, text.replaceAll('/var/lib/headscale', folder).replaceAll('/var/run/headscale', folder));
      // The others have Headscale make one. So says the kustomization that an operator does.
      if (path.includes('replicas')) {
        writeFileSync(join(folder, 'noise_private.key'), `privkey:${randomBytes(32).toString('hex')}`);
      }
      const command = onHost(here.lab.server, programs.headscale['0.29.2'], 'configtest', '-c', file);
      const child = here.lab.start('headscale configtest', command);
      expect(await child.ended(), child.tail()).toBe(0);
    },
  );
});
