import { Option } from 'commander';
import { DEFAULTS } from '../config/defaults.ts';

/** What `serve` and `check` take to bound what may come; the defaults hold 8 000 nodes behind one address. */
export const LIMITS: readonly Option[] = [
  new Option(
    '--max-connections <number>',
    'more are closed at once; fewer where the limit of open files (two a connection) allows no more',
  ).default(DEFAULTS.maxConnections),
  new Option(
    '--max-connections-per-address <number>',
    'more from one IPv4 address or IPv6 /64 are closed at once; thousands of nodes may share one',
  ).default(DEFAULTS.maxConnectionsPerAddress),
  new Option(
    '--max-handshakes <number>',
    "how many control connections a second may begin, ten seconds' worth at once; more get 503",
  ).default(DEFAULTS.maxHandshakes),
  new Option('--max-handshakes-per-address <number>', 'the same, from one IPv4 address or IPv6 /64').default(
    DEFAULTS.maxHandshakesPerAddress,
  ),
  new Option(
    '--max-streams-per-node <number>',
    'how many streams one machine key may have; a machine needs two; for each one more the one longest unheard is ended',
  ).default(DEFAULTS.maxStreamsPerNode),
  new Option(
    '--max-held <number>',
    'how many new streams may be held back at once; more go to Headscale unheld',
  ).default(DEFAULTS.maxHeld),
  new Option('--max-header-size <size>', "how large a request's head may be; a larger one gets 431").default(
    DEFAULTS.maxHeaderSize,
  ),
  new Option(
    '--header-timeout <duration>',
    'how long a connection may take for TLS and the head of its request; slower ones get 408, or are closed',
  ).default(DEFAULTS.headerTimeout),
  new Option('--max-body-size <size>', "how large a plain request's body may be; a larger one gets 413").default(
    DEFAULTS.maxBodySize,
  ),
  new Option(
    '--body-timeout <duration>',
    'how long a plain request may take to come in whole; a slower one gets 408',
  ).default(DEFAULTS.bodyTimeout),
  new Option(
    '--max-early-size <size>',
    'how much a client may send before Headscale has answered its upgrade; then it is not read on',
  ).default(DEFAULTS.maxEarlySize),
  new Option('--max-history <number>', 'how many events are kept for the status page').default(DEFAULTS.maxHistory),
  new Option(
    '--upstream-rate <number|off>',
    'how many new control connections a second go to Headscale when all nodes come back at once; others wait their turn, 4s at most',
  ).default(DEFAULTS.upstreamRate),
  new Option('--upstream-burst <number>', 'how many may go at once before that').default(DEFAULTS.upstreamBurst),
];
