import pino from 'pino';
import { describe, expect, test } from 'vitest';
import { warnOfCertificates } from '../../src/app/start-warnings.ts';
import { certificateProblems, expiryOf, readCertificate } from '../../src/config/secrets.ts';
import type { Config } from '../../src/config/types.ts';

const DAY_MS = 86_400_000;
const now = new Date('2026-11-27T12:00:00Z');
/** When a certificate of 90 days ends, and when its renewal is overdue. */
const endsIn = (days: number) => expiryOf(inDays(days - 90), inDays(days));
const inDays = (days: number): Date => new Date(now.getTime() + days * DAY_MS);

const tls = (name: string) => {
  const path = (file: string): string => new URL(`../support/tls/${file}.pem`, import.meta.url).pathname;
  return { certFile: path(name), keyFile: path(name.replace('cert', 'key')) };
};

describe('certificateProblems', () => {
  test.each([
    [15, []],
    [14, ['warn HSW_CERTIFICATE_EXPIRING ends on 11 Dec 2026, in 14 days: renew it']],
    [6.5, ['warn HSW_CERTIFICATE_EXPIRING ends on 4 Dec 2026, in 6 days: renew it']],
    [1.25, ['warn HSW_CERTIFICATE_EXPIRING ends on 28 Nov 2026, in 1 d 6 h: renew it']],
    [0, ['fail HSW_CERTIFICATE_EXPIRING ended on 27 Nov 2026, 0 ms ago, so clients refuse it: renew it']],
    [-3, ['fail HSW_CERTIFICATE_EXPIRING ended on 24 Nov 2026, 3 days ago, so clients refuse it: renew it']],
  ])('a certificate that expires in %s days: %j', (days, expected) => {
    const problems = certificateProblems({ ...endsIn(days), isSelfSigned: false }, now);
    expect(problems.map(({ level, code, text }) => `${level} ${code} ${text}`)).toEqual(expected);
  });

  test('one that lasts only days is not near its end all its life', () => {
    const problemsOf = (leftDays: number) =>
      certificateProblems({ ...expiryOf(inDays(leftDays - 6), inDays(leftDays)), isSelfSigned: false }, now).length;
    // Clients renew it after three days.
    expect([6, 3, 1.6, 1.5, 0.1].map(problemsOf)).toEqual([0, 0, 0, 1, 1]);
  });

  test('a self-signed certificate is one, and one of an authority is not', () => {
    expect(readCertificate(tls('cert')).isSelfSigned).toBe(true);
    expect(readCertificate(tls('issued-cert')).isSelfSigned).toBe(false);
    const problems = certificateProblems({ ...endsIn(1), isSelfSigned: true }, now);
    expect(problems.map(({ code }) => code)).toEqual(['HSW_CERTIFICATE_EXPIRING', 'HSW_CERTIFICATE_SELF_SIGNED']);
  });

  test('serve warns of each at its start, with the same words', () => {
    const lines: Record<string, unknown>[] = [];
    const log = pino({}, { write: (line: string) => void lines.push(JSON.parse(line) as Record<string, unknown>) });
    const certificate = { ...readCertificate(tls('cert')), ...endsIn(-1) };
    const listen = [{ host: '127.0.0.1', port: 443, tls: tls('cert') }] as unknown as Config['listen'];
    warnOfCertificates(log, { listen } as Config, { certificateOf: () => certificate }, now);
    expect(lines.map(({ code, msg, file }) => [code, msg, file])).toEqual(
      certificateProblems(certificate, now).map(({ code, text }) => [
        code,
        `a certificate ${text}`,
        tls('cert').certFile,
      ]),
    );
    expect(lines).toHaveLength(2);
  });
});
