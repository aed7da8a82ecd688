/** A training run as a whole: from files to a checkpoint that is a model, stopped and gone on with bit for bit, refused when it is another run. */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { ArgumentError, Device, setDevice } from "../../index.ts";
import { Janus, encodePng } from "../../model/node/index.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { RunLockedError } from "../../train/run/errors.ts";
import { RunFolder } from "../../train/run/run_folder.ts";
import { train } from "../../train/train.ts";
import type { RunOptions, RunResult } from "../../train/train.ts";
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

const losses = (run: string): unknown[] =>
  readFileSync(at(run, "log.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const { ms: _, waitingMs: __, ...rest } = JSON.parse(line) as { ms: number; waitingMs: number };
      return rest;
    });

it.each([
  [1, 1, false],
  [2, 4, true],
  [3, 2, false],
] as const)(
  "6 steps are 3 and, after a stop, 3 more: weights, moments and losses bit for bit (stage %i, %i rows at once, recomputed: %s)",
  async (stage, microRows, recompute) => {
    const config = settings({ stage, microRows, recompute });
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
      ]),
    );
    for (const name of files)
      expect(
        Buffer.compare(readFileSync(join(straight.checkpoint, name)), readFileSync(join(resumed.checkpoint, name))),
        name,
      ).toBe(0);
    expect(losses(`broken${stage}`)).toEqual(losses(`straight${stage}`));
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

it("the loss falls", async () => {
  await go("long", settings({ steps: 30, optimizer: { lr: 3e-3, warmup: 3 }, microRows: 4 }));
  const curve = losses("long") as { loss: number }[];
  expect(curve.at(-1)!.loss).toBeLessThan(curve[0]!.loss * 0.7);
});
