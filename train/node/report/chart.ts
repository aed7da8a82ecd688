/** Line charts as SVG, laid out by Vega-Lite on the host: no browser, no script in the page. Vega is loaded by the first chart. */
import type { TopLevelSpec } from "vega-lite";
import { Curve } from "./curve.ts";
import type { Point } from "./curve.ts";
import { Html, html } from "./html.ts";
import { LINE, linesBelow, withValues } from "./hover.ts";

export interface Series {
  readonly name: string;
  /** Sorted by x; missing values may be null or NaN. Long curves are thinned. */
  readonly points: Curve | Iterable<readonly [x: number, y: number | null | undefined]>;
  /** `#rrggbb`, readable on white and on black (default: by the position of the series). */
  readonly colour?: string;
}

/** A position on the x axis, e.g. the start of a stage: a dashed line, with its label if there are few. */
export interface Mark {
  readonly x: number;
  readonly label: string;
}

export interface LineChartOptions {
  readonly title: string;
  /** Titles of the axes (default: none). */
  readonly x?: string;
  readonly y?: string;
  readonly series: readonly Series[];
  readonly marks?: readonly Mark[];
  /** Scale of the y axis. "log" omits values that are not above 0, and is linear if the others differ less than tenfold. */
  readonly scale?: "linear" | "log";
  /** If true, the y axis begins at 0 (default: at the lowest value). */
  readonly zero?: boolean;
  /** False draws the values without smoothing, for values without noise. */
  readonly smooth?: boolean;
  /** Format of the numbers on the y axis, in the syntax of d3-format: `.0%`, `~s`, `~e`. */
  readonly format?: string;
  /** Size of the plot, pixels without axes (default: 330 × 190, legible on a phone and three to a row on a desktop). */
  readonly width?: number;
  readonly height?: number;
  /** Draws the chart twice, for the full width of the page and for a phone; the page shows the one that fits. */
  readonly isWide?: boolean;
}

/** The colours of the tasks everywhere; the mean over all of them is `all`. */
export const TASK_COLOURS = { und: "#3d85d9", text: "#d97b1f", gen: "#1f9e7a", all: "#8a8f98" } as const;
const OTHERS = ["#9065d6", "#3d85d9", "#d97b1f", "#1f9e7a", "#d1495b", "#8a8f98", "#b08900", "#4aa3a2"];

/** Marks that get labels; more would cover each other. */
const MAX_LABELS = 8;
/** Points of a curve up to which each is drawn as a dot too. */
const FEW = 24;
/** Room of a name in the legend, pixels. */
const NAME_WIDTH = 150;
const GREY = "#8a8f98";
const SMALL = { width: 330, height: 190 };
const WIDE = { width: 1120, height: 300 };

interface Shown {
  readonly name: string;
  readonly colour: string;
  readonly curve: Curve;
}

/** A value of a series, as Vega-Lite reads it. */
interface Row {
  readonly x: number;
  readonly y: number;
  readonly name: string;
}

/**
 * Curves over one x axis: each smoothed, over a faint line of the range of its values. The values at a position appear below the chart while
 * the pointer is there. Returns an `<svg>` for a page (`String(chart)` for a file); a line of text if no series has a value.
 */
export async function lineChart(options: LineChartOptions): Promise<Html> {
  const { scale = "linear", smooth = true, isWide = false, width = SMALL.width, height = SMALL.height } = options;
  const drawable = (points: readonly Point[]): readonly Point[] =>
    points.filter(([, value]) => scale === "linear" || value > 0);
  const shown = options.series.flatMap(({ name, points, colour }, i): Shown[] => {
    const curve = points instanceof Curve ? points : Curve.of(points);
    return curve.isEmpty ? [] : [{ name, colour: colour ?? OTHERS[i % OTHERS.length]!, curve }];
  });
  const lines = shown.map(({ name, colour, curve }) => ({
    name,
    colour,
    points: drawable(smooth ? curve.smooth() : curve.means()),
  }));
  if (lines.every(({ points }) => points.length === 0))
    return html`<p class="soft">${options.title}: no values yet</p>`;
  const rowsOf = (name: string, points: readonly Point[]): Row[] => points.map(([x, y]) => ({ x, y, name }));
  const data: ChartData = {
    shown,
    line: lines.flatMap(({ name, points }) => rowsOf(name, points)),
    spans: shown.flatMap(({ name, curve }) => rowsOf(name, drawable(curve.extremes()))),
  };
  const draw = async (size: { width: number; height: number }): Promise<string> => {
    const values = { xName: options.x ?? "x", lines, isShare: options.format?.includes("%") ?? false, ...size };
    const view = await viewOf(specOf(options, data, { ...size, below: linesBelow(values) }));
    try {
      const [x, y] = [view.scale("x"), view.scale("y")] as [(x: number) => number, (y: number) => number];
      return withValues(await view.toSVG(), { ...values, x, y });
    } finally {
      view.finalize();
    }
  };
  if (!isWide) return new Html(await draw({ width, height }));
  const of = async (name: string, size: typeof WIDE): Promise<string> =>
    (await draw(size)).replace('class="marks"', `class="marks ${name}"`);
  return new Html((await of("wide", WIDE)) + (await of("narrow", SMALL)));
}

