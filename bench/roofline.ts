/** The roofline of a run: each row at its arithmetic intensity, under the lines that memory and multiply-adds allow on this machine. */
import { specChart } from "../train/node/report/index.ts";
import type { Html } from "../train/node/report/index.ts";
import type { Results, RowResult } from "./results.ts";

interface Point {
  /** FLOPs a byte. */
  readonly x: number;
  /** GFLOP/s. */
  readonly y: number;
  readonly name: string;
  readonly family: string;
}

const COLOURS = { products: "#3d85d9", attention: "#d97b1f", convolution: "#1f9e7a", "all else": "#9065d6" } as const;
const GREY = "#8a8f98";
/** Names beside points; more would cover each other. */
const MAX_LABELS = 14;
/** Distance below which two names would overlap, in tenths of a decade across and along. */
const APART = { x: 0.9, y: 0.14 };

const familyOf = ({ op }: RowResult): keyof typeof COLOURS =>
  /matmul|linear|gemm|einsum/i.test(op)
    ? "products"
    : /attention/.test(op)
      ? "attention"
      : /conv/.test(op)
        ? "convolution"
        : "all else";

/** Names of the points with most work, none next to another one. */
function labelled(points: readonly Point[]): Point[] {
  const chosen: Point[] = [];
  for (const point of points.toSorted((a, b) => b.y - a.y)) {
    const isFree = chosen.every(
      (other) =>
        Math.abs(Math.log10(other.x / point.x)) > APART.x || Math.abs(Math.log10(other.y / point.y)) > APART.y,
    );
    if (isFree && chosen.length < MAX_LABELS) chosen.push(point);
  }
  return chosen;
}

/** Axes a little wider than what they hold. */
function domainOf(values: readonly number[]): [number, number] {
  return [Math.min(...values) / 1.6, Math.max(...values) * 1.9];
}

/** The picture as SVG. Rows without FLOPs or rates are left out. */
export async function rooflineSvg({ rows, run }: Results): Promise<Html | null> {
  const points = rows.flatMap((row): Point[] =>
    row.rates && row.flops > 0 && row.bytes > 0
      ? [{ x: row.flops / row.bytes, y: row.rates.gflops, name: row.name, family: familyOf(row) }]
      : [],
  );
  if (!points.length) return null;
  const { gflops, readGbs, copyGbs, matrices } = run.ceilings;
  const x = domainOf([...points.map((p) => p.x), gflops / readGbs]);
  const tops: [string, number][] = [["multiply-add", gflops], ...Object.entries(matrices)];
  const y = domainOf([...points.map((p) => p.y), ...tops.map(([, value]) => value)]);
  const roof = (name: string, gbs: number): { x: number; y: number; name: string }[] => {
    const ridge = gflops / gbs;
    const at = [x[0], Math.max(x[0], y[0] / gbs), ridge, x[1]].filter((v) => v >= x[0] && v <= x[1]);
    return at
      .map((v) => ({ x: v, y: Math.min(gflops, v * gbs), name }))
      .filter((p) => p.y >= y[0])
      .sort((a, b) => a.x - b.x);
  };
  const roofs = [...roof("read", readGbs), ...roof("copy", copyGbs)];
  const axis = (title: string) => ({ title, grid: true, tickCount: 6, labelExpr: 'format(datum.value, "~r")' });
  const scale = (domain: readonly number[]) => ({ type: "log", domain, nice: false, clamp: true });
  const encoding = {
    x: { field: "x", type: "quantitative", scale: scale(x), axis: axis("FLOP a byte") },
    y: { field: "y", type: "quantitative", scale: scale(y), axis: axis("GFLOP/s") },
  };
  const families = [...new Set(points.map(({ family }) => family))];
  const corner = (name: string, gbs: number, dy: number) => {
    const at = Math.max(x[0], y[0] / gbs) * 1.1;
    return { x: at, y: at * gbs, name, dy };
  };
  const text = (values: readonly object[], mark: object, field = "name") => ({
    data: { values },
    mark: { type: "text", fontSize: 11, ...mark },
    encoding: { ...encoding, text: { field, type: "nominal" } },
  });
  return specChart({
    width: 1040,
    height: 440,
    padding: { left: 4, top: 4, right: 12, bottom: 6 },
    title: { text: "Roofline: each row under what this machine allows", anchor: "start", frame: "group", fontSize: 14 },
    description: `Arithmetic intensity and GFLOP/s of ${points.length} rows, with the ceilings of the run`,
    layer: [
      {
        data: { values: roofs },
        mark: { type: "line", strokeWidth: 2, color: GREY },
        encoding: { ...encoding, detail: { field: "name", type: "nominal" }, strokeDash: { field: "name", type: "nominal", scale: { domain: ["read", "copy"], range: [[1, 0], [5, 4]] }, legend: null } },
      },
      ...tops.slice(1).map(([, value]) => ({
        data: { values: [{ x: x[0], y: value }, { x: x[1], y: value }] },
        mark: { type: "line", strokeWidth: 2, strokeDash: [2, 3], color: GREY },
        encoding,
      })),
      {
        data: { values: points },
        mark: { type: "point", filled: true, size: 60, opacity: 0.9 },
        encoding: {
          ...encoding,
          color: {
            field: "family",
            type: "nominal",
            scale: { domain: families, range: families.map((name) => COLOURS[name as keyof typeof COLOURS]) },
            legend: { orient: "top", title: null, symbolType: "circle", offset: 4 },
          },
          tooltip: { field: "name", type: "nominal" },
        },
      },
      text(labelled(points), { align: "left", dx: 7, dy: 4 }),
      text(tops.map(([name, value]) => ({ x: x[1], y: value, name: `${name} ${value.toFixed(0)} GFLOP/s` })), { align: "right", dy: -8, color: GREY }),
      text([corner(`read ${readGbs.toFixed(1)} GB/s`, readGbs, 0)], { align: "left", dy: -14, color: GREY }),
      text([corner(`copy ${copyGbs.toFixed(1)} GB/s`, copyGbs, 0)], { align: "left", dx: 10, dy: 12, color: GREY }),
    ],
  }); // prettier-ignore
}

/** The picture as a PNG file on white, twice the size for sharp screens. */
export async function rooflinePng(results: Results): Promise<Uint8Array | null> {
  const svg = await rooflineSvg(results);
  if (!svg) return null;
  const { default: sharp } = await import("sharp");
  return sharp(Buffer.from(svg.text), { density: 144 }).flatten({ background: "#ffffff" }).png().toBuffer();
}
