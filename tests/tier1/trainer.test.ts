/** The step of the trainer: what it must not depend on (accumulation, packing, recomputation), what it must not change, the position at which losses begin. */
import { afterEach, describe, expect, it } from "vitest";
import {
  ArgumentError,
  Device,
  backward,
  getDevice,
  manualSeed,
  noGrad,
  scope,
  setDevice,
  zeroGradients,
} from "../../index.ts";
import { imageTokens } from "../../model/janus/config.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import type { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { hiddenStates, taskLosses, totalLoss } from "../../train/loss.ts";
import { imageSample, layRows, packSamples, textSample, trainedTokens } from "../../train/samples.ts";
import type { Sample } from "../../train/samples.ts";
import { STAGES, TRAINED, setStage } from "../../train/stages.ts";
import { Trainer } from "../../train/trainer.ts";
import type { StepReport } from "../../train/step_report.ts";
import type { Launch } from "../../engine/types.ts";
import { Injected, injecting, spread } from "../failures.ts";
import { fill } from "../fixtures.ts";
import { useDevice } from "../gpu.ts";
import { round } from "../harness.ts";
import { limitMemory } from "../limited_memory.ts";
import { isLong } from "../long.ts";
import { SMALL } from "../small_model.ts";

useDevice();

const PLACEHOLDER = 691;
const PAD = 690;
const CONFIG = tinyConfig(SMALL);
const SIDE = CONFIG.vision.imageSize;
const TOKENS = imageTokens(CONFIG);
/** Tokens in a row. */
const ROW = 120;
/** Tensors that stage 3 trains. */
const PARAMETERS = 55;
const whole = (name: string, count: number, most: number): number[] =>
  Array.from(fill(name, count), (r) => Math.floor(((r + 1) / 2) * most));

/** Samples of unequal lengths: answers about one and two images, texts, pictures with and without their condition. */
function someSamples(): Sample[] {
  const und = (name: string, images: number, answer: number): Sample => {
    const ids = [
      688,
      ...Array.from({ length: images }, () => [692, ...new Array<number>(TOKENS).fill(PLACEHOLDER), 693]).flat(),
      ...whole(name, answer + 3, 600),
    ];
    const labels = ids.map((id, i) => (i >= ids.length - answer ? id : -100));
    return textSample(
      "und",
      ids,
      labels,
      Array.from({ length: images }, (_, k) => Float32Array.from(fill(`${name} image ${k}`, 3 * SIDE * SIDE))),
      PLACEHOLDER,
      name,
    );
  };
  const text = (name: string, length: number): Sample => {
    const ids = [688, ...whole(name, length, 600), 689];
    return textSample("text", ids, ids, [], -1, name);
  };
  const gen = (name: string, length: number, drop: number | null): Sample =>
    imageSample([688, ...whole(name, length, 600), 692], whole(`${name} codes`, TOKENS, CONFIG.vq.codes), drop, name);
  return [
    und("a", 1, 5),
    text("b", 30),
    gen("c", 9, null),
    gen("d", 4, PAD),
    text("e", 7),
    und("f", 2, 30),
    gen("g", 20, null),
    text("h", 61),
  ];
}

const settings = (more: Record<string, unknown> = {}): TrainConfig =>
  checkConfig({
    stage: 3,
    batch: 8,
    length: ROW,
    steps: 100,
    ratios: { und: 1, text: 1, gen: 1 },
    optimizer: { lr: 1e-3 },
    ...more,
  });

let models: JanusForConditionalGeneration[] = [];
let trainers: Trainer[] = [];
afterEach(() => {
  for (const trainer of trainers) trainer.dispose();
  for (const model of models) model.dispose();
  [models, trainers] = [[], []];
});

function newTrainer(more: Record<string, unknown> = {}, seed = 3): Trainer {
  const config = settings(more);
  const model = createModel(CONFIG, { seed, dtype: config.dtype });
  models.push(model);
  const trainer = new Trainer(model, CONFIG, config, PAD);
  trainers.push(trainer);
  return trainer;
}

