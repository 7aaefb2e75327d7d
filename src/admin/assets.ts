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

const MISSING: Asset = {
  contentType: 'text/plain; charset=utf-8',
  text: "The status page's files are missing: run npm run build again. /streams and /events work without them.\n",
};

/** Reads the status page's files once, by the path each is served at: what is not among them cannot be asked for. */
export function readAssets(folder = new URL('./page/', import.meta.url)): ReadonlyMap<string, Asset> {
  const assets = new Map<string, Asset>();
  for (const name of namesIn(folder)) {
    const contentType = TYPES[extname(name)];
    if (contentType === undefined) continue;
    const path = name === 'index.html' ? '/' : `/page/${name}`;
    assets.set(path, { contentType, text: readFileSync(new URL(name, folder), 'utf8') });
  }
  // No page is no reason to serve no node.
  return assets.has('/') ? assets : new Map([['/', MISSING]]);
}

function namesIn(folder: URL): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
