/** Results for people: lines for a terminal, Markdown, and a page with the roofline. */
import { html, page, table as htmlTable } from "../train/node/report/index.ts";
import { columnsOf, number } from "./columns.ts";
import type { Column } from "./columns.ts";
import { table } from "./harness.ts";
import { peerMarkdown, peerSection, peerText } from "./peer_reports.ts";
import type { Results, RowResult, RunInfo } from "./results.ts";
import { rooflineCharts } from "./roofline.ts";
import { adapterText } from "./run_info.ts";

export interface ReportOptions {
  /** Share above which a slower row fails; null if none does. */
  readonly failAbove?: number | null;
  /** What the baseline is, if rows were compared with one. */
  readonly baseline?: { readonly name: string; readonly run: RunInfo; readonly runNoise: number } | null;
}

/** What the machine reached, line by line. */
export function ceilingsText({ ceilings, launch, isSoftware }: RunInfo): string[] {
  const { gflops, readGbs, copyGbs, matrices } = ceilings;
  const lines = [
    `ceilings of this run: ${number(gflops)} GFLOP/s f32 multiply-add, ${number(readGbs)} GB/s streaming read, ${number(copyGbs)} GB/s streaming copy`,
    ...Object.entries(matrices).map(([name, value]) => `subgroup matrices ${name}: ${number(value)} GFLOP/s`),
  ];
  if (launch)
    lines.push(
      `a launch: ${number(launch.recordUs)} µs recorded, ${number(launch.encodeUs)} µs encoded and submitted, ${number(launch.replayUs)} µs replayed`,
    );
  if (isSoftware) lines.push("software adapter: compare the shares of the ceilings, not the times");
  return lines;
}

const baselineText = ({ baseline }: ReportOptions): string[] =>
  baseline
    ? [
        `baseline ${baseline.name}: ${baseline.run.date}, commit ${baseline.run.commit ?? "unknown"}; noise between runs ${(100 * baseline.runNoise).toFixed(1)} %`,
      ]
    : [];

const incompleteText = ({ incomplete }: RunInfo): string[] =>
  incomplete === undefined ? [] : [`INCOMPLETE, rows or rounds are missing: ${incomplete}`];

const wrongText = ({ wrong }: Results): string[] =>
  wrong.map(({ name, reasons }) => `NOT TIMED ${name}: ${reasons.join("; ")}`);

export function textReport(results: Results, options: ReportOptions = {}): string {
  const { run, peers } = results;
  const rows = shownRows(results);
  const columns = columnsOf(rows, options.failAbove);
  return [
    adapterText(run.adapter),
    ...incompleteText(run),
    ...ceilingsText(run),
    ...baselineText(options),
    "",
    ...(peers ? [peerText(peers)] : []),
    ...(rows.length
      ? [
          table(
            columns.map(({ head }) => head),
            rows.map((row) => columns.map(({ cell }) => cell(row))),
          ),
        ]
      : []),
    ...wrongText(results),
    "",
  ].join("\n");
}

/** Rows of the table: those of engines have a table of their own, and are rows only to be compared with a baseline. */
const shownRows = ({ rows, peers }: Results): readonly RowResult[] =>
  peers ? rows.filter(({ comparison }) => comparison) : rows;

const escaped = (cell: string): string => cell.replaceAll("|", "\\|");
const markdownRow = (cells: readonly string[]): string => `| ${cells.map(escaped).join(" | ")} |`;
const align = ({ isText }: Column): string => (isText ? "---" : "---:");

export function markdownReport(results: Results, options: ReportOptions = {}): string {
  const { run, peers } = results;
  const rows = shownRows(results);
  const columns = columnsOf(rows, options.failAbove);
  const tableLines = [
    markdownRow(columns.map(({ head }) => head)),
    markdownRow(columns.map(align)),
    ...rows.map((row) => markdownRow(columns.map(({ cell }) => cell(row)))),
    "",
    ...columns.map(({ head, meaning }) => `- **${head}**: ${meaning}`),
  ];
  const lines = [
    `# janus bench ${run.question}`,
    "",
    ...[
      ...incompleteText(run),
      ...facts(run).map(([name, value]) => `${name}: ${value}`),
      ...ceilingsText(run),
      ...baselineText(options),
    ].map((line) => `- ${line}`),
    "",
    ...(peers ? [peerMarkdown(peers), ""] : []),
    ...wrongText(results).map((line) => `- ${line}`),
    ...(rows.length ? tableLines : []),
  ];
  return `${lines.join("\n")}\n`;
}

/** The circumstances of a run, by name. */
export function facts(run: RunInfo): [string, string][] {
  const { versions, settings, coldBytes, limits } = run;
  return [
    ["adapter", run.adapter.name],
    ["driver", run.adapter.driver],
    ["date", run.date],
    ["commit", run.commit ?? "none: an installed package"],
    ["versions", Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ")], // prettier-ignore
    ["machine", run.platform],
    ["rounds", `${settings.rounds}, ${settings.seconds} s a row and way of calling; seed ${settings.seed}`],
    ["cold calls", coldBytes ? `rotate through ${number(coldBytes / 1e6)} MB of inputs` : "not measured"],
    ["largest binding", `${number(limits.maxStorageBufferBindingSize / 1e6)} MB`],
    ["workgroup memory", `${number(limits.maxComputeWorkgroupStorageSize / 1e3)} kB, ${limits.maxComputeInvocationsPerWorkgroup} invocations`], // prettier-ignore
  ];
}

/** One HTML file. */
export async function htmlReport(results: Results, options: ReportOptions = {}): Promise<string> {
  const { run, peers } = results;
  const rows = shownRows(results);
  const columns = columnsOf(rows, options.failAbove);
  const right = columns.flatMap(({ isText }, i) => (isText ? [] : [i]));
  const svg = rows.length ? await rooflineCharts(results) : null;
  const wrong = wrongText(results);
  const tables = rows.length
    ? [
        htmlTable(
          columns.map(({ head, meaning }) => html`<span title="${meaning}">${head}</span>`),
          rows.map((row) => columns.map(({ cell }) => cell(row))),
          right,
        ),
        htmlTable(
          ["column", "meaning"],
          columns.map(({ head, meaning }) => [head, meaning]),
        ),
      ]
    : [];
  return page({
    title: `janus bench ${run.question}`,
    summary: [adapterText(run.adapter), ...incompleteText(run)].join(". "),
    sections: [
      ...(peers ? [peerSection(peers)] : []),
      ...(wrong.length ? [{ title: "Not timed", content: wrong }] : []),
      ...(svg ? [{ title: "Roofline", content: [svg, ...ceilingsText(run)] }] : []),
      ...(tables.length ? [{ title: "Rows", content: [...baselineText(options), ...tables] }] : []),
      { title: "Circumstances", content: [htmlTable(["", ""], facts(run))] },
    ],
  });
}
