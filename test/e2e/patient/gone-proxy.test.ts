import { describeDepartures, OFFLINE_WITHIN_MS } from '../support/departures.ts';
import { NOT_PROBING } from '../support/fronts.ts';

describeDepartures(NOT_PROBING, OFFLINE_WITHIN_MS);
