import { describe, expect, test } from 'vitest';
import { type AccessRequest, createAccessControl } from '../../src/admin/access.ts';
import { ERRORS } from '../../src/lib/errors.ts';

const TOKEN = 'a-token-of-enough-characters';
const ASKING: AccessRequest = {
  ...{ host: '127.0.0.1:9191', origin: undefined, fetchSite: undefined },
  ...{ authorization: undefined, cookie: undefined, isSensitive: false },
};
const hasSession = (cookie: string | undefined): boolean => cookie === 'logged in';
const open = createAccessControl({ token: undefined, adminHost: '127.0.0.1', hasSession });
const guarded = createAccessControl({ token: TOKEN, adminHost: '10.0.0.5', hasSession });
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
    const change = { isSensitive: true };
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
    expect(ask(guarded, { host: 'evil.example', origin: 'http://evil.example', isSensitive: true })).toBe(401);
  });

  test('refuses changes from a page of another site even if the browser is logged in', () => {
    const loggedIn = { cookie: 'logged in', isSensitive: true, host: '10.0.0.5:9191' };
    expect(ask(guarded, { ...loggedIn, origin: 'http://evil.example' })).toBe(403);
    expect(ask(guarded, { ...loggedIn, origin: 'http://10.0.0.5:8000' })).toBe(403);
    expect(ask(guarded, { ...loggedIn, fetchSite: 'same-site' })).toBe(403);
    expect(ask(guarded, { ...loggedIn, origin: 'http://10.0.0.5:9191' })).toBeUndefined();
    // Behind something that ends TLS.
    expect(ask(guarded, { ...loggedIn, host: 'wd.example', origin: 'https://wd.example' })).toBeUndefined();
  });
});
