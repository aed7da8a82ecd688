/** The settings of training: presets equal to the published recipe, changes on top, refusals with paths and suggestions. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { TrainConfigError, checkConfig, checkTokenizerConfig, learningRate } from "../../train/config.ts";
import { PRESETS, loadAnyConfig, loadConfig, readSettings } from "../../train/node/settings.ts";
import { trainTokenizer } from "../../train/node/stage0/train.ts";
import { train } from "../../train/node/train.ts";
import { VqTraining } from "../../train/stage0/trainer.ts";
import { Trainer } from "../../train/trainer.ts";

describe("presets", () => {
  it("are the recipe of the report", () => {
    const [one, two, three, large] = PRESETS.filter((preset) => preset !== "stage0").map((preset) =>
      loadConfig(preset),
    );
    expect(large).toEqual({ ...three, steps: 40_000 });
    const published = [one, two, three].map((c) => [
      c!.stage,
      c!.optimizer.lr,
      c!.optimizer.warmup,
      c!.batch,
      Object.values(c!.ratios),
      c!.steps,
      c!.stopAt,
    ]);
    expect(published).toEqual([
      [1, 1e-3, 600, 256, [1, 0, 3], 20_000, undefined],
      [2, 1e-4, 5000, 512, [2, 3, 5], 360_000, 270_000],
      [3, 4e-5, 0, 128, [5, 1, 4], 80_000, undefined],
    ]);
    for (const c of [one, two, three])
      expect(c!.optimizer).toMatchObject({ beta1: 0.9, beta2: 0.95, weightDecay: 0, clip: 1 });
  });

  it("of the image tokenizer are LlamaGen's recipe, and settings of their own", () => {
    expect(loadAnyConfig("stage0")).toMatchObject({
      stage: 0,
      batch: 128,
      commitment: 0.25,
      rateWeight: 0,
      optimizer: { lr: 1e-4, warmup: 0, cooldown: 0, beta1: 0.9, beta2: 0.95, weightDecay: 0, clip: 1 },
      dtype: "f32",
    });
    expect(loadAnyConfig("stage3")).toEqual(loadConfig("stage3"));
    expect(() => loadAnyConfig("stage0", ["lenght=3", "reseed.evry=1", "dtype=bf16"])).toThrow(
      /reseed\.evry is not known; did you mean every\?[^]*lenght is not known/,
    );
    expect(() => loadAnyConfig("stage0", ["dtype=bf16"])).toThrow(/dtype: f32; the image tokenizer trains in no other/);
    expect(() => loadConfig("stage0")).toThrow(/stage: 1, 2 or 3; stage 0, the image tokenizer, has separate settings/);
    expect(() => checkTokenizerConfig({ ...loadAnyConfig("stage0"), stage: 1 })).toThrow(TrainConfigError);
    const judged = (steps: number): unknown => checkTokenizerConfig({ ...loadAnyConfig("stage0"), steps, adversarial: { weight: 0.5 } }); // prettier-ignore
    expect(judged(20_001)).toMatchObject({ adversarial: { weight: 0.5, from: 20_000 } });
    expect(() => judged(20_000)).toThrow(/adversarial\.from: the discriminator would never begin/);
  });

  it("warm up linearly, then stay", () => {
    const config = loadConfig("stage1");
    expect([0, 299, 599, 600, 19_999].map((step) => learningRate(config, step))).toEqual([
      1e-3 / 600,
      0.5e-3,
      1e-3,
      1e-3,
      1e-3,
    ]);
    expect(learningRate(loadConfig("stage3"), 0)).toBe(4e-5);
  });

  it("cool down over the last steps where that is asked for", () => {
    const config = loadConfig("stage3", ["steps=10", "optimizer.lr=1", "optimizer.cooldown=3"]);
    expect([0, 6, 7, 8, 9].map((step) => learningRate(config, step))).toEqual([1, 1, 0.75, 0.5, 0.25]);
    const both = loadConfig("stage3", ["steps=4", "optimizer.lr=1", "optimizer.warmup=4", "optimizer.cooldown=1"]);
    expect([0, 1, 2, 3].map((step) => learningRate(both, step))).toEqual([0.25, 0.5, 0.75, 0.5]);
  });
});

describe("changes", () => {
  it("go on top by path", () => {
    const config = loadConfig("stage3", [
      "optimizer.lr=2e-5",
      "ratios.text=0",
      "recompute=true",
      "save.every=10",
      "dtype=bf16",
    ]);
    expect([
      config.optimizer.lr,
      config.optimizer.beta2,
      config.ratios,
      config.recompute,
      config.save,
      config.dtype,
    ]).toEqual([2e-5, 0.95, { und: 5, text: 0, gen: 4 }, true, { every: 10, keep: 2 }, "bf16"]);
    expect(loadConfig("stage3").optimizer.lr).toBe(4e-5);
    expect(loadConfig("stage2", ["steps=3"])).toMatchObject({ steps: 3, stopAt: 270_000 });
  });

  const refused: [string, string[], RegExp][] = [
    ["a loss scale below 1", ["lossScaling.initScale=0.5"], /lossScaling\.initScale: /],
    ["a loss scale that f32 does not hold", ["lossScaling.initScale=1e39"], /lossScaling\.initScale: /],
    ["an epsilon that is 0 in f32", ["optimizer.epsilon=1e-50"], /optimizer\.epsilon: /],
    ["an average that never moves", ["ema.decay=1"], /ema\.decay: /],
    ["an unknown key at the top", ["optimiser.lr=1"], /optimiser is not known; did you mean optimizer\?/],
    ["an unknown key below", ["optimizer.learningrate=1"], /optimizer\.learningrate is not known; known: lr, warmup/],
    ["a key nearly right", ["save.evry=1"], /save\.evry is not known; did you mean every\?/],
    ["a wrong type", ["optimizer.lr=fast"], /optimizer\.lr: .*number/],
    ["a number out of range", ["optimizer.beta1=1"], /optimizer\.beta1: /],
    ["a momentum without Muon", ["optimizer.momentum=0.9"], /optimizer\.momentum: is Muon's.*optimizer\.muon=true/],
    ["a row that no array holds", ["length=1e12"], /length: /],
    ["half a row", ["microRows=1.5"], /microRows: /],
    ["a stage that is none", ["stage=4"], /stage: /],
    ["no task", ["ratios.und=0", "ratios.text=0", "ratios.gen=0"], /ratios: at least one/],
    ["no equals sign", ["optimizer.lr"], /write key=value/],
    ["a stage that learns nothing", ["stage=1", "ratios.und=0", "ratios.gen=0"], /ratios: stage 1 learns nothing/],
    ["keys below a value", ["steps.x=1"], /steps is a value/],
    [
      "a value that is no YAML",
      ["report.prompts=[a corgi"],
      /^--set report\.prompts=\[a corgi: the value is not YAML: /,
    ],
  ];
  it.each(refused)("%s is refused with its path", (_, changes, message) => {
    expect(() => loadConfig("stage3", changes)).toThrow(TrainConfigError);
    expect(() => loadConfig("stage3", changes)).toThrow(message);
  });

  it("all problems are named at once; a file that is none and one that is no YAML are refused", () => {
    expect(() => checkConfig({ stage: 3, batch: 0, lenght: 16 })).toThrow(
      /batch: [^]*lenght is not known; did you mean length\?/,
    );
    expect(() => loadConfig("stage9")).toThrow(
      /stage9 is neither a preset \(stage0, stage1, stage2, stage3, stage3-7b, dpo, grpo\) nor a file/,
    );
    expect(() => checkConfig("x")).toThrow(TrainConfigError);
  });

  it("a YAML file in another encoding is named", () => {
    const folder = mkdtempSync(join(tmpdir(), "janus-yaml-"));
    const settings = (content: Uint8Array): unknown => {
      writeFileSync(join(folder, "a.yaml"), content);
      return readSettings(join(folder, "a.yaml"));
    };
    expect(settings(Buffer.from("\ufeffstage: 3\n"))).toEqual({ stage: 3 });
    expect(() => settings(Buffer.from("\ufeffstage: 3\n", "utf16le"))).toThrow(
      /a\.yaml is text in UTF-16; save it as UTF-8/,
    );
    expect(() => settings(Uint8Array.of(0x61, 0xe9, 0x0a))).toThrow(/a\.yaml is not text in UTF-8; save it so/);
    rmSync(folder, { recursive: true });
  });

  it("trainers and runs refuse settings and options that they do not know before they touch a model", async () => {
    const config = { ...loadConfig("stage3"), weight_decay: 0.1 };
    expect(() => new Trainer(null as never, null as never, config, 0)).toThrow(/Trainer: 1 problem:\s+weight_decay is/);
    expect(() => new VqTraining(null as never, { lr: 1, comitment: 1 } as never)).toThrow(/Did you mean commitment/);
    await expect(train({ onstep: () => 0 } as never)).rejects.toThrow(/train: .*got onstep. Did you mean onStep/);
    await expect(trainTokenizer({ ceiling: 1 } as never)).rejects.toThrow(/trainTokenizer: .*got ceiling/);
  });
});
