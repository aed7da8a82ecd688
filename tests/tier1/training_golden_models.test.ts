/**
 * The training rows of `janus verify` for a model of other sizes, with golden folders that the project has made itself: several rows of a
 * task, other settings, batches that do not reach everything.
 */
import { beforeAll, describe, expect, it } from "vitest";
import type { Golden } from "../../verify/file.ts";
import { backward, scope, zeroGradients } from "../../index.ts";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import type { FileSource } from "../../model/io/bytes.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { imageTokens } from "../../model/janus/config.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { loadModel } from "../../model/janus/load.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import type { Processor } from "../../model/janus/processor.ts";
import { saveModel } from "../../model/janus/save.ts";
import { taskLosses, totalLoss } from "../../train/loss.ts";
import { AdamW } from "../../model/nn/optim/index.ts";
import { TASKS, imageSample, layRows, textSample } from "../../train/samples.ts";
import { setStage } from "../../train/stages.ts";
import type { Stage } from "../../train/stages.ts";
import { memorySink, sourceOfFiles } from "../checkpoint/tiny.ts";
import type { Whole } from "../checkpoint/tiny.ts";
import { fill } from "../fixtures.ts";
import { failures, folderOf, rowsOf, whole } from "../golden_training.ts";
import type { Json, Settings } from "../golden_training.ts";
import { useDevice } from "../gpu.ts";

