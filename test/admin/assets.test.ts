import { describe, expect, test } from 'vitest';
import { readAssets } from '../../src/admin/routes.ts';

describe('readAssets', () => {
  test('finds the page and every file that the page loads, and serves nothing else', () => {
    const assets = readAssets();
    const html = assets.get('/')?.text ?? '';
    const named = [...html.matchAll(/(?:src|href)="(page\/[^"]+)"/g)].map(([, path]) => `/${path}`);
    const imported = [...assets].flatMap(([, { text }]) =>
      [...text.matchAll(/from '\.\/([\w-]+\.js)'/g)].map(([, name]) => `/page/${name}`),
    );
    expect(named.length).toBeGreaterThan(2);
    expect(imported.length).toBeGreaterThan(10);
    for (const path of [...named, ...imported]) expect([...assets.keys()]).toContain(path);
    expect([...assets.keys()].filter((path) => path.endsWith('.ts'))).toEqual([]);
  });

  test("if the page's files are missing, / says so", () => {
    const assets = readAssets(new URL('file:///nowhere/page/'));
    expect([...assets.keys()]).toEqual(['/']);
    expect(assets.get('/')?.text).toContain('run npm run build again');
  });

  test('the page names its files and routes relative to itself, so that a proxy may serve it under a path of its own', () => {
    for (const [path, { text }] of readAssets()) {
      const absolute = [...text.matchAll(/(?:href|src|action)="\/[^"]*"|(?:ask|fetch|URL)\(['`]\/[^'`]*/g)].map(
        ([found]) => found,
      );
      expect([path, absolute]).toEqual([path, []]);
    }
  });

  test('the page uses no other host and no inline script or style, which its Content-Security-Policy would block', () => {
    for (const [path, { text }] of readAssets()) {
      const hosts = [...text.matchAll(/https?:\/\/[^\s'"`)]+/g)].map(([url]) => url);
      expect([path, hosts.filter((url) => url !== 'http://www.w3.org/2000/svg')]).toEqual([path, []]);
      expect(text).not.toMatch(/<script(?![^>]*\bsrc=)|\sstyle="|\son\w+="/);
    }
  });
});
