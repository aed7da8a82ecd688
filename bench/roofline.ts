/** The roofline of a run: each row at its arithmetic intensity, under the lines that memory and multiply-adds allow on this machine. */
import { Html, specChart } from "../train/node/report/index.ts";
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
/** Sizes of the plot, pixels: for a page and a file, and for a phone. */
const WIDE = { width: 1040, height: 460 };
const NARROW = { width: 400, height: 380 };
const MAX_LABELS = 24;
/** Pixels of an average character and of a line of names. */
const CHARACTER = 5.8;
const LINE = 13;
/** Half of a dot and its distance to a name. */
const DOT = 6;

const familyOf = ({ op }: RowResult): keyof typeof COLOURS =>
  /matmul|linear|gemm|einsum/i.test(op)
    ? "products"
    : /attention/.test(op)
      ? "attention"
      : /conv/.test(op)
        ? "convolution"
        : "all else";

/** A name beside its point: right of it (aligned left), or left of it. */
interface Label extends Point {
  readonly align: "left" | "right";
}

/**
 * Names of points, those of most GFLOP/s first, none over a point, over another name or beyond the plot: places are pixels, widths those of an
 * average character.
 */
function labelled(points: readonly Point[], frame: Frame): Label[] {
  const place = placeIn(frame);
  const chosen: Label[] = [];
  const dots = points.map(place);
  const boxes = dots.map(({ x, y }) => ({ from: x - DOT, to: x + DOT, y, room: (LINE + DOT) / 3 }));
  for (const point of points.toSorted((a, b) => b.y - a.y)) {
    const { x, y } = place(point);
    const width = CHARACTER * point.name.length + DOT;
    const free = (["left", "right"] as const).find((align) => {
      const [from, to] = align === "left" ? [x + DOT, x + DOT + width] : [x - DOT - width, x - DOT];
      if (from < 0 || to > frame.size.width) return false;
      return !boxes.some((box) => box.from < to && from < box.to && Math.abs(box.y - y) < box.room);
    });
    if (!free || chosen.length === MAX_LABELS) continue;
    boxes.push({
      ...(free === "left" ? { from: x, to: x + DOT + width } : { from: x - DOT - width, to: x }),
      y,
      room: LINE,
    });
    chosen.push({ ...point, align: free });
  }
  return chosen;
}

type Domain = readonly [number, number];

/** Axes a little wider than what they hold. */
const domainOf = (values: readonly number[]): Domain => [Math.min(...values) / 1.6, Math.max(...values) * 1.9];

/** 1, 2 and 5 of each decade. */
function ticks([from, to]: Domain): number[] {
  const decades = Array.from({ length: Math.ceil(Math.log10(to / from)) + 2 }, (_, i) => 10 ** (Math.floor(Math.log10(from)) + i)); // prettier-ignore
  return decades.flatMap((ten) => [ten, 2 * ten, 5 * ten]).filter((v) => v >= from && v <= to);
}

interface Frame {
  readonly size: typeof WIDE;
  readonly x: Domain;
  readonly y: Domain;
  readonly encoding: Readonly<Record<string, object>>;
}

function frameOf(points: readonly Point[], tops: readonly number[], ridge: number, size: typeof WIDE): Frame {
  const x = domainOf([...points.map((p) => p.x), ridge]);
  const y = domainOf([...points.map((p) => p.y), ...tops]);
  const along = (field: string, domain: Domain, title: string): object => ({
    field,
    type: "quantitative",
    scale: { type: "log", domain, nice: false, clamp: true },
    axis: { title, values: ticks(domain), labelExpr: 'format(datum.value, "~r")' },
  });
  return { size, x, y, encoding: { x: along("x", x, "FLOP a byte"), y: along("y", y, "GFLOP/s") } };
}

/** Pixels that the name of a ceiling takes, with the gap to its line. */
const NAME_WIDTH = 160;

/** The line below which memory of `gbs` keeps a row, up to that of multiply-adds, from where it enters the plot; with its name above or below it. */
function roof(frame: Frame, name: string, { gbs, gflops, isAbove }: { gbs: number; gflops: number; isAbove: boolean }): object[] {
  const { x, y, encoding } = frame;
  const begin = Math.max(x[0], y[0] / gbs);
  const ridge = gflops / gbs;
  const at = begin * (ridge / begin) ** (isAbove ? 0.45 : 0.8); // most rows are below the line of read, left of its middle
  const label = `${name} ${gbs.toFixed(1)} GB/s`;
  const line = [begin, ridge, x[1]].map((v) => ({ x: v, y: Math.min(gflops, v * gbs) }));
  return [
    {
      data: { values: line },
      mark: { type: "line", strokeWidth: 2, color: GREY, strokeDash: isAbove ? [5, 4] : [1, 0] },
      encoding,
    },
    // Left of a slope near the edge there is no room for a name: it then stands above the line of arithmetic.
    isAbove && placeIn(frame)({ x: at, y: at * gbs }).x < NAME_WIDTH
      ? text(frame, [{ x: x[0], y: gflops, name: label }], { align: "left", dx: 4, dy: -9, color: GREY })
      : text(frame, [{ x: at, y: at * gbs, name: label }], { align: isAbove ? "right" : "left", dx: isAbove ? -10 : 12, dy: isAbove ? -6 : 8, color: GREY }),
  ];
} // prettier-ignore

