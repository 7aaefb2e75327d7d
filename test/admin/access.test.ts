import { describe, expect, test } from 'vitest';
import { type AccessRequest, createAccessControl } from '../../src/admin/access.ts';
import { ERRORS } from '../../src/lib/errors.ts';

const TOKEN = 'a-token-of-enough-characters';
const ASKING: AccessRequest = {
  ...{ host: '127.0.0.1:9191', origin: undefined, fetchSite: undefined },
  ...{ authorization: undefined, cookie: undefined, does: 'read', forwardedHosts: [] },
};
const READ = 'another-token-for-dashboards';
const DASHBOARD = 'https://dash.example';
const sessions: Readonly<Record<string, 'all' | 'read'>> = { 'logged in': 'all', 'reads only': 'read' };
const sessionOf = (cookie: string | undefined) => sessions[cookie ?? ''];
const corsOrigins = () => [DASHBOARD];
const open = createAccessControl({
  ...{ tokens: { all: undefined, read: undefined }, adminHost: '127.0.0.1', sessionOf, corsOrigins },
});
const guarded = createAccessControl({
  ...{ tokens: { all: TOKEN, read: READ }, adminHost: '10.0.0.5', sessionOf, corsOrigins },
});
const ask = (access: typeof open, more: Partial<AccessRequest>): number | undefined => {
  const refusal = access.refusalFor({ ...ASKING, ...more });
  return refusal && ERRORS[refusal.code].status;
};

describe('an admin server without a token', () => {
  test.each(['127.0.0.1:9191', 'localhost:9191', 'LOCALHOST', '[::1]:9191', '127.8.8.8'])(
    'accepts the Host header %s',
    (host) => {
      expect(ask(open, { host })).toBeUndefined();
    },
  );

  test.each([
    ['a foreign name that resolves to this machine (DNS rebinding)', 'evil.example:9191'],
    ['a name that only starts like localhost', 'localhost.evil.example'],
    ['a name that only starts like 127.0.0.1', '127.0.0.1.evil.example'],
    ['no value at all', undefined],
    ['another address of this machine', '10.0.0.5:9191'],
  ])('refuses a Host header with %s', (_what, host) => {
    expect(ask(open, { host })).toBe(403);
  });

  test('refuses changes from a page of another site (CSRF), and accepts them from its own page and the command line', () => {
    const change = { does: 'change' } as const;
    expect(ask(open, { ...change, origin: 'http://evil.example' })).toBe(403);
    expect(ask(open, { ...change, origin: 'null' })).toBe(403);
    expect(ask(open, { ...change, origin: 'http://127.0.0.1:8000', fetchSite: 'same-site' })).toBe(403);
    expect(ask(open, { ...change, fetchSite: 'cross-site' })).toBe(403);
    expect(ask(open, { ...change, origin: 'http://127.0.0.1:9191', fetchSite: 'same-origin' })).toBeUndefined();
    expect(ask(open, change)).toBeUndefined();
  });
});

describe('an admin server with a token', () => {
  test('needs exactly this token, or the cookie of a login', () => {
    expect(ask(guarded, {})).toBe(401);
    expect(ask(guarded, { authorization: `Bearer ${TOKEN}x` })).toBe(401);
    expect(ask(guarded, { authorization: `Bearer ${TOKEN.slice(1)}` })).toBe(401);
    expect(ask(guarded, { authorization: TOKEN })).toBe(401);
    expect(ask(guarded, { authorization: `Bearer ${TOKEN}` })).toBeUndefined();
    expect(ask(guarded, { cookie: 'logged in' })).toBeUndefined();
  });

  test('accepts any Host header together with the token, which a page of another site does not have', () => {
    expect(ask(guarded, { host: 'watchdog.internal', authorization: `Bearer ${TOKEN}` })).toBeUndefined();
    expect(ask(guarded, { host: 'evil.example', origin: 'http://evil.example', does: 'change' })).toBe(401);
  });

  test('refuses changes from a page of another site even if the browser is logged in', () => {
    const loggedIn = { cookie: 'logged in', does: 'change', host: '10.0.0.5:9191' } as const;
    expect(ask(guarded, { ...loggedIn, origin: 'http://evil.example' })).toBe(403);
    expect(ask(guarded, { ...loggedIn, origin: 'http://10.0.0.5:8000' })).toBe(403);
    expect(ask(guarded, { ...loggedIn, fetchSite: 'same-site' })).toBe(403);
    expect(ask(guarded, { ...loggedIn, origin: 'http://10.0.0.5:9191' })).toBeUndefined();
    // Behind something that ends TLS.
    expect(ask(guarded, { ...loggedIn, host: 'wd.example', origin: 'https://wd.example' })).toBeUndefined();
  });
});