async function weightsOf(trainer: Trainer): Promise<Map<string, Float32Array>> {
  const weights = new Map<string, Float32Array>();
  for (const [name, parameter] of trainer.model.namedParameters())
    weights.set(name, (await parameter.data()) as Float32Array);
  return weights;
}

/** Names of what differs by a bit. */
const changed = (before: ReadonlyMap<string, Float32Array>, after: ReadonlyMap<string, Float32Array>): string[] =>
  [...before].flatMap(([name, { buffer }]) =>
    Buffer.compare(Buffer.from(buffer), Buffer.from(after.get(name)!.buffer)) === 0 ? [] : [name],
  );

/** Gradients of all samples in the given rows, rows going through the model `together` at a time. */
async function gradients(
  model: JanusForConditionalGeneration,
  rows: Sample[][],
  length: number,
  together: number,
): Promise<Map<string, Float32Array>> {
  const tokens = rows.flat().reduce((sum, sample) => sum + trainedTokens(sample), 0);
  const trained = setStage(model, 3);
  for (let r = 0; r < rows.length; r += together)
    scope(() =>
      backward(totalLoss(taskLosses(model, layRows(rows.slice(r, r + together), length, PAD, TOKENS), SIDE), tokens)!),
    );
  const found = new Map<string, Float32Array>();
  for (const [name, parameter] of trained)
    if (parameter.grad) found.set(name, (await parameter.grad.data()) as Float32Array);
  zeroGradients(trained.values());
  return found;
}

const norm = (values: ArrayLike<number>): number => Math.sqrt(Array.from(values).reduce((sum, v) => sum + v * v, 0));

/**
 * The largest difference over all tensors, relative to the tensor's norm or, if that is nothing but rounding (the biases of SigLIP's keys
 * cancel in the softmax), to a thousandth of the norm of all.
 */
function worst(a: ReadonlyMap<string, Float32Array>, b: ReadonlyMap<string, Float32Array>): number {
  expect([...a.keys()]).toEqual([...b.keys()]);
  const all = norm([...b.values()].map(norm));
  return Math.max(
    ...[...a].map(
      ([name, values]) => norm(values.map((v, i) => v - b.get(name)![i]!)) / Math.max(norm(b.get(name)!), all / 1000),
    ),
  );
}

it("logits of a sample are the same in a row with others and in a row alone", async () => {
  const model = createModel(CONFIG, { seed: 5 });
  models.push(model);
  const logits = async (row: Sample[]): Promise<Float32Array[]> => {
    const heads = noGrad(() =>
      scope(() => {
        const hidden = hiddenStates(model, layRows([row], ROW, PAD, TOKENS), SIDE);
        return [model.lm_head.call(hidden), model.codeLogits(hidden)];
      }),
    );
    const values = [(await heads[0]!.data()) as Float32Array, (await heads[1]!.data()) as Float32Array];
    for (const head of heads) head.dispose();
    return values;
  };
  let places = 0;
  for (const row of packSamples(someSamples(), ROW)) {
    const together = await logits(row);
    let from = 0;
    for (const sample of row) {
      const alone = await logits([sample]);
      const { length } = sample.ids;
      for (const [head, values] of alone.entries()) {
        const width = values.length / ROW;
        const own = values.subarray(0, length * width);
        const same = together[head]!.subarray(from * width, (from + length) * width);
        expect(norm(own.map((v, i) => v - same[i]!)) / norm(own), `${sample.name}, head ${head}`).toBeLessThan(1e-6);
      }
      from += length;
      places += length;
    }
  }
  expect(places).toBeGreaterThan(280);
});

