/** Starts a child process that saves checkpoints and kills it at a random moment, again and again in one run folder. */
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { Checkpoints } from "../train/node/run/checkpoints.ts";

const root = fileURLToPath(new URL("../", import.meta.url));

/** A program of this project as plain JavaScript in `out`: Node starts that in a tenth of the time that tsx takes. Returns its path. */
export function compile(program: string, out: string): string {
  const compilerOptions: ts.CompilerOptions = {
    module: ts.ModuleKind.ESNext,
    target: ts.ScriptTarget.ES2022,
    rewriteRelativeImportExtensions: true,
    verbatimModuleSyntax: true,
  };
  const target = (path: string): string => join(out, relative(root, path)).replace(/\.ts$/, ".js");
  const seen = new Set([join(root, program)]);
  for (const path of seen) {
    const { outputText } = ts.transpileModule(readFileSync(path, "utf8"), { compilerOptions, fileName: path });
    mkdirSync(dirname(target(path)), { recursive: true });
    writeFileSync(target(path), outputText);
    for (const [, to] of outputText.matchAll(/from "(\.[^"]+)\.js"/g)) seen.add(join(dirname(path), `${to}.ts`));
  }
  writeFileSync(join(out, "package.json"), `{"type":"module"}`);
  return target(join(root, program));
}

export interface Kills {
  kills: number;
  /** Those that hit a save or a pruning on its way: hidden folders were left. */
  interrupted: number;
  acknowledged: number;
  violations: string[];
}

/** `count` kills in one run folder. Each child opens the folder that the one before was killed in. */
export async function killRepeatedly(script: string, run: string, count: number, random: () => number): Promise<Kills> {
  const result: Kills = { kills: 0, interrupted: 0, acknowledged: 0, violations: [] };
  let acknowledged = 0;
  mkdirSync(run, { recursive: true }); // a child that is killed while it starts may not have come to that
  for (let i = 0; i < count; i++) {
    // One in eight is killed while it starts, takes over the lock and cleans up.
    const [fromStart, delay] = [random() < 1 / 8, random()];
    const { lines, stderr, killed } = await killOnce(
      script,
      run,
      i,
      fromStart ? "spawn" : "open",
      fromStart ? 20 + 60 * delay : 40 * delay,
    );
    if (!killed) result.violations.push(`run ${i}: the child ended by itself: ${stderr}`);
    const opened = lines.find((line) => line.startsWith("open "));
    if (opened && Number(opened.slice(5)) < acknowledged)
      result.violations.push(`run ${i}: the child found step ${opened.slice(5)}, ${acknowledged} was acknowledged`);
    const saved = lines.filter((line) => line.startsWith("saved ")).map((line) => Number(line.slice(6)));
    acknowledged = Math.max(acknowledged, ...saved);
    result.acknowledged += saved.length;
    result.kills++;
    const names = readdirSync(run);
    if (names.some((name) => /^\.(saving|removing)-/.test(name))) result.interrupted++;
    const { newest, skipped } = await new Checkpoints(run).newestVerified();
    if ((newest?.step ?? 0) < acknowledged)
      result.violations.push(`run ${i}: the newest is ${newest?.step}, ${acknowledged} was acknowledged`);
    for (const { step, problems } of skipped) result.violations.push(`run ${i}: step ${step}: ${problems.join("; ")}`);
  }
  return result;
}

function killOnce(
  script: string,
  run: string,
  seed: number,
  since: "spawn" | "open",
  delay: number,
): Promise<{ lines: string[]; stderr: string; killed: boolean }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script, run, String(seed)], { stdio: ["ignore", "pipe", "pipe"] });
    let [stdout, stderr, isArmed] = ["", "", false];
    const arm = (): void => {
      if (isArmed) return;
      isArmed = true;
      setTimeout(() => child.kill("SIGKILL"), delay);
    };
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      if (stdout.includes("open ")) arm();
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.on("error", reject);
    if (since === "spawn") arm();
    child.on("close", (_, signal) => {
      const lines = stdout.slice(0, stdout.lastIndexOf("\n") + 1).split("\n"); // the last one may be half a line
      resolve({ lines, stderr, killed: signal === "SIGKILL" });
    });
  });
}