interface ChartData {
  readonly shown: readonly Shown[];
  readonly line: readonly Row[];
  readonly spans: readonly Row[];
}

/** A chart of any kind as SVG, in the style of the pages. @param spec without `config` and `background` */
export async function specChart(spec: Readonly<Record<string, unknown>>): Promise<Html> {
  // Vega-Lite's types do not follow specifications that are built in parts.
  const view = await viewOf({ ...spec, background: null, config: CONFIG } as unknown as TopLevelSpec);
  try {
    return new Html(await view.toSVG());
  } finally {
    view.finalize();
  }
}

async function viewOf(spec: TopLevelSpec): Promise<import("vega").View> {
  const [{ View, parse }, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
  return new View(parse(compile(spec).spec), { renderer: "none" }).runAsync();
}

/** The chart for Vega-Lite. @param size of the plot, pixels, and lines of text that are left free below it */
function specOf(
  options: LineChartOptions,
  { shown, line, spans }: ChartData,
  { width, height, below }: { width: number; height: number; below: number },
): TopLevelSpec {
  const { title, marks = [], smooth = true } = options;
  const isShort = line.length <= FEW * shown.length;
  // Vega estimates the widths of names generously: a legend in one row would make a narrow chart wider than its plot.
  const columns = Math.max(1, Math.floor(width / NAME_WIDTH));
  const encoding = encodingOf(options, { shown, line, spans }, columns);
  const layers = [
    !isShort && smooth && { data: { values: spans }, mark: { type: "line", opacity: 0.35, strokeWidth: 1 }, encoding },
    {
      data: { values: line },
      mark: { type: "line", strokeWidth: 2, strokeJoin: "round", point: isShort },
      encoding,
    },
    marks.length > 0 && {
      data: { values: marks },
      mark: { type: "rule", strokeDash: [3, 3], color: GREY },
      encoding: { x: encoding.x },
    },
    marks.length > 0 &&
      marks.length <= MAX_LABELS && {
        data: { values: marks },
        mark: { type: "text", align: "left", baseline: "top", dx: 4, dy: 2, fontSize: 12 },
        encoding: { x: encoding.x, y: { value: 0 }, text: { field: "label", type: "nominal" } },
      },
  ];
  // Vega-Lite's types do not follow fields that are built in parts.
  return {
    width,
    height,
    padding: { left: 4, top: 4, right: 12, bottom: 6 + LINE * below },
    title: { text: title, anchor: "start", frame: "group", fontSize: 14, offset: 8 },
    description: title,
    background: null,
    layer: layers.filter(Boolean),
    config: CONFIG,
  } as unknown as TopLevelSpec;
}

function encodingOf(
  { x, y, scale = "linear", zero = false, marks = [], format = ",~r" }: LineChartOptions,
  { shown, line, spans }: ChartData,
  columns: number,
) {
  const ys = spans.map((row) => row.y);
  const isLog = scale === "log" && Math.max(...ys) >= 10 * Math.min(...ys);
  const xs = [...line.map((row) => row.x), ...marks.map((mark) => mark.x)];
  const [from, to] = [Math.min(...xs), Math.max(...xs)];
  return {
    x: {
      field: "x",
      type: "quantitative",
      title: x ?? null,
      scale: { domain: from < to ? [from, to] : [from - 1, from + 1], nice: false },
      axis: {
        grid: false,
        tickMinStep: 1,
        tickCount: 6,
        labelExpr: `format(datum.value, ${to >= 1e4 ? `"~s"` : `",~r"`})`,
      },
    },
    y: {
      field: "y",
      type: "quantitative",
      title: y ?? null,
      scale: isLog ? { type: "log", nice: false } : { zero },
      axis: { tickCount: 5, labelExpr: `datum.value == 0 ? "0" : format(datum.value, ${JSON.stringify(format)})` },
    },
    color: {
      field: "name",
      type: "nominal",
      scale: { domain: shown.map(({ name }) => name), range: shown.map(({ colour }) => colour) },
      legend:
        shown.length > 1
          ? {
              orient: "top",
              title: null,
              symbolType: "stroke",
              symbolStrokeWidth: 3,
              symbolOpacity: 1,
              offset: 4,
              columns,
            }
          : null,
    },
  };
}

const CONFIG = {
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: {
    labelFontSize: 12,
    titleFontSize: 12,
    titleFontWeight: "normal",
    gridColor: "#dfe3e8",
    domainColor: "#b4bbc4",
    tickColor: "#b4bbc4",
  },
  axisY: { minExtent: 44 },
  legend: { labelFontSize: 12, columnPadding: 12 },
};