describe("gradients", () => {
  const model = (): JanusForConditionalGeneration => {
    const made = createModel(CONFIG, { seed: 5 });
    models.push(made);
    return made;
  };

  it("are the same for 8 rows at once, 4, 2 and 1, and for samples packed into shared rows", async () => {
    const m = model();
    const samples = someSamples();
    const alone = samples.map((sample) => [sample]);
    const whole = await gradients(m, alone, ROW, 8);
    expect(whole.size).toBe(PARAMETERS);
    for (const together of [4, 2, 1])
      expect(worst(await gradients(m, alone, ROW, together), whole), `${together} at once`).toBeLessThan(1e-5);
    const packed = packSamples(samples, ROW);
    expect(packed.length).toBeLessThan(5);
    expect(worst(await gradients(m, packed, ROW, 2), whole), "packed").toBeLessThan(1e-5);
  });

  it("are bit-equal if layers are recomputed in backward", async () => {
    const m = model();
    const rows = packSamples(someSamples(), ROW);
    const kept = await gradients(m, rows, ROW, 2);
    m.model.language_model.recompute = true;
    m.model.vision_model.encoder.recompute = true;
    const anew = await gradients(m, rows, ROW, 2);
    for (const [name, values] of kept)
      expect(Buffer.compare(Buffer.from(values.buffer), Buffer.from(anew.get(name)!.buffer)), name).toBe(0);
  });
});

