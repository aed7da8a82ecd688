/** `mpirun -n 2 janus eval`: the predictions of one process, for any batch, also when a process is killed. Needs Open MPI. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { sleep } from "../../engine/index.ts";
import { writeBenchmarks } from "../eval_files.ts";
import { isLong } from "../long.ts";

const has = spawnSync("mpirun", ["--version"], { encoding: "utf8" }).stdout?.includes("Open MPI") ?? false;
if (!has) console.log("mpi_eval: did not run, because Open MPI is not installed (Debian: openmpi-bin)");

const home = mkdtempSync(join(tmpdir(), "janus-mpi-eval-"));
const root = join(import.meta.dirname, "..", "..");
const MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1", "-n", "2"]; // prettier-ignore
const BENCHMARKS = isLong ? ["pope", "mme", "mmbench", "seed", "gqa", "mmmu", "mmvet"] : ["pope"];

describe.skipIf(!has)("Open MPI", () => {
  beforeAll(() => writeBenchmarks(join(home, "data")));
  afterAll(() => rmSync(home, { recursive: true, force: true }));

  const start = (
    ranks: number,
    out: string,
    benchmarks: readonly string[],
    tokens: number | null,
    ...rest: string[]
  ) => {
    const node = [process.execPath, "--import", "tsx", join(root, "cli", "main.ts")];
    const command = [...(ranks > 1 ? MPIRUN : []), ...node, "eval", ...benchmarks, "--model", "shapes"];
    const files = ["--data", join(home, "data"), "--out", join(home, out)];
    const set = ["--set", "dtype=f32", ...(tokens === null ? [] : ["--set", `decoding.maxNewTokens=${tokens}`])];
    const child = spawn(command[0]!, [...command.slice(1), ...files, ...set, ...rest], { cwd: root });
    let printed = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (bytes: Buffer) => (printed += bytes.toString())); // prettier-ignore
    const ended = once(child, "close").then(([code]) => [code as number | null, printed] as const);
    return { child, ended };
  };
  const complete = async (...args: Parameters<typeof start>): Promise<string> => {
    const [code, printed] = await start(...args).ended;
    expect(code, printed).toBe(0);
    return printed;
  };
  const predictions = (out: string, benchmark: string): string => readFileSync(join(home, out, benchmark, "predictions.jsonl"), "utf8"); // prettier-ignore

  it("two processes make the predictions of one, and one result", async () => {
    await complete(1, "one", BENCHMARKS, 4, "--batch", "1");
    const printed = await complete(2, "two", BENCHMARKS, 4, "--batch", "8", "--resume", "never");
    for (const benchmark of BENCHMARKS) expect(predictions("two", benchmark)).toBe(predictions("one", benchmark));
    expect(readFileSync(join(home, "two", "results.json"), "utf8")).toBe(readFileSync(join(home, "one", "results.json"), "utf8")); // prettier-ignore
    expect(printed).toMatch(/pope +\d+\.\d\d.*F1/);
  });

  it.runIf(isLong)("two processes draw the images of one", async () => {
    const drawn = ["geneval", "dpg"];
    const few = ["--set", "imagesPerPrompt=2"];
    await complete(1, "drawn", drawn, null, ...few);
    await complete(2, "drawn-by-two", drawn, null, ...few);
    const files = readdirSync(join(home, "drawn"), { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".png")); // prettier-ignore
    expect(files).toHaveLength(6 * 2 + 1);
    for (const name of files) expect(readFileSync(join(home, "drawn-by-two", name))).toEqual(readFileSync(join(home, "drawn", name))); // prettier-ignore
  });

  it.runIf(isLong)(
    "a process that is killed ends the run; the same command resumes it, with the same bytes",
    async () => {
      await complete(1, "whole", ["pope", "mme"], 64, "--batch", "1");
      for (const batch of ["1", "8"]) {
        const { child, ended } = start(2, `killed-${batch}`, ["pope", "mme"], 64, "--batch", batch);
        const parts = [1, 2].map((k) => join(home, `killed-${batch}`, "mme", `predictions-${k}-of-2.jsonl`));
        while (!parts.some((path) => existsSync(path))) await sleep(20);
        const ranks = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8")
          .trim()
          .split(" ")
          .map(Number);
        process.kill(
          ranks.find((pid) => readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("main.ts"))!,
          "SIGKILL",
        );
        const [code, printed] = await ended;
        expect(code, printed).not.toBe(0);
        expect(existsSync(join(home, `killed-${batch}`, "mme", "predictions.jsonl"))).toBe(false);
        await complete(2, `killed-${batch}`, ["pope", "mme"], 64, "--batch", batch);
        for (const benchmark of ["pope", "mme"]) expect(predictions(`killed-${batch}`, benchmark)).toBe(predictions("whole", benchmark)); // prettier-ignore
      }
    },
  );
});
