/**
 * What strangers can send, made up at random and tried: `FUZZ_CASES` cases in all (default 20 000), from `FUZZ_SEED`, which is
 * printed, so that whatever is found can be found again.
 */
import { configuration } from './configuration.ts';
import { clientPorts, forwardedFromTheRight, forwardedHeaders, spoofedOrigins, upgradeHeads } from './forwarded.ts';
import { goHeads } from './go-heads.ts';
import { requestHeads } from './heads.ts';
import { initiationReader } from './initiation.ts';
import { proxyProtocolHeaders, proxyProtocolRubbish } from './proxy-protocol.ts';
import type { Target } from './target.ts';
import { webSocketFrames, webSocketRubbish } from './web-socket.ts';

const CASES = Number(process.env.FUZZ_CASES ?? 20_000);
const SEED = Number(process.env.FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
const WANTED = process.argv[2] ?? '';

const TARGETS: readonly Target[] = [
  initiationReader,
  ...[proxyProtocolHeaders, proxyProtocolRubbish],
  ...[webSocketFrames, webSocketRubbish],
  ...[forwardedHeaders, spoofedOrigins, forwardedFromTheRight, clientPorts, upgradeHeads],
  configuration,
  ...[goHeads, requestHeads],
];

const rejections: unknown[] = [];
process.on('unhandledRejection', (error) => rejections.push(error));

/** The case that broke the property, and what was wrong with it. */
function told(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? String(error.stack) : `${error.message}\n${told(error.cause)}`;
}

async function fuzz(): Promise<void> {
  process.stdout.write(`seed ${SEED}: again with FUZZ_SEED=${SEED} FUZZ_CASES=${CASES} npm run fuzz\n`);
  let all = 0;
  for (const { name, share, run } of TARGETS) {
    if (!name.includes(WANTED)) continue;
    const startedAt = performance.now();
    try {
      const tried = await run(Math.ceil(share * CASES), SEED);
      all += tried;
      const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
      process.stdout.write(`${name}: ${tried} cases in ${seconds} s\n`);
    } catch (error) {
      process.exitCode = 1;
      process.stdout.write(`${name}: FAILED\n${told(error)}\n`);
    }
  }
  process.stdout.write(`${all} cases, ${rejections.length} unhandled rejections\n`);
  if (rejections.length > 0) process.exitCode = 1;
  for (const rejection of rejections) process.stdout.write(`${rejection}\n`);
}

await fuzz();