describe("a step", () => {
  it("changes what its stage trains and not a bit of anything else", async () => {
    for (const stage of STAGES) {
      const trainer = newTrainer({ stage });
      const before = await weightsOf(trainer);
      await trainer.take(someSamples());
      await trainer.take(someSamples());
      const after = await weightsOf(trainer);
      for (const [name, values] of before) {
        const isTrained = TRAINED[stage].some((prefix) => name.startsWith(prefix));
        const isSame = Buffer.compare(Buffer.from(values.buffer), Buffer.from(after.get(name)!.buffer)) === 0;
        expect(isSame, `stage ${stage}: ${name}`).toBe(!isTrained);
      }
    }
  });

  it("with Muon moves by it the matrices of the layers of the Llama, and of SigLIP if that trains, and nothing else", async () => {
    for (const stage of STAGES) {
      // That the momentum counts shows in the stage with the most matrices.
      const ways = [{}, { muon: true }, ...(isLong || stage === 3 ? [{ muon: true, momentum: 0.5 }] : [])];
      const steps = ways.map(async (more) => {
        const trainer = newTrainer({ stage, optimizer: { lr: 1e-3, ...more } });
        await trainer.take(someSamples());
        return { weights: await weightsOf(trainer), moments: Object.keys(trainer.optimizer.stateDict()) };
      });
      const [adamw, muon, slower] = await Promise.all(steps);
      for (const [name, values] of muon!.weights) {
        const isTrained = TRAINED[stage].some((prefix) => name.startsWith(prefix));
        const isMatrix = /\.layers\.\d+\..*(proj|fc\d|projection_layer)\.weight$/.test(name);
        const isMoved = isTrained && isMatrix;
        expect(muon!.moments.includes(`${name}.v`), name).toBe(isTrained && !isMatrix);
        for (const other of [adamw!, ...(slower ? [slower] : [])])
          expect(Buffer.compare(Buffer.from(values.buffer), Buffer.from(other.weights.get(name)!.buffer)) !== 0, name).toBe(isMoved); // prettier-ignore
      }
    }
  });

  it("of eight rows gives the same update for 1 row at once, 2, 4 and 8", async () => {
    const samples = [...someSamples(), ...someSamples(), ...someSamples()];
    expect(packSamples(samples, ROW)).toHaveLength(8);
    const updates: Map<string, Float32Array>[] = [];
    for (const microRows of [1, 2, 4, 8]) {
      // A large ε: else the update of a gradient that is nothing but rounding is as large as any. A large rate: else rounding of the weights shows.
      const trainer = newTrainer({ microRows, stage: 3, optimizer: { lr: 100, epsilon: 1, clip: 1e9 } });
      const before = await weightsOf(trainer);
      await trainer.take(samples);
      const after = await weightsOf(trainer);
      const moved = [...after].map(
        ([name, values]) => [name, values.map((v, i) => v - before.get(name)![i]!)] as const,
      );
      updates.push(new Map(moved.filter(([name]) => trainer.trained.has(name))));
    }
    for (const update of updates.slice(1)) expect(worst(update, updates[0]!)).toBeLessThan(1e-5);
  });

  it("begins at ln V of each head within 2 %", async () => {
    const { tasks } = await newTrainer().take(someSamples());
    const { vocabulary } = CONFIG.language;
    for (const task of ["und", "text"] as const)
      expect(Math.abs(tasks[task]!.loss / Math.log(vocabulary) - 1), task).toBeLessThan(0.02);
    expect(Math.abs(tasks.gen!.loss / Math.log(CONFIG.vq.codes) - 1)).toBeLessThan(0.02);
  });

  it("with a loss that is not finite changes nothing and names the task and the samples of its row", async () => {
    const trainer = newTrainer({ ema: { decay: 0.5 }, length: 72 });
    const samples = someSamples();
    const nothing = new Float32Array(3 * SIDE * SIDE).fill(NaN);
    const poisoned = samples.map((s) => (s.name === "f" ? { ...s, images: [s.images[0]!, nothing] } : s)); // 70 tokens, alone in its row
    const before = await weightsOf(trainer);
    const report = await trainer.take(poisoned);
    expect(report.skipped).toBe(true);
    expect(report.notFinite).toEqual({ tasks: ["und"], samples: ["f"] });
    expect([report.tasks.und!.loss, report.gradNorm]).toEqual([NaN, NaN]);
    expect(Number.isFinite(report.tasks.gen!.loss)).toBe(true);
    expect(changed(before, await weightsOf(trainer))).toEqual([]);
    for (const [name, average] of Object.entries(trainer.optimizer.averages()))
      expect(changed(new Map([[name, (await average.data()) as Float32Array]]), before)).toEqual([]);
    const next = await trainer.take(samples);
    expect([next.skipped, next.notFinite]).toEqual([false, undefined]);
  });

  it("with gradients alone that are not finite names all samples", async () => {
    const trainer = newTrainer({ dtype: "f16", lossScaling: { initScale: 2 ** 100 } });
    const before = await weightsOf(trainer);
    const report = await trainer.take(someSamples());
    expect(report.notFinite).toEqual({ tasks: [], samples: "abcdefgh".split("") });
    expect([report.lossScale, report.gradNorm]).toEqual([2 ** 99, NaN]);
    expect(Number.isFinite(report.loss)).toBe(true);
    expect(changed(before, await weightsOf(trainer))).toEqual([]);
  });

  it("of stage 1 with nothing but texts changes nothing, not even after a skipped one, and the next one trains", async () => {
    const trainer = newTrainer({ stage: 1 });
    const samples = someSamples();
    const poisoned = samples.map((s) => ({ ...s, images: s.images.map((pixels) => pixels.map(() => NaN)) }));
    expect((await trainer.take(poisoned)).skipped).toBe(true);
    const before = await weightsOf(trainer);
    const { step, gradNorm, skipped, tasks } = await trainer.take(samples.filter(({ task }) => task === "text"));
    expect([step, gradNorm, skipped, Object.keys(tasks)]).toEqual([1, 0, false, ["text"]]);
    expect(changed(before, await weightsOf(trainer))).toEqual([]);
    expect((await trainer.take(samples)).gradNorm).toBeGreaterThan(0);
    expect(trainer.skipped).toBe(1);
  });

  it("refuses a sample that is longer than a row before it computes", async () => {
    const trainer = newTrainer({ length: 60 });
    await expect(trainer.take(someSamples())).rejects.toThrow(/f has 70 tokens; at most 60 fit into a row/);
  });
});

