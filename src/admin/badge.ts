import { isConnected, type NodePresence } from '../nodes/presence.ts';
import type { Readiness } from './views.ts';

/** A badge: what it is about, and what it says of it. */
interface Badge {
  readonly label: string;
  readonly message: string;
  readonly is: 'good' | 'unsure' | 'bad';
}

/** How many nodes are connected: `35 of 60 connected`. */
export function nodesBadge(nodes: readonly NodePresence[]): Badge {
  // A stranger's key is no node, and a deleted node need not be connected.
  const counted = nodes.filter(({ state }) => state !== 'unknown' && state !== 'deleted');
  const connected = counted.filter(isConnected).length;
  const is = connected === counted.length ? 'good' : connected === 0 ? 'bad' : 'unsure';
  return { label: 'nodes', message: `${connected} of ${counted.length} connected`, is };
}

/** Whether nodes can connect and reach Headscale. */
export function healthBadge({ ready, draining, upstream, noiseKeyMatches }: Readiness): Badge {
  const badge = (message: string, is: Badge['is']): Badge => ({ label: 'headscale', message, is });
  if (draining) return badge('watchdog stops', 'unsure');
  if (!ready) return badge('watchdog not ready', 'bad');
  if (upstream.up === null) return badge('not checked yet', 'unsure');
  if (!upstream.up) return badge('down', 'bad');
  if (upstream.silentOn !== null) return badge('silent', 'bad');
  if (upstream.isHeadscale === false) return badge('not Headscale', 'bad');
  return noiseKeyMatches === false ? badge('wrong Noise key', 'bad') : badge('up', 'good');
}

export function nodeBadge(presence: NodePresence, label: string): Badge {
  const is = isConnected(presence) ? 'good' : presence.state === 'connecting' ? 'unsure' : 'bad';
  return { label, message: presence.state, is };
}

const COLOURS: Readonly<Record<Badge['is'], string>> = { good: '#1a7f37', unsure: '#8a6100', bad: '#b3261e' };
const CHARACTER = 6.6;
const MARGIN = 7;
const MOST_CHARACTERS = 60;

/** The badge as a picture. Each text is fitted to its box, so it does not depend on the reader's fonts. */
export function badgeSvg({ label, message, is }: Badge): string {
  const [left, right] = [label, message].map((text) => box(text.slice(0, MOST_CHARACTERS))) as [Box, Box];
  const width = left.width + right.width;
  const title = `${left.text}: ${right.text}`;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="20" role="img" aria-label="${title}">
  <title>${title}</title>
  <clipPath id="round"><rect width="${width}" height="20" rx="3"/></clipPath>
  <g clip-path="url(#round)">
    <rect width="${left.width}" height="20" fill="#444"/>
    <rect x="${left.width}" width="${right.width}" height="20" fill="${COLOURS[is]}"/>
  </g>
  <g fill="#fff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11" text-anchor="middle">
    ${textIn(left, 0)}
    ${textIn(right, left.width)}
  </g>
</svg>
`;
}

interface Box {
  /** For XML. */
  readonly text: string;
  readonly width: number;
  readonly textWidth: number;
}

function box(text: string): Box {
  const textWidth = Math.ceil([...text].length * CHARACTER);
  return {
    text: text.replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`),
    textWidth,
    width: textWidth + 2 * MARGIN,
  };
}

function textIn({ text, width, textWidth }: Box, x: number): string {
  return `<text x="${x + width / 2}" y="14" textLength="${textWidth}" lengthAdjust="spacingAndGlyphs">${text}</text>`;
}
