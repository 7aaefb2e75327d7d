/** An IPv4 client of a dual-stack socket has the address `::ffff:a.b.c.d`. Headscale and people expect `a.b.c.d`. */
export function plainAddress(address: string | undefined): string {
  if (address === undefined) return 'unknown';
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address;
}

/** `address:port`, with an IPv6 address in brackets. If there is no port, the address alone, without brackets. */
export function addressAndPort(address: string, port: number | undefined): string {
  if (port === undefined) return address;
  return `${address.includes(':') ? `[${address}]` : address}:${port}`;
}

/** The host and port of a URL. The host has no brackets. If the URL has no port, it is the default port of its scheme. */
export function hostAndPortOf(url: URL): { readonly host: string; readonly port: number } {
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port);
  return { host: url.hostname.replace(/^\[|\]$/g, ''), port };
}

/** Whether a host is the loopback: `localhost`, `127.0.0.0/8` or `::1`. @param host without port and brackets. */
export function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|::1)$/i.test(host);
}

/** Whether a server that listens on this host listens on every address of the machine. */
export function isEveryAddress(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}
