/** Line charts as SVG, laid out by Vega-Lite on the host: no browser, no script in the page. Vega is loaded by the first chart. */
import type { TopLevelSpec } from "vega-lite";
import { Curve } from "./curve.ts";
import { Html, html } from "./html.ts";

export interface Series {
  readonly name: string;
  /** In the order of x; missing values may be null or NaN. Long ones are thinned. */
  readonly points: Curve | Iterable<readonly [x: number, y: number | null | undefined]>;
  /** `#rrggbb`, readable on white and on black (default: by the position of the series). */
  readonly colour?: string;
}

/** A position on the x axis, e.g. where a stage begins: a dashed line, with its label if there are few. */
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
  /** Scale of the y axis. "log" leaves values out that are not above 0, and is linear if the others do not differ tenfold. */
  readonly scale?: "linear" | "log";
  /** Whether the y axis begins at 0 (default: at the lowest value). */
  readonly zero?: boolean;
  /** False draws the values as they are, for what is not noise. */
  readonly smooth?: boolean;
  /** Format of the numbers on the y axis, as d3-format writes it: `.0%`, `~s`, `~e`. */
  readonly format?: string;
  /** Size of the plot, pixels without axes (default: 480 × 220). */
  readonly width?: number;
  readonly height?: number;
}

/** The colours of the tasks everywhere; the mean over all of them is `all`. */
export const TASK_COLOURS = { und: "#3d85d9", text: "#d97b1f", gen: "#1f9e7a", all: "#8a8f98" } as const;
const OTHERS = ["#9065d6", "#3d85d9", "#d97b1f", "#1f9e7a", "#d1495b", "#8a8f98", "#b08900", "#4aa3a2"];

/** Marks that get labels; more would cover each other. */
const MAX_LABELS = 8;
/** Points of a curve up to which each is drawn as a dot too. */
const FEW = 24;

/**
 * Curves over one x axis: each smoothed, over a faint line of what it spans. An `<svg>` for a page (`String(chart)` for a file); a line of
 * text if no series has a value.
 */
export async function lineChart(options: LineChartOptions): Promise<Html> {
  const {
    title,
    x,
    y,
    marks = [],
    scale = "linear",
    zero = false,
    smooth = true,
    format = ",~r",
    width = 480,
    height = 220,
  } = options;
  const series = options.series.map(({ name, points, colour }, i) => ({
    name,
    colour: colour ?? OTHERS[i % OTHERS.length]!,
    curve: points instanceof Curve ? points : Curve.of(points),
  }));
  const shown = series.filter(({ curve }) => !curve.isEmpty);
  const rows = (
    of: (curve: Curve) => readonly (readonly [number, number])[],
  ): { x: number; y: number; name: string }[] =>
    shown.flatMap(({ name, curve }) =>
      of(curve)
        .filter(([, value]) => scale === "linear" || value > 0)
        .map(([at, value]) => ({ x: at, y: value, name })),
    );
  const line = rows((curve) => (smooth ? curve.smooth() : curve.means()));
  if (line.length === 0) return html`<p class="soft">${title}: no values yet</p>`;
  const isShort = line.length <= FEW * shown.length;
  const spans = rows((curve) => curve.extremes());
  const ys = spans.map((row) => row.y);
  const isLog = scale === "log" && Math.max(...ys) >= 10 * Math.min(...ys);
  const xs = [...line.map((row) => row.x), ...marks.map((mark) => mark.x)];
  const [from, to] = [Math.min(...xs), Math.max(...xs)];
  const encoding = {
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
          ? { orient: "top", title: null, symbolType: "stroke", symbolStrokeWidth: 3, symbolOpacity: 1, offset: 4 }
          : null,
    },
  };
  const spec = {
    width,
    height,
    title: { text: title, anchor: "start", fontSize: 14, offset: 8 },
    description: title,
    background: null,
    layer: [
      ...(isShort || !smooth ? [] : [{ data: { values: spans }, mark: { type: "line", opacity: 0.35, strokeWidth: 1 }, encoding }]), // prettier-ignore
      {
        data: { values: line },
        mark: { type: "line", strokeWidth: 2, strokeJoin: "round", point: isShort },
        encoding,
      },
      ...(marks.length
        ? [
            {
              data: { values: marks },
              mark: { type: "rule", strokeDash: [3, 3], color: "#8a8f98" },
              encoding: { x: encoding.x },
            },
          ]
        : []),
      ...(marks.length && marks.length <= MAX_LABELS
        ? [
            {
              data: { values: marks },
              mark: { type: "text", align: "left", baseline: "top", dx: 4, dy: 2, fontSize: 11 },
              encoding: { x: encoding.x, y: { value: 0 }, text: { field: "label", type: "nominal" } },
            },
          ]
        : []),
    ],
    config: {
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: {
        labelFontSize: 11,
        titleFontSize: 12,
        titleFontWeight: "normal",
        gridColor: "#dfe3e8",
        domainColor: "#b4bbc4",
        tickColor: "#b4bbc4",
      },
      axisY: { minExtent: 44 },
      legend: { labelFontSize: 12 },
    },
  } as unknown as TopLevelSpec;
  const [{ View, parse }, { compile }] = await Promise.all([import("vega"), import("vega-lite")]);
  const view = new View(parse(compile(spec).spec), { renderer: "none" });
  try {
    return new Html(await view.toSVG());
  } finally {
    view.finalize();
  }
}