describe("another model, several rows of a task, other settings", () => {
  const device = useDevice();
  const config = tinyConfig({
    vision: { imageSize: 16, patchSize: 4, hidden: 48, heads: 3, layers: 1, intermediate: 100 },
    vq: { multipliers: [1, 1, 2], codes: 100, codeDim: 4, resBlocks: 1 },
    language: {
      vocabulary: 700,
      hidden: 96,
      intermediate: 200,
      layers: 2,
      heads: 6,
      kvHeads: 6,
      headDim: 16,
      maxPositions: 200,
    },
  });
  const tokens = imageTokens(config);
  const side = config.vision.imageSize;
  let source: FileSource;
  let processor: Processor;

  beforeAll(async () => {
    const files = memorySink();
    const model = createModel(config, { seed: 5, device: device() });
    await saveModel(model, config, files, { sideFiles: byteTokenizerFiles() });
    model.dispose();
    source = sourceOfFiles(files.files);
    const checkpoint = await openCheckpoint(source);
    processor = await readProcessor(source, checkpoint.config);
    await checkpoint.close();
  });

  const pixels = fill("pixels", 4 * 3 * side * side);
  const picture = (i: number): Float32Array =>
    Float32Array.from(pixels.slice(i * 3 * side * side, (i + 1) * 3 * side * side));
  const numbers = (name: string, count: number, limit: number): number[] =>
    Array.from(fill(name, count), (r) => Math.floor(((r + 1) / 2) * limit));

  const rowOf = (task: "und" | "text", pictures: number, answer: number): Json["train_rows"][number] => {
    const { imagePlaceholder } = processor.tokenizer.specials;
    const images = Array.from({ length: pictures }, () => Array.from({ length: tokens }, () => imagePlaceholder));
    const prompt = [...images.flat(), ...numbers(`prompt ${task} ${pictures}`, 5, 256)];
    const answered = numbers(`answer ${task} ${pictures}`, answer, 256);
    return { task, input_ids: [...prompt, ...answered], labels: [...prompt.map(() => -100), ...answered] };
  };
  const drawn = (name: string, length: number): Json["train_rows"][number] => ({
    task: "gen",
    input_ids: numbers(name, length, 256),
    labels: numbers(`${name} codes`, tokens, config.vq.codes),
  });

  /** A golden folder of our own, by a loop of its own: one sample after the other, gradients added up. */
  async function goldenOf(
    stage: Stage,
    settings: Pick<Settings, "lr" | "betas" | "eps" | "clip" | "weight_decay">,
    steps: number,
    rows: Json["train_rows"],
    pictures: readonly (readonly number[])[],
  ): Promise<Golden> {
    const checkpoint = await openCheckpoint(source);
    const model = await loadModel(checkpoint, { device: device(), dtype: "f32" });
    await checkpoint.close();
    const { imagePlaceholder, pad } = processor.tokenizer.specials;
    const samples = rows.map(({ task, input_ids: ids, labels }, r) =>
      task === "gen"
        ? imageSample(ids, labels)
        : textSample(task as "und", ids, labels, pictures[r]!.map(picture), imagePlaceholder),
    );
    const alone = samples.map((sample) => layRows([[sample]], sample.ids.length, pad, tokens));
    const counts = TASKS.map((task) => alone.reduce((sum, { targets }) => sum + targets[task].at.length, 0));
    const count = counts.reduce((a, b) => a + b, 0);
    const trained = setStage(model, stage);
    const optimizer = new AdamW(
      [...trained].map(([name, tensor]) => ({ name, tensor })),
      {
        lr: settings.lr,
        beta1: settings.betas[0]!,
        beta2: settings.betas[1]!,
        epsilon: settings.eps,
        maxNorm: settings.clip ?? Infinity,
        weightDecay: settings.weight_decay ?? 0,
      },
    );
    const golden = new Map<string, Whole>();
    const put = async (
      kind: string,
      name: string,
      of: { shape: readonly number[]; data(): Promise<ArrayLike<number>> },
    ): Promise<void> =>
      void golden.set(
        `train${stage}.${kind}.${name}`,
        whole(`train${stage}.${kind}.${name}`, of.shape, await of.data()),
      );
    golden.set("vision.pixels", whole("vision.pixels", [4, 3, side, side], pixels));
    const result: Record<string, unknown> = { ...settings, trainable: [...trained.keys()] };
    const list: unknown[] = [];
    for (let k = 0; k <= steps; k++) {
      const sums = TASKS.map(() => 0);
      for (const row of alone) {
        const losses = scope(() => {
          const found = { ...taskLosses(model, row, side) };
          const total = totalLoss(found, count)!;
          if (total.requiresGrad) backward(total);
          return found;
        });
        for (const [t, task] of TASKS.entries()) sums[t]! += (await losses[task]?.item()) ?? 0;
        for (const one of Object.values(losses)) one?.dispose();
      }
      const loss = sums.reduce((a, b) => a + b, 0) / count;
      const per_task = Object.fromEntries(
        TASKS.map((task, t) => [task, { loss: sums[t]! / Math.max(1, counts[t]!), tokens: counts[t] }]),
      );
      if (k === 0) {
        result["no_grad"] = [...trained].filter(([, { grad }]) => !grad).map(([name]) => name);
        for (const [name, { grad }] of trained) if (grad) await put("grad", name, grad);
      }
      if (k === steps) result["final_loss"] = loss;
      else {
        optimizer.step();
        list.push({ loss, per_task, grad_norm: (await optimizer.report()).gradNorm });
        for (const [name, parameter] of trained) await put(`after${k + 1}`, name, parameter);
      }
      zeroGradients(trained.values());
    }
    result["steps"] = list;
    optimizer.dispose();
    model.dispose();
    return folderOf(golden, { train: { [stage]: result }, train_rows: rows });
  }

  it.each<[string, (r: number, k: number) => number]>([
    ["each row anew from 1", (r) => 1 + r],
    ["all from 1", (_, k) => 1 + k],
    ["all from 0", (_, k) => k],
  ])("stage 3, two questions with three pictures, %s", async (_, choice) => {
    const rows = [
      rowOf("und", 1, 4),
      drawn("a", 7),
      rowOf("text", 0, 9),
      rowOf("und", 2, 3),
      drawn("b", 12),
      rowOf("und", 0, 2),
    ];
    const pictures = [[choice(0, 0)], [], [], [choice(0, 1), choice(1, 2)], [], []];
    const settings = { lr: 3e-3, betas: [0.8, 0.99], eps: 1e-6, clip: 0.5, weight_decay: 0.1 };
    const found = await rowsOf(await goldenOf(3, settings, 2, rows, pictures), source, device);
    expect(failures(found)).toEqual([]);
    expect(found.find(({ entry }) => entry === "train3.final_loss")!.note).toBe(
      `of images ${pictures.flat().join(", ")}`,
    );
    expect(found.filter(({ entry }) => entry.startsWith("train3.after2.")).length).toBeGreaterThan(40);
  });

  it("stage 2 of text alone: what the batch does not reach, and no bound of the norm", async () => {
    const rows = [rowOf("text", 0, 9), rowOf("text", 0, 3)];
    const settings = { lr: 1e-3, betas: [0.9, 0.95], eps: 1e-8, clip: null };
    const found = await rowsOf(await goldenOf(2, settings, 1, rows, [[], []]), source, device);
    expect(failures(found)).toEqual([]);
    expect(found.find(({ entry }) => entry === "train2.no_grad")!.shape![0]).toBeGreaterThan(10);
  });

  it("a batch that reaches nothing a stage trains", async () => {
    const rows = [rowOf("text", 0, 9)];
    const golden = await folderOf(
      new Map([
        ["train1.grad.model.aligner.fc1.bias", whole("train1.grad.model.aligner.fc1.bias", [96], new Float32Array(96))],
      ]),
      {
        train: {
          1: {
            lr: 1,
            betas: [0.9, 0.95],
            eps: 1e-8,
            clip: 1,
            steps: [{ grad_norm: 0, per_task: { gen: { loss: 0, tokens: 0 } } }],
          },
        },
        train_rows: rows,
      },
    );
    const found = await rowsOf(golden, source, device);
    expect(failures(found)).toEqual([]);
    expect(found).toHaveLength(5);
  });
});
