/** Results by device: what the files in bench/results say about themselves, and their figures. */
import { spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { columnsOf } from "../../../bench/columns.ts";
import { fromJsonLines } from "../../../bench/files.ts";
import { ceilingsText, facts } from "../../../bench/reports.ts";
import { QUESTIONS } from "../../../bench/results.ts";
import type { Results } from "../../../bench/results.ts";
import { adapterText } from "../../../bench/run_info.ts";
import { code, page, table } from "./markdown.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const FOLDER = "bench/results";

const NONE = "no results";

/** Title of the device that a run was made on. */
const deviceOf = ({ run: { adapter, isSoftware } }: Results): string =>
  isSoftware ? `${adapter.driver}, software` : adapterText(adapter);

function byDevice(all: readonly Results[]): Map<string, Results[]> {
  const devices = new Map<string, Results[]>();
  for (const results of all) devices.set(deviceOf(results), [...(devices.get(deviceOf(results)) ?? []), results]);
  return devices;
}

/** Which device has results of which question, and of when. */
function overview(devices: ReadonlyMap<string, readonly Results[]>): string {
  const rows = [...devices].map(([device, runs]) => [
    device,
    ...QUESTIONS.map((question) => {
      const found = runs.find(({ run }) => run.question === question);
      return found ? `${found.rows.length} rows, ${found.run.date.slice(0, 10)}` : NONE;
    }),
  ]);
  const hasGpu = [...devices.values()].flat().some(({ run }) => !run.isSoftware);
  return `What \`janus bench kernels\`, \`model\`, \`train\` and \`peers\` have measured:

${table(["device", ...QUESTIONS], rows)}

A device that is not in this table has no results here.${hasGpu ? "" : " **There are no results of a GPU.**"}`;
}

/** A run: its circumstances and a table of its rows. */
function measured(results: Results): string {
  const { run, rows, wrong } = results;
  const columns = columnsOf(rows);
  const about = [
    ...(run.incomplete === undefined ? [] : [`incomplete: ${run.incomplete}`]),
    ...facts(run).map(([name, value]) => `${name}: ${value}`),
    ...ceilingsText(run),
    ...wrong.map(({ name, reasons }) => `not timed: ${name}: ${reasons.join("; ")}`),
  ];
  return `### ${run.question}

${about.map((line) => `- ${line}`).join("\n")}

${table(
  columns.map(({ head }) => head),
  rows.map((row) => columns.map(({ cell }) => cell(row))),
)}`;
}

interface CompileResults {
  readonly columns: readonly string[];
  readonly chips: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>>;
}

/** Date and commit of the last change of a file; empty outside of a repository. */
function changeOf(path: string): string[] {
  const { stdout } = spawnSync("git", ["log", "-1", "--format=%cs %h", "--", path], { cwd: ROOT, encoding: "utf8" });
  const [date = "", commit = ""] = (stdout ?? "").trim().split(" ");
  return [date, code(commit)];
}

/** Statistics of compiled kernels: how many per chip, and the worst of them. */
function compiled(path: string): string {
  const { columns, chips } = JSON.parse(readFileSync(join(ROOT, path), "utf8")) as CompileResults;
  const at = (name: string): number => columns.indexOf(name);
  const rows = Object.entries(chips).map(([chip, kernels]) => {
    const all = Object.values(kernels);
    const most = (name: string): string => String(Math.max(...all.map((row) => row[at(name)] ?? 0)));
    return [code(chip), String(all.length), most("registers"), most("spills"), most("scratch"), ...changeOf(path)];
  });
  return table(
    ["chip", "pipelines", "registers, at most", "spills, at most", "scratch memory, at most", "date", "commit"],
    rows,
  );
}

/** The page. `files`: contents of the files of `janus bench --json FILE`, by name. */
export function resultsPage(files = filesOfResults()): string {
  const devices = byDevice(Object.entries(files).map(([name, text]) => fromJsonLines(text, name)));
  const sections = [...devices].map(([device, runs]) => `## ${device}\n\n${runs.map(measured).join("\n\n")}`);
  const body = `${overview(devices)}

[The log of the H200](../log/h200.md) has what was measured on an NVIDIA GPU, by hand and before there were such files,
with the causes of what failed there. [The bench](../bench.md) explains the columns, and says how to measure a device: a
file of \`janus bench --json FILE\` in \`${FOLDER}\` is all that this page needs.

${sections.join("\n\n")}

## Kernels compiled for GPUs that were not at hand

Compiled, not run: the figures are those of the compiler. \`npm run bench:compile\` makes this table on any Debian machine.

${compiled(`${FOLDER}/compile.json`)}`;
  return page("Results by device", `the files in \`${FOLDER}\``, body);
}

const filesOfResults = (): Record<string, string> =>
  Object.fromEntries(
    readdirSync(join(ROOT, FOLDER))
      .filter((name) => name.endsWith(".jsonl"))
      .toSorted()
      .map((name) => [`${FOLDER}/${name}`, readFileSync(join(ROOT, FOLDER, name), "utf8")]),
  );
