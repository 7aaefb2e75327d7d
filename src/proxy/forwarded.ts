/** What a client may claim about where it comes from; none of it is believed, all of it is dropped. */
const CLAIMS: ReadonlySet<string> = new Set([
  'forwarded',
  'true-client-ip',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
  'x-real-ip',
]);

/** What we know about where a request came from. */
export interface Origin {
  /** Without port, as in `203.0.113.7` or `2001:db8::7`. */
  readonly address: string;
  readonly proto: 'http' | 'https';
  /** The Host header; undefined if there was none (HTTP/1.0). */
  readonly host: string | undefined;
}

function truthsAbout(origin: Origin): [name: string, value: string][] {
  const truths: [string, string][] = [
    ['X-Forwarded-For', origin.address],
    ['X-Forwarded-Proto', origin.proto],
    ['X-Real-IP', origin.address],
  ];
  if (origin.host !== undefined) truths.push(['X-Forwarded-Host', origin.host]);
  return truths;
}

/** `rawHeaders` (name, value, name, value, …) without the client's claims and with our own words; else unchanged. */
export function forwardedRawHeaders(rawHeaders: readonly string[], origin: Origin): string[] {
  const kept: string[] = [];
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string;
    if (!CLAIMS.has(name.toLowerCase())) kept.push(name, rawHeaders[i + 1] as string);
  }
  for (const [name, value] of truthsAbout(origin)) kept.push(name, value);
  return kept;
}

/** The same for parsed headers (lower-case names), in place. */
export function setForwarded(headers: NodeJS.Dict<string | string[]>, origin: Origin): void {
  for (const name of CLAIMS) delete headers[name];
  for (const [name, value] of truthsAbout(origin)) headers[name.toLowerCase()] = value;
}

/** An IPv4 client on a dual-stack socket shows as `::ffff:a.b.c.d`; Headscale and people want `a.b.c.d`. */
export function plainAddress(address: string | undefined): string {
  if (address === undefined) return 'unknown';
  return address.startsWith('::ffff:') && address.includes('.') ? address.slice(7) : address;
}

/** `address:port`, an IPv6 address in brackets. */
export function addressAndPort(address: string, port: number | undefined): string {
  return `${address.includes(':') ? `[${address}]` : address}:${port ?? 0}`;
}
