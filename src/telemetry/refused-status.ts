/** The statuses that are counted by themselves; all others together are `other`. */
export const REFUSED_STATUSES = ['400', '403', '404', '405', '500', '502', '503', '504', 'other'] as const;
export type RefusedStatus = (typeof REFUSED_STATUSES)[number];

export function refusedStatus(status: number): RefusedStatus {
  const known: readonly string[] = REFUSED_STATUSES;
  return known.includes(String(status)) ? (String(status) as RefusedStatus) : 'other';
}

/** What it means that Headscale, or what stands in its place, answers a control stream so, and what to do. */
export function whyRefused(status: number): string {
  if (status >= 300 && status < 400) {
    return 'this is a redirect, and nodes do not follow it; let --upstream name the address where Headscale itself answers';
  }
  switch (status) {
    case 400:
      return 'the Upgrade header or the handshake is missing or damaged; every proxy on the way must pass on Upgrade and X-Tailscale-Handshake as they came';
    case 401:
    case 403:
      return 'something wants to know who the client is, and nodes cannot say; let /ts2021 through without a login';
    case 404:
      return "there is no /ts2021 here, so this is not Headscale; point --upstream at Headscale's listen_addr";
    case 405:
      return 'this Headscale takes no WebSocket, which browsers need; use Headscale 0.24 to 0.28, or 0.29.2 or later. If other clients get this too, a proxy behind --upstream does not allow POST';
    case 500:
      return "Headscale saw no Upgrade header, or failed; a proxy between the watchdog and Headscale must pass on Upgrade, and Headscale's log says more";
    case 429:
      return 'a proxy behind --upstream limits the rate; let /ts2021 through without a limit';
    case 502:
    case 503:
    case 504:
      return 'a proxy behind --upstream does not reach Headscale; point --upstream at Headscale itself, or mend that proxy';
    default:
      return "nobody expects this answer; point --upstream at Headscale's listen_addr, and see Headscale's log";
  }
}