describe("a step that is not finite says why:", () => {
  const poison = (trainer: Trainer, name: string, at: number, value: number): void =>
    trainer.model.stateDict()[name]!.writeBytes(new Uint8Array(Float32Array.of(value).buffer), 4 * at);

  it.each([
    ["a trained norm", ["model.language_model.layers.1.input_layernorm.weight"], 3, NaN],
    ["a frozen part and the head", ["model.vision_model.post_layernorm.bias", "lm_head.weight"], 1, Infinity],
  ] as const)("weights: %s", async (_, names, stage, value) => {
    const trainer = newTrainer({ stage });
    for (const name of names) poison(trainer, name, 5, value);
    const { skipped, cause } = await trainer.take(someSamples());
    const used = [...trainer.model.namedParameters()].filter(([name]) => !name.includes("vqmodel"));
    expect([skipped, cause]).toEqual([true, { kind: "weights", tensors: names, of: used.length }]);
  });

  it("images: pixels that are not finite; samples: pixels that overflow, in a row with others", async () => {
    const trainer = newTrainer();
    for (const [value, kind] of [
      [NaN, "images"],
      [-Infinity, "images"],
      [3e38, "samples"],
    ] as const) {
      const pixels = new Float32Array(3 * SIDE * SIDE).fill(value);
      const samples = someSamples().map((s) => (s.name === "a" ? { ...s, images: [pixels] } : s));
      const { cause } = await trainer.take(samples);
      expect(cause).toEqual({ kind, samples: ["a"] }); // though its neighbours in the row have no finite loss either
    }
    const again = await trainer.take(someSamples());
    expect([again.skipped, again.cause]).toEqual([false, undefined]);
  });

  it("gradients: with their names, or an overflow in f16", async () => {
    const trainer = newTrainer({ weights: { und: 1e38, text: 1e38, gen: 1e38 } });
    const { cause, tasks } = await trainer.take(someSamples());
    expect(Number.isFinite(tasks.und!.loss)).toBe(true);
    expect(cause).toEqual({ kind: "gradients", tensors: [], of: PARAMETERS }); // each is finite, their squares are not
    const last = trainer.model.stateDict()["model.generation_head.vision_head.weight"]!;
    const rows = Float32Array.from({ length: last.size }, (_, i) => (Math.floor(i / last.dim(1)) % 2 ? 1e4 : -1e4));
    last.writeBytes(new Uint8Array(rows.buffer)); // 1e4 · 1e38 in the gradient of what goes in
    const second = (await trainer.take(someSamples())).cause;
    if (second?.kind !== "gradients") return expect.fail(JSON.stringify(second));
    expect(second.tensors).toContain("model.generation_head.proj_out.weight");
    expect(second.tensors.length).toBeLessThan(PARAMETERS);
    expect([...trainer.trained.values()].every(({ grad }) => grad === null)).toBe(true);
    const f16 = newTrainer({ dtype: "f16", lossScaling: { initScale: 2 ** 100 } });
    expect((await f16.take(someSamples())).cause).toEqual({ kind: "overflow" });
  });

  it("nothing is looked for in a step that is finite, and looking leaves no gradient and no bytes", async () => {
    const trainer = newTrainer();
    const { device } = trainer.optimizer.state;
    const kernels: string[] = [];
    const listener = ({ pipeline }: Launch): void => void kernels.push(pipeline.kernel.name);
    device.onLaunch(listener);
    await trainer.take(someSamples());
    expect(kernels).not.toContain("count_nonfinite");
    const live = device.pool.stats.liveBytes;
    poison(trainer, "lm_head.weight", 0, NaN);
    await trainer.take(someSamples());
    device.offLaunch(listener);
    expect(kernels).toContain("count_nonfinite");
    expect(device.pool.stats.liveBytes).toBe(live);
  });
});

