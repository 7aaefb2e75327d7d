import dns from 'node:dns';
import { existsSync } from 'node:fs';

// Loaded into a process before all else: `headscale.test` is this machine, until there is a file that says it is not.
const { lookup } = dns;
dns.lookup = (name, options, callback) => {
  if (name !== 'headscale.test') return lookup(name, options, callback);
  const done = typeof options === 'function' ? options : callback;
  if (existsSync(process.env.DNS_GONE ?? '')) {
    done(Object.assign(new Error(`getaddrinfo ENOTFOUND ${name}`), { code: 'ENOTFOUND' }));
  } else if (options?.all) done(null, [{ address: '127.0.0.1', family: 4 }]);
  else done(null, '127.0.0.1', 4);
};