describe('a token that may only read', () => {
  test.each([{ authorization: `Bearer ${READ}` }, { cookie: 'reads only' }])(
    '%o reads and watches, and changes nothing',
    (asking) => {
      expect(ask(guarded, asking)).toBeUndefined();
      expect(ask(guarded, { ...asking, does: 'watch' })).toBeUndefined();
      expect(guarded.refusalFor({ ...ASKING, ...asking, does: 'change' })).toMatchObject({
        code: 'HSW_ADMIN_TOKEN_READS_ONLY',
        message: expect.stringContaining('--admin-token-file'),
      });
      expect(guarded.mayChange({ ...ASKING, ...asking })).toBe(false);
    },
  );

  test('a wrong token is called wrong, and a missing one is asked for', () => {
    const codeFor = (authorization?: string) => guarded.refusalFor({ ...ASKING, authorization })?.code;
    expect(codeFor(`Bearer ${READ.slice(1)}`)).toBe('HSW_ADMIN_TOKEN_WRONG');
    expect(codeFor()).toBe('HSW_ADMIN_TOKEN_REQUIRED');
    expect(guarded.roleOf(TOKEN)).toBe('all');
    expect(guarded.roleOf(READ)).toBe('read');
    expect(open.roleOf('')).toBeUndefined();
  });

  test('whoever has the whole token, or needs none, may change', () => {
    expect(guarded.mayChange({ ...ASKING, authorization: `Bearer ${TOKEN}` })).toBe(true);
    expect(guarded.mayChange({ ...ASKING, cookie: 'logged in' })).toBe(true);
    expect(open.mayChange(ASKING)).toBe(true);
  });
});

describe('behind a trusted proxy', () => {
  const change = { cookie: 'logged in', host: '127.0.0.1:9191', does: 'change' } as const;

  test.each([
    ['https://wd.example', ['wd.example'], undefined],
    ['https://wd.example', ['wd.example:443'], undefined],
    ['https://wd.example:8443', ['wd.example:8443'], undefined],
    ['https://wd.example:8443', ['wd.example'], undefined],
    ['https://wd.example', ['WD.example'], undefined],
    ['https://[2001:db8::1]:8443', ['[2001:db8::1]:8443'], undefined],
    ['https://wd.example', ['outer.example', 'wd.example'], undefined],
    ['https://wd.example', ['wd.example:8443'], 403],
    ['https://evil.example', ['wd.example'], 403],
    ['https://wd.example.evil.example', ['wd.example'], 403],
    ['https://evil.example', ['/evil.example@'], 403],
    ['null', ['wd.example'], 403],
    ['http://127.0.0.1:9191', ['wd.example'], 403],
    ['https://wd.example', [], 403],
  ])('from %s, forwarded for %o: %s', (origin, forwardedHosts, status) => {
    expect(ask(guarded, { ...change, origin, forwardedHosts })).toBe(status);
    expect(ask(open, { ...change, origin, forwardedHosts })).toBe(status);
  });

  test("the browser's own word that another site asks outweighs the proxy's", () => {
    const forwarded = { origin: 'https://wd.example', forwardedHosts: ['wd.example'] };
    expect(ask(guarded, { ...change, ...forwarded, fetchSite: 'same-site' })).toBe(403);
  });

  test('a forwarded host does not help a site that points its name at this machine (DNS rebinding)', () => {
    for (const forwardedHosts of [['127.0.0.1:9191'], ['evil.example']]) {
      const rebound = { host: 'evil.example:9191', origin: 'http://evil.example:9191', forwardedHosts };
      for (const does of ['read', 'watch', 'change'] as const) expect(ask(open, { ...rebound, does })).toBe(403);
    }
  });
});

describe('a page of --admin-cors-origin', () => {
  const asking = { origin: DASHBOARD, fetchSite: 'cross-site' };

  test('reads and watches if no token is needed, and changes nothing', () => {
    expect(ask(open, asking)).toBeUndefined();
    expect(ask(open, { ...asking, does: 'watch' })).toBeUndefined();
    expect(ask(open, { ...asking, does: 'change' })).toBe(403);
    expect(ask(open, { ...asking, origin: 'https://dash.example.evil.example', does: 'watch' })).toBe(403);
  });

  test('needs a token where one is needed', () => {
    expect(ask(guarded, asking)).toBe(401);
    expect(ask(guarded, { ...asking, authorization: `Bearer ${READ}` })).toBeUndefined();
  });
});