describe("a step that fails", () => {
  /** All that a step may change, by name. */
  const stateOf = async (trainer: Trainer): Promise<Map<string, Float32Array>> => {
    const all = await weightsOf(trainer);
    const { optimizer } = trainer;
    for (const [kind, tensors] of Object.entries({ optimizer: optimizer.stateDict(), ema: optimizer.averages() }))
      for (const [name, t] of Object.entries(tensors)) all.set(`${kind} ${name}`, (await t.data()) as Float32Array);
    return all;
  };
  const left = (trainer: Trainer): string[] =>
    [...trainer.model.namedParameters()].flatMap(([name, { grad }]) => (grad ? [name] : []));

  const failing: [string, Parameters<typeof newTrainer>[0]][] = [
    ["f16, Muon, recomputed", { dtype: "f16", optimizer: { lr: 1e-3, muon: true }, recompute: true, microRows: 2 }],
    ["f32, averages", { ema: { decay: 0.5 } }],
  ];
  it.each(isLong ? failing : failing.slice(0, 1))(
    "at any launch or allocation leaves everything as it was (%s)",
    async (_, more) => {
      const [clean, trainer] = [newTrainer(more), newTrainer(more)];
      for (const one of [clean, trainer]) await one.take(someSamples());
      const { device } = trainer.optimizer.state;
      const { counts } = await injecting(device, {}, () => clean.take(someSamples().reverse()));
      const before = await stateOf(trainer);
      const { lr } = trainer.optimizer;
      const live = device.pool.stats.liveBytes;
      for (const kind of ["launches", "allocations"] as const) {
        for (const at of spread(counts[kind], 5)) {
          await expect(injecting(device, { [kind]: at }, () => trainer.take(someSamples().reverse()))).rejects.toThrow(Injected); // prettier-ignore
          expect(left(trainer), `gradients after ${kind} ${at}`).toEqual([]);
          expect(device.pool.stats.liveBytes, `${kind} ${at}:\n${device.pool.table()}`).toBe(live);
          expect([trainer.step, trainer.skipped, trainer.optimizer.lr]).toEqual([1, 0, lr]);
        }
        expect(changed(before, await stateOf(trainer)), kind).toEqual([]);
      }
      await trainer.take(someSamples().reverse());
      expect(
        changed(await stateOf(clean), await stateOf(trainer)),
        "the next step is that of a run without failures",
      ).toEqual([]);
    },
  );

  it("for want of memory to read its losses leaves everything as it was", async () => {
    const shared = getDevice();
    const own = await Device.create({ memoryBudget: Infinity });
    setDevice(own);
    try {
      const trainer = newTrainer();
      await own.sync();
      const memory = limitMemory(own.gpu!, Infinity);
      const create = own.gpu!.createBuffer.bind(own.gpu!);
      own.gpu!.createBuffer = (descriptor) => {
        memory.limitBytes = descriptor.usage & GPUBufferUsage.MAP_READ ? 0 : Infinity;
        return create(descriptor);
      };
      await expect(trainer.take(someSamples())).rejects.toThrow(/^read-back: the GPU must have/);
      own.gpu!.createBuffer = create;
      memory.limitBytes = Infinity;
      own.pool.budget = Infinity;
      expect(changed(await weightsOf(newTrainer()), await weightsOf(trainer))).toEqual([]);
      expect((await trainer.take(someSamples())).step).toBe(0);
    } finally {
      for (const one of [...trainers.splice(0), ...models.splice(0)]) one.dispose();
      setDevice(shared);
      own.destroy();
    }
  });

  it("for an image of the wrong size computes nothing, and says which", async () => {
    const trainer = newTrainer();
    const samples = someSamples();
    const device = trainer.model.lm_head.weight.device;
    for (const length of [3 * SIDE * SIDE + 5, 3 * SIDE * SIDE - 1, 0]) {
      const bad = samples.map((s) => (s.name === "f" ? { ...s, images: [s.images[0]!, new Float32Array(length)] } : s));
      const launches = device.stats.launches;
      await expect(trainer.take(bad)).rejects.toThrow(ArgumentError);
      await expect(trainer.take(bad)).rejects.toThrow(new RegExp(`sample "f".*\\[3, 32, 32\\].*got ${length}`));
      expect(device.stats.launches).toBe(launches);
    }
  });
});

