/** `janus train` as a person types it: to its end, what becomes of its checkpoints, and each signal that may come in between. */
import { EventEmitter } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { writeDataset } from "../../examples/shapes/dataset_files.ts";
import { Device } from "../../index.ts";
import { Checkpoints } from "../../train/node/run/checkpoints.ts";
import { addCkpt } from "../../cli/ckpt.ts";
import { addGenerate } from "../../cli/generate.ts";
import { addTrain } from "../../cli/train.ts";
import type { CliResult } from "../cli.ts";
import { runCli, runHere, startCli } from "../cli.ts";
import { isLong } from "../long.ts";
import { SMALL } from "../small_model.ts";

const home = mkdtempSync(join(tmpdir(), "janus-train-command-"));
const at = (...names: string[]): string => join(home, ...names);

beforeAll(async () => {
  await writeDataset(at("data"), { pictures: 30, seed: 1 });
  const device = await Device.create();
  await newCheckpoint(at("model"), { device, changes: SMALL, texts: [readFileSync(at("data", "text.jsonl"), "utf8")] });
  device.destroy();
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

const command = (run: string, preset: string, ...changes: string[]): string[] => [
  "train",
  preset,
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
  ...changes,
];
const newest = async (run: string): Promise<number | undefined> =>
  (await new Checkpoints(at(run)).newestVerified()).newest?.step;

it("trains to the end; its checkpoints are listed, verified, exported and drawn with; the same command then has nothing to do", async () => {
  const typed = command("whole", "stage3", "batch=10", "steps=3", "save.every=2");
  const run = await runCli(typed);
  expect(run.code, run.stderr).toBe(0);
  expect(run.stdout).toBe(`${at("whole", "step-00000003")}\n`);
  const lines = run.stderr.match(/^step \d\/3 .*$/gm)!;
  expect(lines).toHaveLength(3);
  for (const line of lines)
    expect(line).toMatch(
      /^step \d\/3  loss \d\.\d{4}  und \d\.\d{3} text \d\.\d{3} gen \d\.\d{3}  norm \d+\.\d{3}  lr 4\.0e-5  [\d,]+ tokens\/s  \d+\.\d images\/s  MFU \d+ %  memory [\d.]+ MB  padding \d+ %  waiting \d+ %  [\d.]+ m?s$/,
    );
  const page = readFileSync(at("whole", "report.html"), "utf8");
  const charts = ["Loss by task", "Learning rate", "Norm of the gradients", "Tokens per second", "Images per second", "MFU", "Device memory", "Share of the time spent waiting"]; // prettier-ignore
  for (const title of charts) expect(page).toContain(title);
  expect((await runHere(addCkpt, ["ckpt", "ls", at("whole")])).stdout).toMatch(/^2 .*verified\n3 .*verified\n$/);
  expect((await runHere(addCkpt, ["ckpt", "verify", at("whole")])).code).toBe(0);
  for (const layout of ["hf", "deepseek"]) {
    const exported = await runHere(addCkpt, ["ckpt", "export", at("whole"), "3", at(layout), "--layout", layout]);
    expect([exported.code, exported.stderr]).toEqual([0, ""]);
  }
  // The same model in all three places.
  const pictures: string[] = [];
  for (const model of [at("whole", "step-00000003"), at("hf"), at("deepseek")]) {
    const drawn = await runHere(addGenerate, [
      "generate",
      "a red circle",
      "--model",
      model,
      "--out",
      at("pictures"),
      "--seed",
      "1",
      "--json",
    ]);
    expect(drawn.code, drawn.stderr).toBe(0);
    const { images } = JSON.parse(drawn.stdout) as { images: { path: string }[] };
    pictures.push(readFileSync(images[0]!.path, "base64"));
  }
  expect(new Set(pictures).size).toBe(1);
  const never = await runHere(addTrain, [...typed, "--resume", "never"]);
  expect([never.code, never.stderr]).toEqual([2, expect.stringMatching(/--resume never: .*whole has checkpoints \(the newest of step 3\)/)]); // prettier-ignore
  const again = await runHere(addTrain, [...typed, "--resume", "auto"]);
  expect([again.code, again.stdout]).toEqual([0, run.stdout]);
  expect(again.stderr).not.toMatch(/^step/m);
  expect(again.stderr).toMatch(/all 3 steps are done already .* raise steps or stopAt/);
});

const stepsIn = (text: string): number => text.match(/^step \d+\//gm)?.length ?? 0;

/** Sends a signal after the second step; to a process of its own, or to the listener of the command in this one. */
async function interrupted(signal: NodeJS.Signals, own: boolean): Promise<CliResult> {
  const args = command(signal, "stage1", "batch=4", "steps=1000", "report.every=0");
  const signals = new EventEmitter();
  const { child, result } = own ? startCli(args) : { child: null, result: runHere(addTrain, args, { signals }) };
  const log = at(signal, "log.jsonl");
  const wait = setInterval(() => {
    if (!existsSync(log) || readFileSync(log, "utf8").split("\n").length <= 2) return;
    clearInterval(wait);
    if (child) child.kill(signal);
    else signals.emit(signal);
  }, 10);
  return result.finally(() => clearInterval(wait));
}

it.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGUSR1", 138],
] as const)("%s ends the step, saves, and ends with %i", async (signal, code) => {
  const stopped = await interrupted(signal, isLong || signal === "SIGINT");
  expect(stopped.code, stopped.stderr).toBe(code);
  const steps = stepsIn(stopped.stderr);
  expect(steps).toBeGreaterThanOrEqual(2);
  expect(await newest(signal)).toBe(steps);
  expect(stopped.stdout).toBe(`${new Checkpoints(at(signal)).folder(steps)}\n`);
  expect(stopped.stderr).toMatch(new RegExp(`stopped after ${steps} of 1,000 steps`));
});

it("a second signal ends the process at once; what was saved before is whole, and the run resumes from it", async () => {
  const typed = command("twice", "stage2", "batch=24", "steps=1000", "save.every=1", "report.every=0"); // steps of many rows
  const { child, result } = startCli(typed);
  const wait = setInterval(() => {
    if (existsSync(at("twice", "step-00000001"))) child.kill("SIGTERM");
  }, 60); // signals in less than 100 ms count as one
  const stopped = await result;
  clearInterval(wait);
  expect([stopped.code, stopped.stdout], stopped.stderr).toEqual([143, ""]);
  expect(stopped.stderr).not.toMatch(/stopped after/);
  const saved = (await newest("twice"))!;
  expect(saved).toBeGreaterThanOrEqual(1);
  const resumed = await runHere(addTrain, [...typed, `stopAt=${saved + 1}`]);
  expect(resumed.code, resumed.stderr).toBe(0);
  expect(await newest("twice")).toBe(saved + 1);
});

it("a signal before the first step leaves without a checkpoint", async () => {
  const { child, result } = startCli(command("early", "stage1", "batch=4"));
  const wait = setInterval(() => {
    if (!existsSync(at("early"))) return;
    clearInterval(wait);
    child.kill("SIGTERM"); // the model is being loaded
  }, 5);
  const stopped = await result;
  expect(stopped.code, stopped.stderr).toBe(143);
  expect(stepsIn(stopped.stderr)).toBe(0);
  expect(await newest("early")).toBeUndefined();
});
