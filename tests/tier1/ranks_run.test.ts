/** Runs of several ranks in one process: their checkpoints are those of one device, and resume in any world. */
import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { writeDataset } from "../../examples/shapes/dataset_files.ts";
import { Device, setDevice } from "../../index.ts";
import { checkConfig } from "../../train/config.ts";
import { FileError } from "../../model/node/files.ts";
import { nodeFileSystem } from "../../train/node/run/file_system.ts";
import type { FileSystem } from "../../train/node/run/file_system.ts";
import { train } from "../../train/node/train.ts";
import type { StepEvent } from "../../train/node/report/index.ts";
import { ONE_PROCESS } from "../../train/ranks.ts";
import type { Ranks } from "../../train/ranks.ts";
import { isLong } from "../long.ts";
import { ranksHere } from "../ranks_here.ts";
import { SMALL } from "../small_model.ts";

const home = mkdtempSync(join(tmpdir(), "janus-ranks-"));
const at = (...names: string[]): string => join(home, ...names);
let device: Device;

beforeAll(async () => {
  device = await Device.create();
  setDevice(device);
  await writeDataset(at("data"), { pictures: 30, seed: 1 });
  await newCheckpoint(at("model"), { device, changes: SMALL, texts: [readFileSync(at("data", "text.jsonl"), "utf8")] });
});
afterAll(() => {
  device.destroy();
  rmSync(home, { recursive: true, force: true });
});

const sources = [
  { path: at("data", "und.jsonl") },
  { path: at("data", "gen.jsonl"), task: "gen" as const },
  { path: at("data", "text.jsonl") },
];

/** Trains in the folder `run` up to step `stopAt` in a world of these ranks. Returns the steps of rank 0. */
async function go(
  run: string,
  world: readonly Ranks[],
  stopAt: number,
  more: object = {},
  fileSystem: (rank: number) => FileSystem = () => nodeFileSystem,
  model = "model",
): Promise<StepEvent[]> {
  const settings = { stage: 2, batch: 4, length: 300, steps: 3, stopAt, ratios: { und: 1, text: 1, gen: 2 }, optimizer: { lr: 1e-3 }, ema: { decay: 0.5 }, dtype: "bf16", report: { every: 0 }, ...more }; // prettier-ignore
  const steps: StepEvent[] = [];
  const one = (ranks: Ranks): Promise<unknown> =>
    train({ model: at(model), run: at(run), config: checkConfig(settings), sources, cache: at("cache"), device, ranks, fileSystem: fileSystem(ranks.rank), ceiling: 1, onStep: (step) => ranks.rank === 0 && steps.push(step) }); // prettier-ignore
  await Promise.all(world.map(one));
  return steps;
}

/** Hashes of the files in a checkpoint that differ from step to step, by file. */
const hashes = (run: string, step: number, ends = ".safetensors"): Record<string, string> =>
  Object.fromEntries(
    readdirSync(at(run, `step-0000000${step}`))
      .filter((name) => name.endsWith(ends))
      .map((name) => [name, createHash("sha256").update(readFileSync(at(run, `step-0000000${step}`, name))).digest("hex")]), // prettier-ignore
  );

it("a run is saved by ranks that divide its state as by ranks that do not, and resumes in another world", async () => {
  await go("none", ranksHere(2), 1);
  const [step] = await go("shared", ranksHere(2), 1, { sharding: "parameters" });
  expect(step!.communication!.bytes).toBeGreaterThan(0);
  expect(Object.keys(hashes("none", 1))).toEqual(["ema.safetensors", "model.safetensors", "optimizer.safetensors"]);
  expect(hashes("shared", 1)).toEqual(hashes("none", 1));
  await go("none", ranksHere(3), 2);
  await go("shared", ranksHere(3), 2, { sharding: "optimizer" });
  expect(hashes("shared", 2)).toEqual(hashes("none", 2));
  const [alone] = await go("none", [ONE_PROCESS], 3);
  expect(alone!.communication).toBeUndefined();
  const [more] = await go("shared", ranksHere(4), 3, { sharding: "gradients" });
  expect(Math.abs(more!.loss - alone!.loss)).toBeLessThan(1e-6 * alone!.loss);
});

