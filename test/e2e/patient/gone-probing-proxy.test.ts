import { describeDepartures } from '../support/departures.ts';
import { PROBING } from '../support/fronts.ts';

/** Whatever Headscale says: the proxy's own probes, every 15 s, go unanswered. */
const OFFLINE_WITHIN_MS = 62_000;

describeDepartures(PROBING, OFFLINE_WITHIN_MS);
