/** The page of `janus data stats --html`: figures of sources with charts. */
import type { DataStats, Duplicates, ReasonCount } from "../data/stats.ts";
import { TASKS } from "../../samples.ts";
import { TASK_COLOURS, specChart } from "./chart.ts";
import { definitions, html, page, table } from "./html.ts";
import type { Content, Html, Section } from "./html.ts";

/** A source on the page. */
export interface StatsSource {
  readonly path: string;
  readonly format: string;
  readonly task: string;
  readonly records: number;
  readonly bytes: number;
}

export interface StatsPageOptions {
  readonly sources: readonly StatsSource[];
  readonly stats: DataStats;
  /** Records in the quarantine of a run, by reason. */
  readonly quarantine?: readonly ReasonCount[];
}

/** Size of a plot, pixels. */
const [WIDTH, HEIGHT] = [440, 210];
/** Sources and reasons that are listed. */
const MAX_ROWS = 100;

const count = (value: number): string => value.toLocaleString("en-US");
const share = (part: number, whole: number): string => `${whole ? ((100 * part) / whole).toFixed(1) : "0.0"} %`;

const colour = {
  field: "task",
  type: "nominal",
  title: null,
  scale: { domain: TASKS, range: TASKS.map((task) => TASK_COLOURS[task]) },
};

const plot = (title: string, values: readonly object[], rest: object): Promise<Html> =>
  specChart({
    width: WIDTH,
    height: HEIGHT,
    title: { text: title, anchor: "start", frame: "group", fontSize: 14, offset: 8 },
    description: title,
    data: { values },
    ...rest,
  });

/** Numbers of an axis, short. */
const LABELS = { tickCount: 5, labelExpr: "datum.value == 0 ? '0' : format(datum.value, '~s')" };
const number = (field: string, title: string | null): object => ({ field, type: "quantitative", title, axis: LABELS });

/** Bars of one figure for each task. */
const byTask = (title: string, values: readonly { task: string; value: number }[]): Promise<Html> =>
  plot(title, values, {
    mark: { type: "bar", cornerRadiusEnd: 2 },
    encoding: {
      y: { field: "task", type: "nominal", title: null, sort: null },
      x: number("value", null),
      color: { ...colour, legend: null },
    },
  });

/** Counts of lengths on a logarithmic axis, the tasks on top of each other. */
function lengthChart({ lengths, unit }: DataStats): Promise<Html> {
  const below = new Map<number, number>();
  const values = lengths.map(({ task, from, to, count: n }) => {
    const low = below.get(from) ?? 0;
    below.set(from, low + n);
    return { task, from, to: to + 1, low, high: low + n };
  });
  const axis = { ...LABELS, tickCount: 6, grid: false };
  return plot(`Length of samples, ${unit}`, values, {
    mark: { type: "rect" },
    encoding: {
      x: { field: "from", type: "quantitative", title: unit, scale: { type: "log", nice: false }, axis },
      x2: { field: "to" },
      y: { ...number("low", "samples"), scale: { zero: true } },
      y2: { field: "high" },
      color: { ...colour, legend: { orient: "top" } },
    },
  });
}

/** Images by width and height, the area of a dot by their number. */
function sizeChart({ sizes }: DataStats): Promise<Html> {
  const axis = { ...LABELS, grid: false };
  const side = (field: string): object => ({ field, type: "quantitative", title: `${field}, pixels`, scale: { type: "log", nice: false, padding: 14 }, axis }); // prettier-ignore
  const size = { field: "count", type: "quantitative", title: "images", scale: { zero: true, range: [0, 500] }, legend: { orient: "top", tickCount: 3 } }; // prettier-ignore
  return plot("Images by size", sizes, {
    mark: { type: "circle", color: TASK_COLOURS.und, opacity: 0.6 },
    encoding: { x: side("width"), y: side("height"), size },
  });
}

function reasonTable(reasons: readonly ReasonCount[]): Content {
  if (reasons.length === 0) return "None.";
  const rows = reasons.slice(0, MAX_ROWS).map(({ reason, count: n, example }) => [count(n), reason, example]);
  return table(["records", "reason", "first of them"], rows, [0]);
}

function duplicateRows(what: string, { count: n, examples }: Duplicates, of: number): Content {
  const rows = examples.map(([earlier, later]) => [later, earlier]);
  const text = html`<p>${count(n)} of ${count(of)} ${what} equal an earlier one (${share(n, of)}).</p>`;
  return rows.length ? html`${text}${table([what, "equals"], rows)}` : text;
}

async function chartSection(stats: DataStats): Promise<Section> {
  const used = TASKS.filter((task) => stats.tasks[task].records > 0);
  const bars = (title: string, key: "records" | "length"): Promise<Html> =>
    byTask(title, used.map((task) => ({ task, value: stats.tasks[task][key] }))); // prettier-ignore
  const charts = [
    await bars("Records by task", "records"),
    await bars(`${stats.unit === "tokens" ? "Tokens" : "Characters"} by task`, "length"),
    ...(stats.lengths.length ? [await lengthChart(stats)] : []),
    ...(stats.sizes.length ? [await sizeChart(stats)] : []),
  ];
  const rows = used.map((task) => {
    const { records, length, longest } = stats.tasks[task];
    return [task, count(records), count(length), count(Math.round(length / records)), count(longest)];
  });
  const head = ["task", "records", stats.unit, "mean", "longest"];
  return { title: "Samples", content: [...charts, table(head, rows, [1, 2, 3, 4])] };
}

/** The page of figures of sources. */
export async function statsPage({ sources, stats, quarantine }: StatsPageOptions): Promise<string> {
  const { records, seen, bad, images, sameRecords, sameImages, reasons } = stats;
  const listed = sources.slice(0, MAX_ROWS).map(({ path, format, task, records: n, bytes }) => [path, format, task, count(n), count(bytes)]); // prettier-ignore
  const rest = sources.length > MAX_ROWS ? [`and ${count(sources.length - MAX_ROWS)} more`] : [];
  const facts = definitions([
    ["records", count(records)],
    ["looked at", seen === records ? "all" : count(seen)],
    ["bad records", `${count(bad)} (${share(bad, seen)})`],
    ["images", count(images)],
  ]);
  return page({
    title: "Training data",
    summary: `${count(sources.length)} sources, ${count(records)} records. Images are checked by their headers; pixels are not decoded.`,
    sections: [
      { title: "Sources", content: [facts, table(["source", "format", "task", "records", "bytes"], listed, [3, 4]), ...rest] }, // prettier-ignore
      await chartSection(stats),
      { title: "Duplicates", content: [duplicateRows("records", sameRecords, seen - bad), duplicateRows("images", sameImages, images)] }, // prettier-ignore
      { title: "Records that a run would put into quarantine", content: [reasonTable(reasons)] },
      ...(quarantine ? [{ title: "Records in the quarantine of the run", content: [reasonTable(quarantine)] }] : []),
    ],
  });
}
