import { readdirSync, readFileSync } from 'node:fs';
import { extname } from 'node:path';

/** A file of the status page. */
export interface Asset {
  readonly contentType: string;
  readonly text: string;
}

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
};

/** Reads the status page's files once, by the path each is served at: what is not among them cannot be asked for. */
export function readAssets(folder = new URL('./page/', import.meta.url)): ReadonlyMap<string, Asset> {
  const assets = new Map<string, Asset>();
  for (const name of readdirSync(folder)) {
    const contentType = TYPES[extname(name)];
    if (contentType === undefined) continue;
    const path = name === 'index.html' ? '/' : `/page/${name}`;
    assets.set(path, { contentType, text: readFileSync(new URL(name, folder), 'utf8') });
  }
  return assets;
}