const text = ({ encoding }: Pick<Frame, "encoding">, values: readonly object[], mark: object): object => ({
  data: { values },
  mark: { type: "text", fontSize: 11, ...mark },
  encoding: { ...encoding, text: { field: "name", type: "nominal" } },
});

/** The line of a ceiling of arithmetic, with its name. */
const top = (frame: Frame, name: string, gflops: number): object[] => [
  { data: { values: frame.x.map((x) => ({ x, y: gflops })) }, mark: { type: "line", strokeWidth: 2, strokeDash: [2, 3], color: GREY }, encoding: frame.encoding },
  topName(frame, name, gflops),
]; // prettier-ignore
const topName = (frame: Frame, name: string, gflops: number): object =>
  text(frame, [{ x: frame.x[1], y: gflops, name: `${name} ${gflops.toFixed(0)} GFLOP/s` }], { align: "right", dx: -4, dy: -9, color: GREY }); // prettier-ignore

/** Where a point lies, pixels. */
const placeIn =
  ({ x, y, size }: Frame) =>
  (p: Pick<Point, "x" | "y">): { x: number; y: number } => ({
    x: (size.width * Math.log(p.x / x[0])) / Math.log(x[1] / x[0]),
    y: size.height * (1 - Math.log(p.y / y[0]) / Math.log(y[1] / y[0])),
  });

function dots({ encoding }: Frame, points: readonly Point[]): object {
  const families = (Object.keys(COLOURS) as (keyof typeof COLOURS)[]).filter((name) => points.some((p) => p.family === name)); // prettier-ignore
  const color = {
    field: "family",
    type: "nominal",
    scale: { domain: families, range: families.map((name) => COLOURS[name]) },
    legend: { orient: "top", title: null, symbolType: "circle", offset: 4 },
  };
  const tooltip = { field: "name", type: "nominal" };
  return { data: { values: points }, mark: { type: "point", filled: true, size: 60, opacity: 0.9 }, encoding: { ...encoding, color, tooltip } }; // prettier-ignore
}

/** The picture as SVG. Rows without FLOPs or rates are left out; null if none is left. */
async function draw({ rows, run }: Results, size: typeof WIDE): Promise<Html | null> {
  const points = rows.flatMap((row): Point[] =>
    row.rates && row.flops > 0 && row.bytes > 0
      ? [{ x: row.flops / row.bytes, y: row.rates.gflops, name: row.name, family: familyOf(row) }]
      : [],
  );
  if (!points.length) return null;
  const { gflops, readGbs, copyGbs, matrices } = run.ceilings;
  const others = Object.entries(matrices);
  const frame = frameOf(
    points,
    [gflops, ...others.map(([, value]) => value)],
    gflops / Math.min(readGbs, copyGbs),
    size,
  );
  const labels = labelled(points, frame);
  const isCopyAbove = copyGbs > readGbs;
  const of = (align: Label["align"]): Label[] => labels.filter((label) => label.align === align);
  return specChart({
    ...size,
    padding: { left: 4, top: 4, right: 12, bottom: 6 },
    title: { text: "Roofline: each row under what this machine allows", anchor: "start", frame: "group", fontSize: 14 },
    description: `Arithmetic intensity and GFLOP/s of ${points.length} rows, with the ceilings of the run`,
    layer: [
      ...roof(frame, "streaming read", { gbs: readGbs, gflops, isAbove: !isCopyAbove }),
      ...roof(frame, "streaming copy", { gbs: copyGbs, gflops, isAbove: isCopyAbove }),
      topName(frame, "multiply-add", gflops),
      ...others.flatMap(([name, value]) => top(frame, `subgroup matrices ${name}`, value)),
      dots(frame, points),
      text(frame, of("left"), { align: "left", dx: 7, dy: 1 }),
      text(frame, of("right"), { align: "right", dx: -7, dy: 1 }),
    ],
  });
}

/** For a page, which shows the one of the two pictures that fits. */
export async function rooflineCharts(results: Results): Promise<Html | null> {
  const [wide, narrow] = [await draw(results, WIDE), await draw(results, NARROW)];
  const named = (svg: Html, name: string): string => svg.text.replace('class="marks"', `class="marks ${name}"`);
  return wide && narrow && new Html(named(wide, "wide") + named(narrow, "narrow"));
}

/** The picture as a PNG file on white, twice the size for sharp screens. */
export async function rooflinePng(results: Results): Promise<Uint8Array | null> {
  const svg = await draw(results, WIDE);
  if (!svg) return null;
  const { default: sharp } = await import("sharp");
  return sharp(Buffer.from(svg.text), { density: 144 }).flatten({ background: "#ffffff" }).png().toBuffer();
}
