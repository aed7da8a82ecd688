/** Every error class of the package: what it means, what it extends, and the exit code of the command. */
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { exitCodeMeanings, exitCodeOf } from "../../../cli/errors.ts";
import { JanusError } from "../../../engine/errors.ts";
import { code, page, table } from "./markdown.ts";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));
const FOLDERS = ["engine", "kernels", "model", "train", "verify", "eval", "cli"];
const CLASS = /\/\*\*((?:(?!\*\/)[^])*)\*\/\s*export class (\w+) extends (\w+)/g;

interface ErrorClass {
  readonly name: string;
  readonly parent: string;
  readonly meaning: string;
  readonly exitCode: number;
}

export async function errorClasses(): Promise<ErrorClass[]> {
  const found: ErrorClass[] = [];
  for (const folder of FOLDERS)
    for (const path of readdirSync(join(ROOT, folder), { recursive: true }).map(String).toSorted()) {
      if (!path.endsWith(".ts")) continue;
      const file = join(ROOT, folder, path);
      for (const [, comment, name, parent] of readFileSync(file, "utf8").matchAll(CLASS)) {
        if (!/(Error|Interrupted)$/.test(name!)) continue;
        const loaded = ((await import(pathToFileURL(file).href)) as Record<string, unknown>)[name!];
        if (typeof loaded !== "function" || !(loaded.prototype instanceof JanusError)) continue;
        const exitCode = await exitCodeOf(Object.create(loaded.prototype as object));
        found.push({ name: name!, parent: parent!, meaning: comment!.replace(/^\s*\* ?/gm, " "), exitCode });
      }
    }
  return found;
}

export async function errorsPage(): Promise<string> {
  const classes = await errorClasses();
  const rows = classes.map(({ name, parent, meaning, exitCode }) => [
    code(name),
    meaning,
    code(parent),
    name === "Interrupted" ? "that of the signal" : String(exitCode),
  ]);
  const exits = exitCodeMeanings.map(([exit, meaning]) => [String(exit), meaning]);
  const body = `Every error that the package throws on purpose extends \`JanusError\`. Its message names the op, what was required, what it
got, and what to do. It is thrown before the work of the failing call starts: nothing is lost, and the device stays usable.

${table(["class", "meaning", "extends", "exit code of janus"], rows)}

70 is the exit code of errors that a command line cannot cause: if you see one, it is a mistake in the package.

## Exit codes

${table(["exit code", "meaning"], exits)}`;
  return page("Errors", "the error classes and the exit codes of the command", body);
}
