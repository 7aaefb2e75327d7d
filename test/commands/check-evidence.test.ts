import { describe, expect, test } from 'vitest';
import type { EvidenceView } from '../../src/admin/views.ts';
import { evidenceFindings, streamEvidenceFinding } from '../../src/commands/check-evidence.ts';
import type { Finding } from '../../src/commands/findings.ts';
import { loadConfig } from '../../src/config/load.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { loadSockDiag } from '../../src/liveness/sock-diag.ts';
import { FakeSockDiag } from '../support/fake-sock-diag.ts';

const OWN = ['127.0.0.1', '::1', '172.18.0.3', 'fd00::3'];
const FORBIDDEN = { ok: false, code: 'EAFNOSUPPORT', why: 'netlink is not allowed' } as const;
const hasSockDiag = (await loadSockDiag(systemClock)).ok;

/** A namespace with every connection that is asked for, as far as the check asks. */
class AllSockets extends FakeSockDiag {
  override find(): ReturnType<FakeSockDiag['find']> {
    return { ok: true, socket: this.open('127.0.0.1:1', '127.0.0.1:2') };
  }
}

async function behindProxies(
  trustedProxies: string | undefined,
  diag: Parameters<typeof evidenceFindings>[1] = () => Promise.resolve({ ok: true, sockDiag: new AllSockets() }),
  listen = '0.0.0.0:443',
): Promise<readonly Finding[]> {
  const config = loadConfig({ listen, ...(trustedProxies !== undefined && { trustedProxies }) });
  const found = await evidenceFindings(config, diag, () => OWN);
  return found.filter(({ text }) => text.startsWith('kernel evidence behind a proxy: '));
}

const shown = (where: string) => ({
  ...{ level: 'ok', code: null },
  text: `kernel evidence behind a proxy: Linux shows the connections between a proxy at ${where} and its clients`,
});
const hidden = (text: string) => ({
  ...{ level: 'warn', code: 'HSW_PROXY_SOCKETS_HIDDEN' },
  text: expect.stringContaining(`none about the clients of ${text}, outside this machine or network namespace`),
});

describe('kernel evidence behind a proxy', () => {
  test.each([
    ['the loopback, by default', undefined, '127.0.0.0/8, ::1'],
    ['the loopback', '127.0.0.1', '127.0.0.1'],
    ["this machine's addresses", '172.18.0.3,fd00::3', '172.18.0.3, fd00::3'],
    ["a range of one of this machine's addresses", '172.18.0.3/32', '172.18.0.3'],
  ])('Linux shows the clients of a proxy at %s', async (_what, trusted, where) => {
    expect(await behindProxies(trusted)).toEqual([shown(where)]);
  });

  test('not the clients of a proxy at another address: it names that one, and says what to do', async () => {
    const found = await behindProxies('172.18.0.5,172.19.0.0/16');
    expect(found).toEqual([hidden('a proxy at 172.18.0.5, 172.19.0.0/16')]);
    expect(found[0]?.text).toMatch(
      /gone-after does nothing for them: run the watchdog in that proxy's network namespace/,
    );
  });

  test('of a range with an address of this machine, only the clients of a proxy at that address', async () => {
    expect(await behindProxies('127.0.0.1,172.18.0.0/16')).toEqual([
      shown('127.0.0.1, 172.18.0.3'),
      hidden('any other proxy at 172.18.0.0/16'),
    ]);
  });

  test('nothing is said, and Linux is not asked, if no proxy is trusted', async () => {
    let asked = 0;
    const diag = () => {
      asked += 1;
      return Promise.resolve(FORBIDDEN);
    };
    expect(await behindProxies('none', diag)).toEqual([]);
    expect(asked).toBe(0);
  });

  test('without netlink it says why, and warns only if there is a proxy for certain', async () => {
    const diag = () => Promise.resolve(FORBIDDEN);
    const text = "Linux does not show the proxy's connections (netlink is not allowed)";
    const warning = { level: 'warn', code: 'HSW_PROXY_SOCKETS_HIDDEN', text: expect.stringContaining(text) };
    expect(await behindProxies('127.0.0.1', diag)).toEqual([warning]);
    expect(await behindProxies(undefined, diag, '127.0.0.1:8081')).toEqual([warning]);
    expect(await behindProxies(undefined, diag)).toEqual([
      {
        level: 'ok',
        code: null,
        text: expect.stringMatching(/netlink is not allowed.*only matters if there is a proxy/),
      },
    ]);
  });

  test('a Linux that does not find a connection which is there counts as one that cannot be asked', async () => {
    const blind = () => Promise.resolve({ ok: true, sockDiag: new FakeSockDiag() } as const);
    expect(await behindProxies('127.0.0.1', blind)).toMatchObject([
      { level: 'warn', text: expect.stringContaining('it does not find one that is there') },
    ]);
  });

  test.runIf(hasSockDiag)('this Linux shows them', async () => {
    expect(await behindProxies('127.0.0.1', () => loadSockDiag(systemClock))).toEqual([shown('127.0.0.1')]);
  });
});

describe('the evidence of open streams', () => {
  const from = (source: EvidenceView['source'], reason: EvidenceView['reason'] = null) => ({
    evidence: { source, by: null, user: null, reason },
  });

  test('is counted by its source', () => {
    expect(streamEvidenceFinding([from('direct'), from('proxy'), from('proxy')])).toEqual({
      ...{ level: 'ok', code: null },
      text: "kernel evidence of the 3 open streams: 1 from the client's own connection, 2 from the proxy's, 0 without",
    });
  });

  test('without it for some of them, it warns and says why', () => {
    const streams = [from('direct'), from('none', 'proxy_elsewhere'), from('none', 'several_proxies')];
    expect(streamEvidenceFinding([...streams, from('none', 'proxy_elsewhere')])).toEqual({
      ...{ level: 'warn', code: 'HSW_PROXY_SOCKETS_HIDDEN' },
      text: "kernel evidence of the 4 open streams: 1 from the client's own connection, 0 from the proxy's, 3 without (proxy_elsewhere, several_proxies): see docs/proxies.md",
    });
  });

  test('says nothing if no stream is open', () => {
    expect(streamEvidenceFinding([])).toBeUndefined();
  });
});
