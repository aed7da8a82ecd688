/**
 * The training rows of `janus verify`: what is wrong in a golden folder, in the batch or in the trainer fails in its rows. That all of the
 * fixtures' values pass is verify.test.ts; other models and batches are training_golden_models.test.ts.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { BOUNDS } from "../../verify/compare.ts";
import type { Comparison } from "../../verify/compare.ts";
import { Golden } from "../../verify/file.ts";
import { GoldenInputs } from "../../verify/inputs.ts";
import { goldenBatches, separateRows } from "../../verify/train_batch.ts";
import { forward, read } from "../../verify/train_stage.ts";
import { noGrad, scope } from "../../index.ts";
import { castInto } from "../../kernels/index.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { imageTokens } from "../../model/janus/config.ts";
import type { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { loadModel } from "../../model/janus/load.ts";
import { folderSource } from "../../model/node/index.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import { TASKS, layRows } from "../../train/samples.ts";
import type { Sample } from "../../train/samples.ts";
import type { Stage } from "../../train/stages.ts";
import { tensorsOf, tinyFolder } from "../checkpoint/tiny.ts";
import type { Whole } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";
import { failures, folderOf, rowsOf, whole } from "../golden_training.ts";
import type { Json, Settings } from "../golden_training.ts";
import { useDevice } from "../gpu.ts";
import { isLong } from "../long.ts";

const floats = ({ data }: Whole): Float32Array => new Float32Array(data.buffer, data.byteOffset, data.length / 4);

describe.skipIf(!hasFixtures)("the fixtures' training", () => {
  const device = useDevice();
  const tiny = fileURLToPath(new URL("../", tinyFolder("hf")));
  const source = folderSource(fileURLToPath(tinyFolder("hf")));
  let all: Map<string, Whole>;
  let text: string;

  beforeAll(async () => {
    all = await tensorsOf(new Uint8Array(readFileSync(`${tiny}golden.safetensors`)));
    text = readFileSync(`${tiny}golden.json`, "utf8");
  });

  /** The rows of some stages after a change. */
  async function changed(
    stages: readonly Stage[],
    change: (json: Json, tensors: Map<string, Whole>) => void,
    spoil?: (model: JanusForConditionalGeneration) => void,
  ): Promise<Comparison[]> {
    const json = JSON.parse(text) as Json;
    for (const key of Object.keys(json.train)) if (!stages.some((s) => String(s) === key)) delete json.train[key];
    const tensors = new Map<string, Whole>();
    for (const [name, one] of all)
      if (name === "vision.pixels" || stages.some((s) => name.startsWith(`train${s}.`)))
        tensors.set(name, { ...one, data: one.data.slice() });
    change(json, tensors);
    return rowsOf(await folderOf(tensors, json), source, device, spoil);
  }

  it("the samples packed in one row, or otherwise: the same losses", async () => {
    const checkpoint = await openCheckpoint(source);
    const { config } = checkpoint;
    const processor = await readProcessor(source, config);
    await using golden = await Golden.open(folderSource(tiny));
    const inputs = new GoldenInputs(golden, config, processor);
    const [batch] = await goldenBatches(inputs);
    const [und, written, gen] = batch!.samples as [Sample, Sample, Sample];
    const model = await loadModel(checkpoint, { device: device(), dtype: "f32" });
    const lay = (samples: readonly (readonly Sample[])[], length: number): ReturnType<typeof layRows> =>
      layRows(samples, length, processor.tokenizer.specials.pad, imageTokens(config));
    const lossesOf = async (rows: ReturnType<typeof layRows>): Promise<number[]> => {
      const { all: total, tasks } = await read(
        noGrad(() => forward(model, rows, config.vision.imageSize)),
        rows,
      );
      return [total, ...TASKS.map((task) => tasks[task])];
    };
    const separate = separateRows(batch!, inputs);
    expect([separate.rows, separate.length]).toEqual([3, 84]);
    const expected = await lossesOf(separate);
    const step = (JSON.parse(text) as Json).train["1"]!.steps[0]!;
    for (const [i, loss] of [step.loss, ...TASKS.map((task) => step.per_task[task]!.loss)].entries())
      expect(Math.abs(expected[i]! - loss)).toBeLessThanOrEqual(BOUNDS.losses.maxAbs);
    const sum = und.ids.length + written.ids.length + gen.ids.length;
    for (const rows of [lay([[und, written, gen]], sum), lay([[gen, und], [written]], sum + 9)])
      for (const [i, loss] of (await lossesOf(rows)).entries())
        expect(Math.abs(loss - expected[i]!)).toBeLessThanOrEqual(1e-5);
    model.dispose();
    await checkpoint.close();
  });

  it("a wrong value fails in its own row", async () => {
    const rows = await changed([1, 3], (json, tensors) => {
      const at = (name: string): Float32Array => floats(tensors.get(name)!);
      const scale = (values: Float32Array, by: number): void => values.forEach((x, i) => (values[i] = x * by));
      scale(at("train1.grad.model.aligner.fc1.bias"), 1.0012);
      scale(at("train1.grad.model.generation_head.proj_out.bias"), 1.0008);
      at("train3.grad.model.vision_model.embeddings.patch_embedding.bias")[3] = NaN;
      at("train3.grad.model.vision_model.encoder.layers.0.self_attn.k_proj.bias")[3] = 1e-5;
      at("train1.after3.model.aligner.fc1.weight")[7]! += 0.003;
      const other = tensors.get("train1.grad.model.aligner.fc1.bias")!;
      for (const name of [
        "train1.grad.model.aligner.fc7.bias",
        "train1.grad.lm_head.weight",
        "train1.after0.model.aligner.fc1.bias",
        "train1.after4.model.aligner.fc1.bias",
        "train2.grad.model.aligner.fc1.bias",
      ])
        tensors.set(name, { ...other, name });
      const { 1: first, 3: third } = json.train as { 1: Settings; 3: Settings };
      first.steps[0]!.loss += 2.1e-4;
      first.steps[1]!.loss += 1.9e-4;
      first.steps[1]!.per_task["gen"]!.loss -= 2.1e-4;
      first.steps[2]!.per_task["und"]!.tokens++;
      first.steps[2]!.grad_norm *= 1.0011;
      first.steps[1]!.grad_norm *= 1.0009;
      first.steps[0]!.per_task["audio"] = { loss: 1, tokens: 2 };
      third.final_loss -= 2.1e-4;
      third.trainable.push("model.vqmodel.quantize.embedding.weight");
      third.trainable.shift();
      third.no_grad.push("lm_head.weight");
      third["riddle"] = 1;
    });
    expect(failures(rows).sort()).toEqual(
      [
        "train1.after0.model.aligner.fc1.bias",
        "train1.after3.model.aligner.fc1.weight",
        "train1.after4.model.aligner.fc1.bias",
        "train1.grad.lm_head.weight",
        "train1.grad.model.aligner.fc1.bias",
        "train1.grad.model.aligner.fc7.bias",
        "train1.grad_norm.step3",
        "train1.loss.gen.step2",
        "train1.loss.step1",
        "train1.per_task.audio.step1",
        "train1.tokens.und.step3",
        "train2.grad.model.aligner.fc1.bias",
        "train3.final_loss",
        "train3.grad.model.vision_model.embeddings.patch_embedding.bias",
        "train3.grad.model.vision_model.encoder.layers.0.self_attn.k_proj.bias",
        "train3.no_grad",
        "train3.trainable",
      ].sort(),
    );
    const note = (entry: string): string | undefined => rows.find((row) => row.entry === entry)!.note;
    expect(note("train1.grad.model.aligner.fc7.bias")).toBe("the model has no parameter model.aligner.fc7.bias");
    expect(note("train1.grad.lm_head.weight")).toBe("it is frozen in this stage");
    expect(note("train1.after4.model.aligner.fc1.bias")).toBe("golden.json has 3 steps, not 4");
    expect(note("train2.grad.model.aligner.fc1.bias")).toBe("cannot be computed: golden.json has no train.2");
    expect(note("train3.trainable")).toBe(
      `only in the file: model.vqmodel.quantize.embedding.weight; only computed: ${(JSON.parse(text) as Json).train["3"]!.trainable[0]}`,
    );
    expect(note("train3.grad.model.vision_model.encoder.layers.1.self_attn.k_proj.bias")).toMatch(/rounding/);
    expect(rows.find(({ entry }) => entry === "train3.riddle")).toMatchObject({ pass: null, note: "not known" });
    expect(rows).toHaveLength(43 + 111 + 4 + 1 + 2); // five tensors, one of stage 2; a task; a key
  });

  const AFTER = [
    "model.aligner.fc1.weight",
    "model.generation_head.vision_head.weight",
    "model.language_model.layers.0.self_attn.q_proj.weight",
  ].map((name) => `train2.after3.${name}`);
  const OTHERS: readonly [string, (stage: Settings) => void, readonly string[]][] = [
    ["β₂", (stage) => (stage.betas[1] = 0.999), ["train2.loss.step3"]],
    ["no clipping", (stage) => (stage.clip = null), []], // AdamW hardly sees a constant factor: only the parameters show it
    ["the learning rate", (stage) => (stage.lr *= 1.02), ["train2.loss.step2", "train2.final_loss"]],
    ["β₁", (stage) => (stage.betas[0] = 0.8), ["train2.loss.step3"]],
    ["ε", (stage) => (stage.eps = 1e-4), ["train2.loss.step2", "train2.final_loss"]],
    ["weight decay", (stage) => (stage.weight_decay = 10), ["train2.loss.step2", "train2.final_loss"]],
  ];
  it.each(isLong ? OTHERS : OTHERS.slice(0, 3))("another optimizer is noticed: %s", async (_, change, losses) => {
    const failing = failures(await changed([2], (json) => change(json.train["2"]!)));
    expect(failing).toEqual(expect.arrayContaining([...AFTER, ...losses]));
    expect(failing.filter((entry) => /\.grad\.|step1|trainable|no_grad|frozen|tokens/.test(entry))).toEqual([]);
  });

  it("another batch is noticed: a prompt that is trained, a picture's code, a token", async () => {
    const prompt = failures(
      await changed([1], ({ train_rows: rows }) => {
        for (const row of rows) if (row.task === "text") row.labels = [...row.input_ids];
      }),
    );
    for (const step of ["step1", "step2", "step3"])
      expect(prompt).toEqual(expect.arrayContaining([`train1.tokens.text.${step}`, `train1.loss.text.${step}`]));
    expect(prompt).not.toContain("train1.tokens.und.step1");
    const code = failures(
      await changed([1], ({ train_rows: rows }) => {
        const { labels } = rows.find(({ task }) => task === "gen")!;
        labels[0] = (labels[0]! + 1) % 256;
      }),
    );
    expect(code).toEqual(expect.arrayContaining(["train1.loss.gen.step1", "train1.loss.step1"]));
    expect(code.filter((entry) => /(und|text)\.step1/.test(entry))).toEqual([]);
  });

  it("a frozen parameter that changes by a bit is noticed; so is one that gets a gradient", async () => {
    const never = (): undefined => undefined;
    for (const grows of [false, true]) {
      const rows = await changed([1], never, (model) => {
        const hidden = model.hidden.bind(model);
        const { weight } = model.model.vqmodel.quantize.embedding;
        let steps = 0;
        model.hidden = (x, sequence) => {
          if (steps++ === 1)
            noGrad(() =>
              scope(() => {
                if (grows) weight.grad = weight.detach().mul(2).keep();
                else castInto(weight, weight.detach().mul(1 + 2 ** -23));
              }),
            );
          return hidden(x, sequence);
        };
      });
      expect(failures(rows)).toEqual(["train1.frozen"]);
      const row = rows.find(({ entry }) => entry === "train1.frozen")!;
      expect(row.note).toBe("frozen parameters have changed, or have a gradient");
      expect(Math.round((1 - row.equalShare!) * row.shape![0]!)).toBe(1);
    }
  });

  it.each<[string, (json: Json, tensors: Map<string, Whole>) => void, RegExp]>([
    ["no rows", (json) => delete (json as Partial<Json>).train_rows, /golden\.json has no train_rows/],
    ["an empty batch", (json) => (json.train_rows = []), /golden\.json has no train_rows/],
    [
      "no trained token",
      (json) =>
        (json.train_rows = json.train_rows
          .filter(({ task }) => task === "text")
          .map((row) => ({ ...row, labels: row.labels.map(() => -100) }))),
      /no token of train_rows is trained/,
    ],
    [
      "a token of no vocabulary",
      (json) => (json.train_rows[1]!.input_ids[2] = 1280),
      /train_rows\[1\]\.input_ids holds 1280; whole numbers from 0 to 1279$/,
    ],
    [
      "a code of no codebook",
      (json) => (json.train_rows[2]!.labels[2] = 256),
      /train_rows\[2\]\.labels holds 256; whole numbers from 0 to 255$/,
    ],
    ["labels that do not line up", (json) => json.train_rows[0]!.labels.pop(), /84 input_ids and 83 labels/],
    [
      "half a picture",
      (json) => json.train_rows[0]!.input_ids.splice(30, 1) && json.train_rows[0]!.labels.pop(),
      /63 image placeholders; an image takes 64/,
    ],
    [
      "one picture where the second is meant",
      (_, tensors) => tensors.set("vision.pixels", whole("vision.pixels", [1, 3, 64, 64], new Float32Array(12288))),
      /1 images from image 1 on; there are 1/,
    ],
    ["another stage", (json) => (json.train = { 4: json.train["1"]! }), /there is no stage 4/],
    ["a rate below 0", (json) => (json.train["1"]!.lr = -1), /lr must be a finite number of at least 0; got -1/],
  ])("%s: all rows fail and say why", async (_, change, message) => {
    const rows = await changed([1], (json, tensors) => {
      for (const name of tensors.keys()) if (name.startsWith("train")) tensors.delete(name);
      change(json, tensors);
    });
    expect(rows.length).toBe(28);
    expect(failures(rows)).toHaveLength(28);
    for (const { note } of rows) expect(note).toMatch(message);
  });
});
