/**
 * The values of a chart under the pointer, by SVG and CSS alone: an invisible band for each position, whose line, dots and text the page's
 * style shows while the pointer is in the band. In a viewer without that style they stay hidden.
 */
import type { Point } from "./curve.ts";
import { Html, html } from "./html.ts";

/** Height of a line of text below the plot, pixels. */
export const LINE = 18;
/** Minimum width of a band in pixels, so that a finger or a mouse can hit it; it also bounds the size of the page. */
const BAND = 6;
/** Width of an average character at 12 pixels. */
const CHARACTER = 6.2;
/** Characters of the longest number, as `number` writes it. */
const NUMBER = 9;

interface Line {
  readonly name: string;
  readonly colour: string;
  readonly points: readonly Point[];
}

export interface ValuesOptions {
  /** Name of the positions, before the number: "step". */
  readonly xName: string;
  readonly lines: readonly Line[];
  /** If true, values are shares, formatted as percentages. */
  readonly isShare: boolean;
  /** Size of the plot, pixels. */
  readonly width: number;
  readonly height: number;
}

interface Scales {
  readonly x: (value: number) => number;
  readonly y: (value: number) => number;
}

/** Width of the axis beside the plot, which the text below may use, too. */
const MARGIN = 48;

/** Lines of text below the plot that the values of one position take at most. */
export function linesBelow({ xName, lines, width }: ValuesOptions): number {
  const longest = lines.map(({ name }) => ({ name: lines.length > 1 ? name : "", text: "0".repeat(NUMBER) }));
  return inLines([{ name: xName, text: "0".repeat(NUMBER) }, ...longest], width).length;
}

/** Room of the last number of the axis, right of the plot. */
const RIGHT = 16;

/** The chart with its bands. @param svg as Vega writes it: one root group, which is moved to the origin of the plot */
export function withValues(svg: string, options: ValuesOptions & Scales): string {
  const [, left, top] = /<g [^>]*transform="translate\(([\d.]+),([\d.]+)\)"/.exec(svg)!;
  const height = Number(/<svg [^>]*height="([\d.]+)"/.exec(svg)![1]);
  const rows = linesBelow(options);
  const baseline = height - Number(top) - LINE * (rows - 1) - 8;
  const bands = bandsOf(options).map((band) => drawBand(options, band, baseline));
  const group = html`<g transform="translate(${left!},${top!})" font-family="system-ui, sans-serif" font-size="12">${bands}</g>`; // prettier-ignore
  // Without a canvas Vega overestimates the widths of texts; a chart with a long title would be wider, and on a page smaller, than others.
  const right = Math.ceil(Number(left) + options.width + RIGHT);
  return svg
    .replace(/(<svg [^>]*width=")[\d.]+("[^>]*viewBox="0 0 )[\d.]+/, `$1${right}$2${right}`)
    .replace(/<\/svg>$/, `${group.text}</svg>`);
}

interface Band {
  readonly at: number;
  /** Pixels. */
  readonly from: number;
  readonly to: number;
  readonly values: readonly { readonly line: Line; readonly y: number }[];
}

/** Positions that some series has, thinned to bands of at least 6 pixels, each with the values nearest to it. */
function bandsOf({ lines, width, x }: ValuesOptions & Scales): Band[] {
  const all = [...new Set(lines.flatMap(({ points }) => points.map(([at]) => at)))].toSorted((a, b) => a - b);
  const count = Math.min(all.length, Math.floor(width / BAND));
  const at = Array.from({ length: count }, (_, i) => all[Math.round((i * (all.length - 1)) / Math.max(1, count - 1))]!);
  const between = (i: number): number => (at[i - 1]! + at[i]!) / 2;
  return at.map((position, i) => {
    const [low, high] = [i === 0 ? -Infinity : between(i), i === count - 1 ? Infinity : between(i + 1)];
    const values = lines.flatMap((line) => {
      const found = nearest(line.points, position);
      return found && found[0] >= low && found[0] <= high ? [{ line, y: found[1] }] : [];
    });
    return { at: position, from: i === 0 ? 0 : x(low), to: i === count - 1 ? width : x(high), values };
  });
}

/** The point nearest to `x`, of points in the order of their x. */
function nearest(points: readonly Point[], x: number): Point | undefined {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle]![0] < x) low = middle + 1;
    else high = middle;
  }
  const [before, after] = [points[low - 1], points[low]];
  return before && (!after || x - before[0] < after[0] - x) ? before : after;
}

function drawBand(
  { xName, lines, isShare, width, height, x, y }: ValuesOptions & Scales,
  band: Band,
  baseline: number,
): Html {
  // prettier-ignore
  const at = tidy(x(band.at));
  const items = [
    { name: xName, text: Math.round(band.at).toLocaleString("en-US"), colour: undefined },
    ...band.values.map(({ line, y: value }) => ({
      name: lines.length > 1 ? line.name : "",
      text: isShare ? `${(100 * value).toFixed(1)} %` : number(value),
      colour: line.colour,
    })),
  ];
  const texts = inLines(items, width).map(
    (line, row) =>
      html`<text x="${-MARGIN + 4}" y="${tidy(baseline + LINE * row)}">${line.map(({ name, text, colour }, i) => html`<tspan${colour ? html` fill="${colour}"` : null}${i ? new Html(' dx="10"') : null}>${name} ${text}</tspan>`)}</text>`, // prettier-ignore
  );
  const dots = band.values.map(
    ({ line, y: value }) => html`<circle cx="${at}" cy="${tidy(y(value))}" r="3.5" fill="${line.colour}" />`,
  );
  return html`<g class="at"><rect x="${tidy(band.from)}" y="0" width="${tidy(band.to - band.from)}" height="${height}" fill="none" pointer-events="all"/><g class="value" visibility="hidden" pointer-events="none"><path d="M${at},0V${height}" stroke="#8a8f98"/>${dots}${texts}</g></g>`; // prettier-ignore
}

/** Items put into lines that are as wide as the plot and its axis. */
function inLines<T extends { name: string; text: string }>(items: readonly T[], width: number): T[][] {
  const lines: T[][] = [];
  let used = Infinity;
  for (const item of items) {
    const size = CHARACTER * (item.name.length + 1 + item.text.length) + 10;
    if (used + size > width + MARGIN) {
      lines.push([]);
      used = 0;
    }
    lines.at(-1)!.push(item);
    used += size;
  }
  return lines;
}

const tidy = (pixels: number): number => Math.round(10 * pixels) / 10;

/** Four digits; very small and very large numbers with an exponent. */
function number(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return value.toExponential(2);
  return value.toLocaleString("en-US", size < 1000 ? { maximumSignificantDigits: 4 } : { maximumFractionDigits: 0 });
}
