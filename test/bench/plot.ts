/** One quantity over another, which all panels of a plot share. */
export interface Panel {
  readonly title: string;
  readonly unit: string;
  readonly points: readonly (readonly [x: number, value: number])[];
}

const WIDTH = 300;
const HEIGHT = 190;
const GAP = 24;
const MARGIN = { left: 46, right: 10, top: 44, bottom: 34 };

/** Panels side by side as an SVG file; both axes begin at zero. */
export function plot(title: string, caption: string, panels: readonly Panel[], over = 'streams'): string {
  const width = panels.length * (WIDTH + GAP) + GAP;
  const height = HEIGHT + 92;
  const drawn = panels.map(
    (panel, i) => `<g transform="translate(${GAP + i * (WIDTH + GAP)} 40)">${draw(panel, over)}</g>`,
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="11">
<title>${escaped(title)}</title>
<rect width="100%" height="100%" fill="#fff"/>
<text x="${GAP}" y="26" font-size="16" font-weight="600" fill="#1a1a1a">${escaped(title)}</text>
${drawn.join('\n')}
<text x="${GAP}" y="${height - 14}" font-size="10" fill="#666">${escaped(caption)}</text>
</svg>
`;
}

function draw({ title, unit, points }: Panel, over: string): string {
  const mostX = Math.max(...points.map(([x]) => x));
  const mostY = roundUp(Math.max(...points.map(([, y]) => y)));
  const x = (value: number): number => MARGIN.left + (value / mostX) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (value: number): number => HEIGHT - MARGIN.bottom - (value / mostY) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const at = ([px, py]: readonly [number, number]): string => `${x(px).toFixed(1)},${y(py).toFixed(1)}`;
  const grid = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const value = share * mostY;
    return `<path d="M${MARGIN.left} ${y(value)}H${WIDTH - MARGIN.right}" stroke="#e3e3e3"/><text x="${MARGIN.left - 6}" y="${y(value) + 4}" text-anchor="end" fill="#555">${short(value)}</text>`;
  });
  const ticks = [0, 0.5, 1].map(
    (share) =>
      `<text x="${x(share * mostX)}" y="${HEIGHT - MARGIN.bottom + 16}" text-anchor="middle" fill="#555">${short(share * mostX)}</text>`,
  );
  const dots = points.map((point) => {
    const [cx, cy] = at(point).split(',');
    return `<circle cx="${cx}" cy="${cy}" r="3" fill="#0b6bcb"><title>${short(point[0])} ${over}: ${short(point[1])} ${escaped(unit)}</title></circle>`;
  });
  return `<text x="0" y="18" font-size="12" font-weight="600" fill="#1a1a1a">${escaped(title)}</text><text x="0" y="33" fill="#555">${escaped(unit)}</text>
${grid.join('')}${ticks.join('')}
<polyline points="${points.map(at).join(' ')}" fill="none" stroke="#0b6bcb" stroke-width="2"/>${dots.join('')}
<text x="${(WIDTH + MARGIN.left) / 2}" y="${HEIGHT - 2}" text-anchor="middle" fill="#555">${over}</text>`;
}

/** The next 1, 2, 2.5 or 5 times a power of ten. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return power * ([1, 2, 2.5, 5, 10].find((step) => step * power >= value) ?? 10);
}

function short(value: number): string {
  return String(Number(value.toPrecision(3)));
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
