/** A training run as a whole: from files to a checkpoint that is a model, stopped and gone on with bit for bit, refused when it is another run. */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { ArgumentError, Device, setDevice } from "../../index.ts";
import { castFloats } from "../../model/checkpoint/cast.ts";
import { openCheckpoint } from "../../model/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/checkpoint/checkpoint.ts";
import { readSafetensors } from "../../model/checkpoint/safetensors.ts";
import { folderSource, openFile } from "../../model/node/files.ts";
import { Janus, encodePng } from "../../model/node/index.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { RunLockedError } from "../../train/run/errors.ts";
import { RunFolder } from "../../train/run/run_folder.ts";
import { TrainingError, train } from "../../train/train.ts";
import type { RunOptions, RunResult } from "../../train/train.ts";
import { TRAINED } from "../../train/stages.ts";
import type { StepReport } from "../../train/trainer.ts";
import { runCli } from "../cli.ts";
import { errorOf } from "../gpu.ts";

const home = mkdtempSync(join(tmpdir(), "janus-train-"));
const at = (...names: string[]): string => join(home, ...names);
let device: Device;

beforeAll(async () => {
  device = await Device.create();
  setDevice(device);
  await newCheckpoint(at("model"), { device, texts: ["a red square. what colour is it? red. blue green"] });
  mkdirSync(at("data"));
  const colours = { red: [220, 30, 30], green: [30, 200, 40], blue: [40, 60, 220] };
  const [und, gen, text]: [object[], object[], object[]] = [[], [], []];
  for (const [name, rgb] of Object.entries(colours))
    for (let k = 0; k < 3; k++) {
      const side = 40 + 12 * k;
      const data = Uint8Array.from({ length: 3 * side * side }, (_, i) => rgb[i % 3]! + ((i * 7 + k) % 9));
      writeFileSync(at("data", `${name}${k}.png`), await encodePng({ width: side, height: side, data }));
      und.push({
        messages: [
          {
            role: "user",
            content: [
              { type: "image_url", image_url: { url: `${name}${k}.png` } },
              { type: "text", text: "what colour is it?" },
            ],
          },
          { role: "assistant", content: name },
        ],
      });
      gen.push({ prompt: `a ${name} square`, image: `${name}${k}.png` });
      text.push({ text: `${name} is a colour, number ${k}.` });
    }
  for (const [name, rows] of Object.entries({ und, gen, text }))
    writeFileSync(at("data", `${name}.jsonl`), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  writeFileSync(
    at("data", "gen.jsonl"),
    `${readFileSync(at("data", "gen.jsonl"), "utf8")}{"prompt": "nothing", "image": "missing.png"}\n`,
  );
});
afterAll(() => {
  device.destroy();
  rmSync(home, { recursive: true, force: true });
});

const settings = (more: Record<string, unknown> = {}): TrainConfig =>
  checkConfig({
    stage: 2,
    batch: 6,
    length: 400,
    steps: 6,
    ratios: { und: 2, text: 1, gen: 3 },
    optimizer: { lr: 1e-3, warmup: 4 },
    save: { every: 100, keep: 5 },
    ...more,
  });

const go = (run: string, config: TrainConfig, more: Partial<RunOptions> = {}): Promise<RunResult> =>
  train({
    model: at("model"),
    run: at(run),
    config,
    sources: ["und", "text", "gen"].map((task) => ({ path: at("data", `${task}.jsonl`) })),
    cache: at("cache"),
    device,
    ...more,
  });

type Logged = Omit<StepReport, "ms" | "waitingMs"> & { readonly loss: number | null };

const losses = (run: string): Logged[] =>
  readFileSync(at(run, "log.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const { ms: _, waitingMs: __, ...rest } = JSON.parse(line) as Logged & { ms: number; waitingMs: number };
      return rest;
    });

it.each([
  [1, 1, false, "bf16", { ema: { decay: 0.9 } }],
  [2, 4, true, "f16", { ema: { decay: 0.9 }, lossScaling: { initScale: 2 ** 64, growthInterval: 2 } }],
  [3, 2, false, "f32", {}],
] as const)(
  "6 steps are 3 and, after a stop, 3 more: weights, moments and losses bit for bit (stage %i, %i rows at once, recomputed: %s, %s)",
  async (stage, microRows, recompute, dtype, more) => {
    const config = settings({ stage, microRows, recompute, dtype, ...more });
    const straight = await go(`straight${stage}`, config);
    expect([straight.steps, straight.stopped]).toEqual([6, false]);
    const stop = new AbortController();
    const broken = await go(`broken${stage}`, config, {
      stop: stop.signal,
      onStep: ({ step }) => step === 2 && stop.abort(),
    });
    expect([broken.steps, broken.stopped]).toEqual([3, true]);
    const resumed = await go(`broken${stage}`, config);
    expect([resumed.steps, resumed.stopped]).toEqual([6, false]);
    const files = readdirSync(straight.checkpoint).sort();
    expect(files).toEqual(readdirSync(resumed.checkpoint).sort());
    expect(files).toEqual(
      expect.arrayContaining([
        "MANIFEST.json",
        "config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
        ...("ema" in more ? ["ema.safetensors"] : []),
      ]),
    );
    for (const name of files)
      expect(
        Buffer.compare(readFileSync(join(straight.checkpoint, name)), readFileSync(join(resumed.checkpoint, name))),
        name,
      ).toBe(0);
    expect(losses(`broken${stage}`)).toEqual(losses(`straight${stage}`));
    // The scale moved before and after the stop.
    const scales = losses(`straight${stage}`).map(({ lossScale }) => lossScale);
    const [before, after] = [scales.slice(0, 3), scales.slice(3)].map((some) => new Set(some).size);
    expect([before! > 1, after! > 1]).toEqual([dtype === "f16", dtype === "f16"]);
    expect(readFileSync(at(`straight${stage}`, "quarantine.jsonl"), "utf8")).toMatch(/missing\.png/);
  },
);

it("a checkpoint is a model; another run's settings, and a second trainer, are refused", async () => {
  const config = settings({ steps: 2 });
  const { checkpoint } = await go("short", config);
  const live = device.pool.stats.liveBytes;
  const janus = await Janus.fromPretrained(checkpoint);
  expect((await janus.generate("a red square", { seed: 1 }).images())[0]!.tokenIds).toHaveLength(64);
  janus.dispose();
  const error = await errorOf(() => go("short", settings({ steps: 4, optimizer: { lr: 1e-4, warmup: 4 } })));
  expect(error).toBeInstanceOf(ArgumentError);
  expect(error.message).toMatch(/other settings \(optimizer\)/);
  const held = await RunFolder.open(at("short"));
  expect(await errorOf(() => go("short", config))).toBeInstanceOf(RunLockedError);
  await held.close();
  expect((await go("short", settings({ steps: 3 }))).steps).toBe(3); // more steps are no other settings
  expect(device.pool.stats.liveBytes, device.pool.table()).toBe(live);
});

it("three steps in a row whose loss is not finite end the run, each with a notice; the weights are those before them", async () => {
  const notices: string[] = [];
  const wild = settings({ optimizer: { lr: 1e38 }, save: { every: 1, keep: 9 } });
  const error = await errorOf(() => go("wild", wild, { onNotice: (message) => notices.push(message) }));
  expect(error).toBeInstanceOf(TrainingError);
  expect(error.message).toMatch(
    /^step 4: the loss of und, text, gen was not finite \(.*und\.jsonl:\d+.*\).*; 3 steps in a row: the run ends/,
  );
  expect(notices.map((notice) => notice.split(" (")[0])).toEqual(
    [2, 3, 4].map((k) => `step ${k}: the loss of und, text, gen was not finite`),
  );
  const logged = losses("wild");
  expect(logged.map(({ skipped }) => skipped)).toEqual([false, true, true, true]);
  expect(logged[1]!.notFinite!.samples).toHaveLength(6);
  expect(logged[1]!.notFinite!.tasks).toEqual(["und", "text", "gen"]);
  const saved = [1, 3].map((step) => readFileSync(at("wild", `step-0000000${step}`, "model.safetensors")));
  expect(Buffer.compare(saved[0]!, saved[1]!)).toBe(0);
});

it("f16 looks for its loss scale without ending the run, until there is none left to try", async () => {
  const search = (initScale: number): TrainConfig =>
    settings({ dtype: "f16", steps: 5, lossScaling: { initScale }, stage: 1 });
  expect((await go("search", search(2 ** 100))).steps).toBe(5);
  expect(losses("search").map(({ skipped, lossScale }) => [skipped, lossScale])).toEqual(
    [99, 98, 97, 96, 95].map((power) => [true, 2 ** power]),
  );
});

it("averages of the weights are exported in their place", async () => {
  const config = settings({ stage: 1, steps: 3, dtype: "bf16", ema: { decay: 0.5 } });
  const { checkpoint } = await go("averaged", config);
  const [last, averages] = [await openCheckpoint(folderSource(checkpoint)), await openCheckpoint(folderSource(checkpoint), { ema: true })]; // prettier-ignore
  const { tensors } = await readSafetensors(await openFile(join(checkpoint, "ema.safetensors")));
  const [trained, rest] = [[...tensors.keys()], [...last.tensors.keys()].filter((name) => !tensors.has(name))];
  expect(trained.every((name) => TRAINED[1].some((prefix) => name.startsWith(prefix)))).toBe(true);
  const result = await runCli(["ckpt", "export", at("averaged"), "3", at("averages"), "--ema", "--layout", "deepseek"]);
  expect(result).toMatchObject({ code: 0 });
  const exported = await openCheckpoint(folderSource(at("averages")));
  const bytes = (of: Checkpoint, name: string): Promise<Uint8Array> => of.read(of.parameters.get(name)!);
  for (const name of rest) expect(await bytes(exported, name), name).toEqual(await bytes(last, name));
  let moved = 0;
  for (const name of trained) {
    expect(exported.parameters.get(name)!.dtype).toBe("bf16");
    const average = castFloats(await bytes(averages, name), "f32", "bf16", name);
    expect(await bytes(exported, name), name).toEqual(average);
    moved += Number(Buffer.compare(average, await bytes(last, name)) !== 0);
  }
  expect(moved).toBeGreaterThan(trained.length / 2);
  for (const open of [last, averages, exported]) await open.close();
  const plain = await runCli(["ckpt", "export", at("search"), "5", at("none"), "--ema"]);
  expect([plain.code, plain.stderr]).toEqual([3, expect.stringMatching(/no ema\.safetensors; train with ema\.decay/)]);
});

it("the loss falls", async () => {
  await go("long", settings({ steps: 30, optimizer: { lr: 3e-3, warmup: 3 }, microRows: 4 }));
  const curve = losses("long") as { loss: number }[];
  expect(curve.at(-1)!.loss).toBeLessThan(curve[0]!.loss * 0.7);
});
