/** `mpirun -n 2 janus train`: the run of one process, shared; it resumes in any world, and names what differs between ranks. Needs Open MPI. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { writeDataset } from "../../examples/shapes/dataset_files.ts";
import { Device } from "../../index.ts";
import { isLong } from "../long.ts";
import { SMALL } from "../small_model.ts";

const has = spawnSync("mpirun", ["--version"], { encoding: "utf8" }).stdout?.includes("Open MPI") ?? false;
if (!has) console.log("mpi: did not run, because Open MPI is not installed (Debian: openmpi-bin)");

/** Loss of the random weights: the logarithms of the vocabulary and of the codebook, in the shares of their tokens. */
const LN_OF_HEADS = 4.78;

const home = mkdtempSync(join(tmpdir(), "janus-mpi-"));
const at = (...names: string[]): string => join(home, ...names);
const root = join(import.meta.dirname, "..", "..");

describe.skipIf(!has)("Open MPI", () => {
  beforeAll(async () => {
    await writeDataset(at("data"), { pictures: 30, seed: 1 });
    const device = await Device.create();
    await newCheckpoint(at("model"), {
      device,
      changes: SMALL,
      texts: [readFileSync(at("data", "text.jsonl"), "utf8")],
    });
    device.destroy();
  });
  afterAll(() => rmSync(home, { recursive: true, force: true }));

  const words = (run: string, changes: readonly string[]): string[] => [
    process.execPath,
    "--import",
    "tsx",
    join(root, "cli", "main.ts"),
    "train",
    "stage2",
    `--model=${at("model")}`,
    `--run=${at(run)}`,
    `--cache=${at("cache")}`,
    "--data",
    at("data", "und.jsonl"),
    `gen=${at("data", "gen.jsonl")}`,
    at("data", "text.jsonl"),
    "--set",
    "length=300",
    "report.prompts=[]",
    "report.every=0",
    "batch=10",
    "optimizer.warmup=0",
    "steps=3",
    "save.every=2",
    ...changes,
  ];
  const HERE = ["--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"];
  const start = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(args[0]!, args.slice(1), { cwd: root, encoding: "utf8" });
  const train = (ranks: number, run: string, ...changes: string[]) =>
    start(...(ranks > 1 ? ["mpirun", ...HERE, "-n", String(ranks)] : []), ...words(run, changes));

  const files = (run: string): Map<string, Buffer> => {
    const step = at(run, "step-00000003");
    return new Map(readdirSync(step).filter((name) => name.endsWith(".safetensors")).map((name) => [name, readFileSync(join(step, name))])); // prettier-ignore
  };
  const losses = (run: string): number[] =>
    readFileSync(at(run, "log.jsonl"), "utf8")
      .split("\n")
      .flatMap((line) => (line.includes('"loss"') ? [(JSON.parse(line) as { loss: number }).loss] : []));

  const complete = (ranks: number, run: string, ...changes: string[]): ReturnType<typeof train> => {
    const ended = train(ranks, run, ...changes);
    expect(ended.status, ended.stderr).toBe(0);
    return ended;
  };

  it("trains, and rank 0 alone prints and writes", () => {
    const { stdout, stderr } = complete(2, "short", "stopAt=1");
    expect(stdout).toBe(`${at("short", "step-00000001")}\n`);
    expect(stderr.match(/^step \d\/1 /gm)).toHaveLength(1);
    expect(losses("short")).toEqual([expect.closeTo(LN_OF_HEADS, 1)]);
  });

  it.runIf(isLong)("trains as one process does, and resumes bit for bit", () => {
    complete(2, "whole");
    complete(2, "parts", "stopAt=2");
    complete(2, "parts", "stopAt=3");
    expect(files("parts")).toEqual(files("whole"));
    complete(1, "alone");
    expect(losses("alone")).toHaveLength(3);
    for (const [step, loss] of losses("alone").entries())
      expect(Math.abs(losses("whole")[step]! - loss)).toBeLessThan(1e-5 * loss);
  });

  it("ranks with different settings end before the first step, with the difference and their names", () => {
    const [a, b] = [words("other", []), words("other", ["optimizer.lr=3e-5"])];
    const { status, stderr } = start("mpirun", ...HERE, "-n", "1", ...a, ":", "-n", "1", ...b);
    expect(status).not.toBe(0);
    expect(stderr).toMatch(
      /error: rank \d on \S+: train: all ranks must have the same settings; rank 0 has \w+, rank 1 has \w+/,
    );
  });
});
