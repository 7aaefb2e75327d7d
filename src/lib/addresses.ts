/** An IPv4 client on a dual-stack socket shows as `::ffff:a.b.c.d`; Headscale and people want `a.b.c.d`. */
export function plainAddress(address: string | undefined): string {
  if (address === undefined) return 'unknown';
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address;
}

/** `address:port`, an IPv6 address in brackets; without the port where there is none. */
export function addressAndPort(address: string, port: number | undefined): string {
  if (port === undefined) return address;
  return `${address.includes(':') ? `[${address}]` : address}:${port}`;
}