it("ranks write the files of a checkpoint at the same time, and they are those of one process, byte for byte", async () => {
  // A step of one sample: the other ranks have none, and sums are those of one process.
  const changes = { batch: 1, sharding: "parameters" };
  await go("alone", [ONE_PROCESS], 1, { ...changes, sharding: "none" });
  const made: string[][] = [[], [], []];
  const fileSystem = (rank: number): FileSystem => ({
    ...nodeFileSystem,
    create: (path) => {
      made[rank]!.push(basename(path));
      return nodeFileSystem.create(path);
    },
  });
  await go("together", ranksHere(3), 1, changes, fileSystem);
  const same = /^(?!state|MANIFEST)/; // the state has the settings, sharding among them
  const filesOf = (run: string): [string, string][] => Object.entries(hashes(run, 1, "")).filter(([name]) => same.test(name)); // prettier-ignore
  expect(filesOf("together")).toEqual(filesOf("alone"));
  for (const names of made) expect(names.some((name) => name.endsWith(".safetensors"))).toBe(true);
  expect(made[0]).toContain("MANIFEST.json");
});

it("a disk that is full in one rank ends all, by its name, and leaves no part of the checkpoint", async () => {
  const fileSystem = (rank: number): FileSystem => ({
    ...nodeFileSystem,
    create: (path) => (rank === 1 ? Promise.reject(new FileError(`${path} cannot be written: the disk is full`, "ENOSPC")) : nodeFileSystem.create(path)), // prettier-ignore
  });
  const ended = await Promise.allSettled(ranksHere(2).map((ranks) => go("full", [ranks], 1, { sharding: "optimizer" }, () => fileSystem(ranks.rank)))); // prettier-ignore
  const [first, second] = ended.map((each) => String((each as PromiseRejectedResult).reason));
  expect(first).toMatch(/step 1 could not be saved: rank 1: .* the disk is full; earlier checkpoints are unchanged/);
  expect(second).toMatch(/^FileError: .* the disk is full/);
  expect(readdirSync(at("full")).filter((name) => /step/.test(name))).toEqual([]);
});

it("ranks with different settings end before the first step, with the difference", async () => {
  const [first, second] = ranksHere(2);
  const run = (ranks: Ranks, more: object): Promise<unknown> => go("other", [ranks], 1, more);
  const ended = await Promise.allSettled([run(first!, { sharding: "optimizer" }), run(second!, {})]);
  for (const each of ended) expect(String((each as PromiseRejectedResult).reason)).toMatch(/all ranks must have the same settings.sharding; rank 0 has "optimizer", rank 1 has none/); // prettier-ignore
});

it.each([
  ["when to save", { save: { every: 2 } }, /the same settings.save.every; rank 0 has \d+, rank 1 has 2\b/],
  ["what is drawn", { report: { every: 0, prompts: ["a"] } }, /the same settings.report.prompts/],
] as const)("ranks that differ in %s, which decides their messages, end too", async (_, more, message) => {
  const ended = await Promise.allSettled(ranksHere(2).map((ranks) => go("differ", [ranks], 1, ranks.rank ? more : {})));
  for (const each of ended) expect(String((each as PromiseRejectedResult).reason)).toMatch(message);
});

it("ranks whose copies of the model have other weights end before the first step", async () => {
  cpSync(at("model"), at("model-2"), { recursive: true });
  const weights = readdirSync(at("model-2")).find((name) => name.endsWith(".safetensors"))!;
  const bytes = readFileSync(at("model-2", weights));
  bytes[bytes.length - 2]! ^= 1;
  writeFileSync(at("model-2", weights), bytes);
  const ended = await Promise.allSettled(ranksHere(2).map((ranks) => go("copies", [ranks], 1, {}, undefined, ranks.rank ? "model-2" : "model"))); // prettier-ignore
  for (const each of ended) expect(String((each as PromiseRejectedResult).reason)).toMatch(/the same model; rank 0 has \w+, rank 1 has \w+/); // prettier-ignore
});

it.runIf(isLong)("pictures are drawn with whole weights", async () => {
  const report = { every: 1, prompts: ["a red square"], reconstructions: 1 };
  await go("drawn", ranksHere(2), 1, { sharding: "parameters", report });
  expect(readdirSync(at("drawn", "samples")).length).toBeGreaterThan(0);
});