describe("in 16 bits", () => {
  const steps = async (trainer: Trainer, count: number): Promise<StepReport[]> => {
    const reports: StepReport[] = [];
    for (let k = 0; k < count; k++) reports.push(await trainer.take(someSamples()));
    return reports;
  };

  it.each(["bf16", "f16"])(
    "%s steps are those of f32 within its rounding; masters are f32 and weights their rounding",
    async (dtype) => {
      const [exact, rounded] = [newTrainer({ ema: { decay: 0.75 } }), newTrainer({ dtype, ema: { decay: 0.75 } })];
      const start = await weightsOf(exact);
      const [a, b] = [await steps(exact, 4), await steps(rounded, 4)];
      const bound = dtype === "bf16" ? 2 ** -8 : 2 ** -11;
      for (const [k, { loss, gradNorm, skipped, lossScale }] of b.entries()) {
        expect(skipped).toBe(false);
        expect(Math.abs(loss / a[k]!.loss - 1), `loss of step ${k}`).toBeLessThan(2 * bound);
        expect(Math.abs(gradNorm / a[k]!.gradNorm - 1), `norm of step ${k}`).toBeLessThan(16 * bound);
        expect(lossScale).toBe(dtype === "f16" ? 65536 : undefined);
      }
      const state = rounded.optimizer.stateDict();
      const averages = rounded.optimizer.averages();
      const weights = await weightsOf(rounded);
      const exactly = await weightsOf(exact);
      const way = (values: ReadonlyMap<string, ArrayLike<number>>): number =>
        norm([...values].flatMap(([name, v]) => Array.from(v, (x, i) => x - start.get(name)![i]!)));
      const masters = new Map<string, Float32Array>();
      for (const name of rounded.trained.keys()) {
        const master = (await state[`${name}.master`]!.data()) as Float32Array;
        masters.set(name, master);
        const expected = new Map([[name, master.map((x) => round(x, dtype as "bf16" | "f16"))]]);
        expect(changed(expected, weights)).toEqual([]);
        expect([state[`${name}.m`]!.dtype, state[`${name}.v`]!.dtype, averages[name]!.dtype]).toEqual([
          "f32",
          "f32",
          "f32",
        ]);
      }
      // AdamW's steps are of one length whatever the gradients: the way of all weights together, not of each.
      const trained = new Map([...exactly].filter(([name]) => masters.has(name)));
      expect(Math.abs(way(masters) / way(trained) - 1)).toBeLessThan(0.02);
    },
  );

  it("f16 learns with a scale that begins too high and that grows too high again", async () => {
    const high = newTrainer({ dtype: "f16", lossScaling: { initScale: 2 ** 66, growthInterval: 4 } });
    const reports = await steps(high, 20);
    const skipped = reports.map((report) => report.skipped);
    expect(skipped[0]).toBe(true);
    expect(skipped.lastIndexOf(true), "it grows into overflow again").toBeGreaterThan(skipped.indexOf(false));
    expect(reports.at(-1)!.loss).toBeLessThan(0.8 * reports[0]!.loss);
    expect((await high.optimizer.report()).step).toBe(skipped.filter((was) => !was).length);
  });
});

it("learns eight pictures by heart and draws them again token for token", async () => {
  manualSeed(1);
  const model = createModel(CONFIG, { seed: 2 });
  models.push(model);
  const trainer = new Trainer(
    model,
    CONFIG,
    settings({ stage: 2, length: 25, microRows: 8, optimizer: { lr: 3e-3, warmup: 10 } }),
    PAD,
  );
  trainers.push(trainer);
  const prompts = Array.from({ length: 8 }, (_, k) => [688, ...whole(`prompt ${k}`, 6, 600), 692]);
  const codes = prompts.map((_, k) => whole(`codes ${k}`, TOKENS, CONFIG.vq.codes));
  const samples = prompts.map((prompt, k) => imageSample(prompt, codes[k]!));
  let loss = Infinity;
  for (let step = 0; step < 150 && loss > 0.02; step++) ({ loss } = await trainer.take(samples));
  expect(loss).toBeLessThan(0.05);
  const { ImageGeneration } = await import("../../model/janus/generate_images.ts");
  const generation = new ImageGeneration(model, CONFIG, prompts, PAD, { temperature: 0, guidance: 1 });
  for await (const _ of generation.run());
  expect(await generation.codes()).toEqual(codes);
  generation.dispose();
});
