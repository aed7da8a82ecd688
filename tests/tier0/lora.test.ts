/** Adapters without a GPU: which layers are meant, names, switching, merging, what is refused; PEFT's settings. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArgumentError, Device, F, nn, setDevice } from "../../index.ts";
import { ConfigError } from "../../model/io/errors.ts";
import { parseAdapterConfig } from "../../model/io/peft.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { isTarget, loraLayersOf } from "../../model/nn/lora.ts";
import { checkConfig } from "../../train/config.ts";
import { Trainer } from "../../train/trainer.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { SMALL } from "../small_model.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create({ backend: "null" });
  setDevice(device);
});
afterAll(() => device.destroy());

const net = (): nn.Sequential => new nn.Sequential(new nn.Linear(8, 12), new nn.ReLU(), new nn.Linear(12, 4));

describe("layers with adapters", () => {
  it("keep the names of their weights, and are called in the place of the layer", () => {
    const model = net();
    const before = Object.keys(model.stateDict());
    nn.addAdapter(model, "a", [["0", { rank: 2 }]]);
    expect(Object.keys(model.stateDict())).toEqual(expect.arrayContaining(before));
    expect(model.stateDict()["0.lora_A.a.weight"]!.shape).toEqual([2, 8]);
    expect(model.stateDict()["0.lora_B.a.weight"]!.shape).toEqual([12, 2]);
    expect(nn.adapterNames(model)).toEqual(["a"]);
    const labels = new Set<string>();
    device.onLaunch(({ label }) => void labels.add(label));
    model.call(F.zeros([1, 8]));
    expect([...labels].filter((label) => label.startsWith("0"))).toEqual(["0"]);
    nn.removeAdapters(model);
    expect(Object.keys(model.stateDict())).toEqual(before);
    expect(model[0]!.constructor).toBe(nn.Linear);
    model.dispose();
  });

  it("are switched by name, and an adapter of weight 0 costs no launch", () => {
    const model = net();
    const count = (): number => {
      const start = device.stats.launches;
      model.call(F.zeros([1, 8])).dispose();
      return device.stats.launches - start;
    };
    const plain = count();
    nn.addAdapter(model, "a", [["0", { rank: 2 }], ["2", { rank: 1 }]]); // prettier-ignore
    nn.addAdapter(model, "b", [["2", { rank: 3, alpha: 6 }]]);
    const both = count();
    nn.setAdapters(model, { b: 0.5 });
    expect(count()).toBeLessThan(both);
    nn.setAdapters(model, {});
    expect(count()).toBe(plain);
    expect(() => nn.setAdapters(model, { c: 1 })).toThrow(
      /every name must be one of an adapter of the model \(a, b\); got "c"/,
    );
    expect(() => nn.setAdapters(model, { a: NaN })).toThrow(ArgumentError);
    expect(() => nn.addAdapter(model, "a", [["2", { rank: 1 }]])).toThrow(
      /names of adapters must be unique; got "a" twice/,
    );
    expect(() => nn.addAdapter(model, "c", [["0", { rank: 1 }], ["1", { rank: 1 }]])).toThrow(/every path must be one of a linear layer; got "1"/); // prettier-ignore
    expect(nn.adapterNames(model)).toEqual(["a", "b"]);
    nn.removeAdapters(model, "a");
    expect([...loraLayersOf(model)].map(([path]) => path)).toEqual(["2"]);
    model.dispose();
  });

  it("refuse ranks, scales and names out of range, and layers with hooks", () => {
    const model = net();
    for (const options of [
      { rank: 0 },
      { rank: 1.5 },
      { rank: 1, alpha: 0 },
      { rank: 1, dropout: 1 },
      { rank: 1, r: 1 },
    ])
      expect(() => nn.addAdapter(model, "a", [["0", options]]), JSON.stringify(options)).toThrow(ArgumentError);
    for (const alpha of [1e300, NaN])
      expect(() => nn.addAdapter(model, "a", [["0", { rank: 1, alpha }]])).toThrow(/alpha must be a finite number/);
    const live = device.pool.stats.liveBytes;
    for (const name of ["", "a.b", "training"])
      expect(() => nn.addAdapter(model, name, [["0", { rank: 1 }]]), name).toThrow(ArgumentError);
    expect(() => nn.addAdapter(model, "a", [["0", { rank: 1 }], ["0", { rank: 2 }]])).toThrow(/every path must come once; got "0" twice/); // prettier-ignore
    expect([nn.adapterNames(model), device.pool.stats.liveBytes]).toEqual([[], live]);
    nn.addAdapter(model, "a", [["0", { rank: 1 }]]);
    expect(() => nn.setAdapters(model, { a: 1e300 })).toThrow(/must be a finite number; got 1e\+300 for "a"/);
    expect(() => nn.removeAdapters(model, "b")).toThrow(
      /every name must be one of an adapter of the model \(a\); got "b"/,
    );
    nn.removeAdapters(model);
    const handle = model[0]!.registerForwardHook(() => undefined);
    expect(() => nn.addAdapter(model, "a", [["0", { rank: 1 }]])).toThrow(/a layer must have no hooks/);
    handle.remove();
    const quantized = new nn.Sequential(new nn.QuantizedLinear(32, 8, "int4"));
    nn.addAdapter(quantized, "a", [["0", { rank: 1 }]]);
    expect(() => nn.mergeAdapters(quantized)).toThrow(/weights that are not quantised; got a quantised 0/);
    expect(nn.adapterNames(quantized)).toEqual(["a"]);
    const tied = createModel(tinyConfig({ ...SMALL, language: { ...SMALL.language, tied: true } }));
    nn.addAdapter(tied, "a", [["lm_head", { rank: 1 }]]);
    expect(() => nn.mergeAdapters(tied)).toThrow(/belong to one layer; got lm_head.weight, tied to .*embed_tokens/);
    for (const one of [model, quantized, tied]) one.dispose();
  });
});

it("a target means the end of a path, and * any characters", () => {
  const path = "model.language_model.layers.11.self_attn.q_proj";
  for (const pattern of ["q_proj", "self_attn.q_proj", "self_attn.*", "*", path, "layers.1*.q_proj"])
    expect(isTarget(path, pattern), pattern).toBe(true);
  for (const pattern of ["proj", "attn.q_proj", "q_pro", "self_attn", "layers.1.*", "q.proj"])
    expect(isTarget(path, pattern), pattern).toBe(false);
});

describe("training", () => {
  const CONFIG = tinyConfig(SMALL);
  const settings = (lora: object, more: object = {}): ReturnType<typeof checkConfig> =>
    checkConfig({
      stage: 2,
      batch: 1,
      length: 64,
      steps: 1,
      ratios: { und: 0, text: 1, gen: 0 },
      optimizer: { lr: 1e-3 },
      lora,
      ...more,
    });

  it("trains only the adapters of the stage's layers; frozen weights have no masters, moments and gradients", () => {
    const model = createModel(CONFIG, { dtype: "bf16" });
    const before = device.pool.stats.liveBytes;
    const trainer = new Trainer(model, CONFIG, settings({ rank: 2 }, { dtype: "bf16" }), 0);
    const paths = new Set([...trainer.trained.keys()].map((name) => name.replace(/\.lora_[AB]\.default\.weight$/, "")));
    expect([...paths].filter((path) => path.includes("vision_model") || path.includes("lm_head"))).toEqual([]);
    for (const path of [
      "model.aligner.fc1",
      "model.generation_aligner.hidden_layers.0",
      "model.generation_head.vision_head",
      "model.language_model.layers.1.mlp.down_proj",
    ])
      // prettier-ignore
      expect(paths).toContain(path);
    expect(trainer.trained.size).toBe(2 * paths.size);
    const numbers = [...trainer.trained.values()].reduce((sum, { size }) => sum + size, 0);
    expect(Object.keys(trainer.optimizer.stateDict()).some((name) => name.endsWith(".master"))).toBe(false);
    expect(device.pool.stats.liveBytes - before).toBeLessThan(12 * numbers + 12 * 1024 * paths.size);
    expect([...model.namedParameters()].filter(([, p]) => p.requiresGrad).map(([name]) => name).toSorted()).toEqual([...trainer.trained.keys()].toSorted()); // prettier-ignore
    trainer.dispose();
    model.dispose();
  });

  it("refuses targets that mean no layer of the stage, and Muon", () => {
    const model = new JanusForConditionalGeneration(CONFIG, { init: false });
    const wrong =
      (targets: string[]): (() => Trainer) =>
      () =>
        new Trainer(model, CONFIG, settings({ targets }), 0);
    expect(wrong(["q_pro"])).toThrow(
      /lora.targets: every target must mean a layer that trains; got "q_pro": it means no linear layer/,
    );
    expect(wrong(["lm_head"])).toThrow(/it means the text head/);
    expect(wrong(["model.vision_model.*"])).toThrow(/stage 2 does not train model.vision_model/);
    const width = CONFIG.language.hidden;
    const ranked = (rank: number) => new Trainer(model, CONFIG, settings({ targets: ["q_proj"], rank }), 0);
    expect(() => ranked(width + 1)).toThrow(new RegExp(`lora.rank: must be at most ${width}, .*; got ${width + 1}`));
    expect(nn.adapterNames(model)).toEqual([]);
    expect(() => settings({}, { optimizer: { lr: 1, muon: true } })).toThrow(/optimizer.muon: moves the matrices/);
    expect(() => new Trainer(model, CONFIG, settings({ quantize: "int4" }), 0)).toThrow(
      /lora.quantize: the model must be quantised as the setting says; got one that is not quantised for int4/,
    );
    expect(() => settings({}, { dtype: "bf16", optimizer: { lr: 1, moments: "int8", masters: "bf16" } })).toThrow(
      /optimizer.masters: bf16 needs .* no lora/,
    );
    expect(() => settings({ rnk: 1 })).toThrow(/lora.rnk is not known; did you mean rank/);
    nn.addAdapter(model, "other", [["lm_head", { rank: 1 }]]);
    for (const lora of [undefined, { rank: 1 }])
      expect(() => new Trainer(model, CONFIG, settings(lora as object), 0)).toThrow(/must have no adapters.*got other/);
    nn.removeAdapters(model);
    const trainer = new Trainer(model, CONFIG, settings({ targets: ["q_proj"], rank: 1 }), 0);
    expect(trainer.trained.size).toBe(2 * CONFIG.language.layers);
    trainer.dispose();
    model.dispose();
  });
});

describe("PEFT's settings", () => {
  const parse = (more: object): ReturnType<typeof parseAdapterConfig> =>
    parseAdapterConfig(
      new TextEncoder().encode(JSON.stringify({ peft_type: "LORA", r: 8, lora_alpha: 16, bias: "none", ...more })),
      "adapter_config.json",
    );

  it("are read, and those that are off do not matter", () => {
    const off = {
      modules_to_save: null,
      rank_pattern: {},
      fan_in_fan_out: false,
      layer_replication: [],
      new_setting: null,
    };
    expect(
      parse({
        ...off,
        use_rslora: true,
        lora_dropout: 0.1,
        base_model_name_or_path: "a/b",
        target_modules: ["q_proj"],
      }),
    ).toEqual({
      rank: 8,
      alpha: 16,
      dropout: 0.1,
      rslora: true,
      base: "a/b",
    });
  });

  it.each([
    [{ peft_type: "IA3" }, /peft_type must be "LORA"; got "IA3"/],
    [{ use_dora: true }, /use_dora must be empty; got true, which is not supported/],
    [{ modules_to_save: ["lm_head"] }, /modules_to_save must be empty/],
    [{ alpha_pattern: { q_proj: 0 } }, /alpha_pattern must be .* numbers above 0; got \{"q_proj":0\}/],
    [{ rank_pattern: { q_proj: 1.5 } }, /rank_pattern must be .* whole numbers of at least 1/],
    [{ rank_pattern: ["q_proj"] }, /rank_pattern must be/],
    [{ rank_pattern: { "(a+)+": 1 } }, /rank_pattern must be simple expressions/],
    [{ rank_pattern: { "(?<n": 1 } }, /rank_pattern must be simple expressions/],
    [{ lora_alpha: 1e300 }, /lora_alpha must be a number above 0/],
    [{ bias: "all" }, /bias must be "none"/],
    [{ init_lora_weights: "pissa" }, /init_lora_weights must be true; got "pissa"/],
    [{ r: 0 }, /r must be a whole number of at least 1/],
    [{ new_setting: 1 }, /new_setting must be empty; got 1/],
  ])("%j is refused by name", (more, message) => {
    expect(() => parse(more)).toThrow(ConfigError);
    expect(() => parse(more)).toThrow(message);
  });
});
