/** Results by device: the files in bench/results with the date and commit of their last change. */
import { spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { code, page, table } from "./markdown.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const FOLDER = "bench/results";

/** Date and commit of the last change of a file; empty outside of a repository. */
function changeOf(path: string): string[] {
  const { stdout } = spawnSync("git", ["log", "-1", "--format=%cs %h", "--", path], { cwd: ROOT, encoding: "utf8" });
  const [date = "", commit = ""] = (stdout ?? "").trim().split(" ");
  return [date, code(commit)];
}

interface CompileResults {
  readonly columns: readonly string[];
  readonly chips: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>>;
}

/** Statistics of compiled kernels: how many per chip, and the worst of them. */
function compiled(results: CompileResults, path: string): string {
  const at = (name: string): number => results.columns.indexOf(name);
  const rows = Object.entries(results.chips).map(([chip, kernels]) => {
    const all = Object.values(kernels);
    const most = (name: string): string => String(Math.max(...all.map((row) => row[at(name)] ?? 0)));
    return [code(chip), String(all.length), most("registers"), most("spills"), most("scratch"), ...changeOf(path)];
  });
  return `## Kernels compiled for GPUs that were not at hand\n\n${table(
    ["chip", "pipelines", "registers, at most", "spills, at most", "scratch memory, at most", "date", "commit"],
    rows,
  )}\n\n\`npm run bench:compile\` makes this table on any Debian machine.`;
}

interface BenchRow {
  readonly name?: string;
  readonly adapter?: unknown;
  readonly commit?: string;
  readonly date?: string;
}

/** A file of \`janus bench --json\`: its first line is the run. */
function measured(lines: readonly BenchRow[], path: string): string {
  const [run, ...rows] = lines;
  const about = [
    ["adapter", JSON.stringify(run?.adapter ?? "")],
    ["date", run?.date ?? ""],
    ["commit", run?.commit ?? ""],
  ];
  return `## ${path}\n\n${table(["", ""], about)}\n\n${rows.length} rows: ${rows.map(({ name }) => code(name ?? "")).join(", ")}`;
}

export function resultsPage(): string {
  const files = readdirSync(join(ROOT, FOLDER)).filter((name) => /\.jsonl?$/.test(name));
  const sections = files.map((name) => {
    const path = `${FOLDER}/${name}`;
    const text = readFileSync(join(ROOT, path), "utf8");
    if (name.endsWith(".jsonl"))
      return measured(
        text
          .trim()
          .split("\n")
          .map((line) => JSON.parse(line) as BenchRow),
        path,
      );
    const json = JSON.parse(text) as Partial<CompileResults>;
    return json.chips && json.columns ? compiled({ columns: json.columns, chips: json.chips }, path) : `## ${path}`;
  });
  const body = `${sections.join("\n\n")}

## Runs on a GPU

[The log of the H200](../log/h200.md) has what was measured on an NVIDIA GPU, with the causes of what failed there, and
[the bench](../bench.md) says how to measure a device. Results for others are \`--json\` files in \`${FOLDER}\`.`;
  return page("Results by device", `the files in \`${FOLDER}\``, body);
}
