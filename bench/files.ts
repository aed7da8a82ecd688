/** Files of results: JSON lines, first the run, then a line for each row; and the baselines that are kept of them, by adapter. */
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { ArgumentError, adapterFolder, userCache } from "../index.ts";
import { IoError } from "../model/io/errors.ts";
import { fileError } from "../model/node/files.ts";
import type { PeerResults } from "./peers.ts";
import { FORMAT } from "./results.ts";
import type { AdapterId } from "../index.ts";
import type { Results, RowResult, RunInfo, WrongRow } from "./results.ts";
import { adapterText } from "./run_info.ts";

export const toJsonLines = ({ run, rows, wrong, peers }: Results): string =>
  [run, ...rows, ...wrong, ...(peers ? [{ kind: "peers", ...peers }] : [])]
    .map((line) => `${JSON.stringify(line)}\n`)
    .join("");

type PeerLine = { readonly kind: "peers" } & PeerResults;

/** Reads what `toJsonLines` wrote. Throws `IoError` for anything else, with its line. */
export function fromJsonLines(text: string, file: string): Results {
  const lines = text.split("\n").flatMap((line, i) => {
    if (!line.trim()) return [];
    try {
      return [JSON.parse(line) as RunInfo | RowResult | WrongRow | PeerLine];
    } catch {
      throw new IoError(`bench: ${file}: line ${i + 1} must be JSON; got ${JSON.stringify(line.slice(0, 40))}. Name a file of --json or a baseline.`); // prettier-ignore
    }
  });
  const [run, ...rest] = lines;
  if (run?.kind !== "run" || !run.adapter || !run.settings)
    throw new IoError(`bench: ${file} must begin with the line of a run; got something else. Name a file of --json or a baseline.`); // prettier-ignore
  if (run.format !== FORMAT)
    throw new IoError(`bench: ${file} must have format ${FORMAT}; got format ${String(run.format)}. Measure it again with this release.`); // prettier-ignore
  const unknown = rest.find(({ kind }) => !["row", "wrong", "peers"].includes(kind));
  const peers = rest.find((line): line is PeerLine => line.kind === "peers");
  if (unknown)
    throw new IoError(`bench: ${file}: lines must be rows; got kind ${JSON.stringify(unknown.kind)}. Measure it again with this release.`); // prettier-ignore
  return {
    run,
    rows: rest.filter((line): line is RowResult => line.kind === "row"),
    wrong: rest.filter((line): line is WrongRow => line.kind === "wrong"),
    ...(peers && { peers }),
  };
}

/** Writes a file whole or not at all. Throws `IoError`. */
export function writeWhole(file: string, content: string | Uint8Array): void {
  try {
    mkdirSync(dirname(file), { recursive: true });
    const staged = `${file}.${process.pid}.part`;
    writeFileSync(staged, content);
    renameSync(staged, file);
  } catch (error) {
    throw fileError(error, file);
  }
}

/** Folder of baselines: that of the user, so that checkouts and installed packages share it. */
const baselineFolder = (): string => join(userCache()!, "bench");

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export function requireBaselineName(name: string): void {
  if (NAME.test(name)) return;
  throw new ArgumentError(`bench: the name of a baseline must be letters, digits, ".", "_" and "-", at most 64; got ${JSON.stringify(name)}. Choose another name.`); // prettier-ignore
}

const isFile = (name: string): boolean => /[/\\]|\.jsonl?$/.test(name);

/** Keeps results under a name, by adapter and question. Returns the file. */
export function saveBaseline(name: string, results: Results, folder = baselineFolder()): string {
  requireBaselineName(name);
  const file = join(folder, adapterFolder(results.run.adapter), `${name}.${results.run.question}.jsonl`);
  writeWhole(file, toJsonLines(results));
  return file;
}

const same = (a: AdapterId, b: AdapterId): boolean =>
  a.name === b.name && a.driver === b.driver && a.vendor === b.vendor && a.architecture === b.architecture;

/**
 * A baseline by its name, or a file of `--json`. Throws `ArgumentError`, before anything is measured, if there is none for this adapter and
 * question, and names the adapter that it is of.
 */
export function loadBaseline(
  name: string,
  { adapter, question }: Pick<RunInfo, "adapter" | "question">,
  folder = baselineFolder(),
): Results {
  const read = (file: string): Results => {
    let text: string;
    try {
      text = readFileSync(file, "utf8");
    } catch (error) {
      throw fileError(error, file);
    }
    return fromJsonLines(text, file);
  };
  if (isFile(name)) return fitting(read(name), name, adapter, question);
  requireBaselineName(name);
  const own = join(folder, adapterFolder(adapter), `${name}.${question}.jsonl`);
  if (existsSync(own)) return fitting(read(own), name, adapter, question);
  const others = existsSync(folder) ? readdirSync(folder).map((f) => join(folder, f, `${name}.${question}.jsonl`)) : [];
  const other = others.find((file) => existsSync(file));
  if (other) return fitting(read(other), name, adapter, question);
  throw new ArgumentError(`bench: --baseline must name a baseline of ${question}; got ${JSON.stringify(name)}, which is not in ${folder}. Save one with --save-baseline ${name}.`); // prettier-ignore
}

function fitting(results: Results, name: string, adapter: AdapterId, question: string): Results {
  const { run } = results;
  if (run.question !== question)
    throw new ArgumentError(`bench: baseline ${name} must be of ${question}; got one of ${run.question}. Save one with --save-baseline.`); // prettier-ignore
  if (!same(run.adapter, adapter))
    throw new ArgumentError(`bench: baseline ${name} must be of this adapter, ${adapterText(adapter)}; got one of ${adapterText(run.adapter)}. Results of different adapters or drivers are not compared: save one here with --save-baseline.`); // prettier-ignore
  return results;
}
