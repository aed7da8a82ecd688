/**
 * `npm run bench:compile`: what the compilers of AMD's and NVIDIA's GPUs make of the kernels that those run by default, on a machine without
 * one. Compared with the committed table; exits with 1 if a kernel is worse than there or than it may be.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { CHIPS, startOn } from "./chips.ts";
import type { Chip } from "./chips.ts";
import type { Request } from "./child.ts";
import { compare, faultsOf, parseTable, printTable, textOf } from "./table.ts";
import type { Table } from "./table.ts";
import { figuresOf } from "./figures.ts";
import type { Pipeline } from "./figures.ts";
import { MissingError, buildLayer, findMesa, root } from "./mesa.ts";

const COMMITTED = join(root, "bench", "results", "compile.json");
const HELP = `npm run bench:compile -- [options]
  --chips LIST     of ${CHIPS.map((c) => c.name).join(", ")}; all if not given
  --filter REGEXP  only rows of the bench whose name matches
  --rows N         rows of the table that are shown for each chip, worst first (default 20; 0: all)
  --json FILE      write the figures there
  --code FOLDER    write the machine code there, a file for each pipeline
  --save           make these figures the committed table`;

/** All pipelines that the rows of the bench compile on a chip. */
async function compileOn(chip: Chip, filter: string): Promise<[Pipeline[], string[]]> {
  const mesa = findMesa(chip.vendor);
  const folder = mkdtempSync(join(tmpdir(), "compile-"));
  const out = join(folder, "pipelines");
  const request: Request = { filter, report: join(folder, "report"), ...(chip.lanes && { lanes: chip.lanes }) };
  const { command, args, env } = startOn(chip, mesa, buildLayer(mesa));
  const program = ["--import", "tsx", join(root, "bench", "compile", "child.ts"), JSON.stringify(request)];
  try {
    const child = spawn(command, [...args, ...program], {
      cwd: root,
      env: { ...process.env, ...env, COMPILE_OUT: out },
      stdio: ["ignore", "ignore", "pipe"],
    });
    let said = "";
    child.stderr.on("data", (data) => (said = `${said}${data}`.slice(-2000)));
    const code = await new Promise((done) => child.on("close", done));
    const lines = existsSync(out) ? readFileSync(out, "utf8").split("\n").filter(Boolean) : [];
    if (code !== 0) throw new Error(`the run ended with ${code} after ${lines.at(-1)?.slice(0, 200)}\n${said}`);
    const { problems } = JSON.parse(readFileSync(request.report, "utf8")) as { problems: string[] };
    return [lines.map((line) => JSON.parse(line) as Pipeline).filter((p) => p.label), problems];
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function writeCode(folder: string, chip: Chip, pipelines: readonly Pipeline[]): void {
  for (const [i, p] of pipelines.entries())
    writeFileSync(join(folder, `${chip.name}-${i}.s`), `; ${p.label}\n${p.code ?? ""}`);
}

const OPTIONS = {
  chips: { type: "string", default: CHIPS.map((c) => c.name).join(",") },
  filter: { type: "string", default: "" },
  rows: { type: "string", default: "20" },
  json: { type: "string" },
  code: { type: "string" },
  save: { type: "boolean", default: false },
  help: { type: "boolean", default: false },
} as const;

const chipNamed = (name: string): Chip => {
  const chip = CHIPS.find((c) => c.name === name);
  if (!chip) throw new Error(`--chips: must be of ${CHIPS.map((c) => c.name).join(", ")}; got "${name}".`);
  return chip;
};

async function main(): Promise<boolean> {
  const { values } = parseArgs({ options: OPTIONS });
  if (values.help) {
    console.log(HELP);
    return true;
  }
  const table: Table = {};
  const faults: string[] = [];
  for (const chip of values.chips.split(",").map(chipNamed)) {
    const [pipelines, problems] = await compileOn(chip, values.filter);
    const [made, failed] = [pipelines.filter((p) => p.result === 0), pipelines.filter((p) => p.result !== 0)];
    const figures = Object.fromEntries(made.map((p) => [p.label, figuresOf(chip, p)]));
    table[chip.name] = figures;
    console.log(textOf(chip, figures, Number(values.rows)));
    if (values.code) writeCode(values.code, chip, pipelines);
    faults.push(...failed.map((p) => `${chip.name} ${p.label}: does not compile (${p.result})`));
    faults.push(...problems.map((p) => `${chip.name} ${p}`), ...faultsOf(chip, figures));
  }
  const before = existsSync(COMMITTED) ? parseTable(readFileSync(COMMITTED, "utf8")) : {};
  const { worse, notes } = compare(before, table);
  for (const line of notes) console.log(line);
  for (const line of [...faults, ...worse]) console.log(`FAULT ${line}`);
  if (values.json) writeFileSync(values.json, JSON.stringify(table, null, 1));
  if (values.save) writeFileSync(COMMITTED, printTable({ ...before, ...table }));
  return faults.length === 0 && (values.save || worse.length === 0);
}

try {
  process.exitCode = (await main()) ? 0 : 1;
} catch (error) {
  const isMissing = error instanceof MissingError;
  console.log(
    isMissing
      ? `bench:compile did not run: ${error.message}. It needs Debian's apt, dpkg and gcc on Linux x64.`
      : `bench:compile: ${(error as Error).message}`,
  );
  process.exitCode = isMissing ? 0 : 1;
}
