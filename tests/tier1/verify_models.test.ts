/**
 * `janus verify` on models that are wrong (the rows of what is wrong must fail, the others pass), and on one of other sizes, with a golden
 * folder that the project has made itself: nothing is bound to the sizes, names and counts of the fixtures.
 */
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { marginsOf } from "../../verify/compare.ts";
import type { Comparison } from "../../verify/compare.ts";
import { Golden } from "../../verify/file.ts";
import type { Values } from "../../verify/file.ts";
import { GoldenInputs } from "../../verify/inputs.ts";
import { GoldenModel } from "../../verify/model.ts";
import { Verification, checkGolden } from "../../verify/entries.ts";
import { scope } from "../../index.ts";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { fileSet } from "../../model/io/bytes.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { encodeSafetensors } from "../../model/io/safetensors.ts";
import { imageTokens } from "../../model/janus/config.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import type { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { loadModel } from "../../model/janus/load.ts";
import { encodePng, folderSource } from "../../model/node/index.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import type { Processor } from "../../model/janus/processor.ts";
import { saveModel } from "../../model/janus/save.ts";
import { memorySink, sourceOfFiles, tinyFolder } from "../checkpoint/tiny.ts";
import { fillBytes, hasFixtures } from "../fixtures.ts";
import { useDevice } from "../gpu.ts";
import { isLong } from "../long.ts";

const tiny = fileURLToPath(new URL("../", tinyFolder("hf")));
const failures = (rows: readonly Comparison[]): string[] =>
  rows.filter(({ pass }) => pass === false).map(({ entry }) => entry);

describe.skipIf(!hasFixtures)("a model that is wrong", () => {
  const device = useDevice();
  let golden: Golden;

  beforeAll(async () => {
    golden = await Golden.open(folderSource(tiny));
  });
  afterAll(() => golden[Symbol.asyncDispose]());

  /** The failing rows of the tiny model after `spoil`. Nothing may be left on the device. */
  async function spoiled(
    spoil: (model: JanusForConditionalGeneration, processor: Processor) => void,
  ): Promise<string[]> {
    const source = folderSource(fileURLToPath(tinyFolder("hf")));
    const checkpoint = await openCheckpoint(source);
    const { config } = checkpoint;
    const processor = await readProcessor(source, config);
    const model = await loadModel(checkpoint, { device: device() });
    await checkpoint.close();
    spoil(model, processor);
    const rows: Comparison[] = [];
    for await (const row of new Verification(
      new GoldenInputs(golden, config, processor),
      new GoldenModel(model, config, processor),
    ).rows())
      rows.push(row);
    model.dispose();
    return failures(rows).sort();
  }

  const TEXT = ["text.logits", "und.last_logits", "und.logits_row1", "und.greedy_ids", "und.greedy_text"];
  const DRAWN = ["gen0.cfg_logits_first8", "gen0.tokens", "gen1.cfg_logits_first8", "gen1.tokens"];

  it("two layers in each other's place", async () => {
    const failing = await spoiled(({ model: { language_model: llama } }) => {
      const layers = llama.layers as unknown as unknown[];
      [layers[1], layers[2]] = [layers[2], layers[1]];
    });
    expect(failing).toEqual(expect.arrayContaining([...TEXT, ...DRAWN, "gen0.first_logits"]));
    expect(failing.filter((entry) => /^(vision|vq|preprocess|tokenizer)|pixels/.test(entry))).toEqual([]);
  });

  it.runIf(isLong)("another rotary base", async () => {
    const failing = await spoiled(({ model: { language_model: llama } }) => {
      for (const { self_attn } of llama.layers)
        Object.assign(self_attn, {
          config: { ...(self_attn as unknown as { config: object }).config, ropeTheta: 9900 },
        });
    });
    expect(failing).toEqual(
      expect.arrayContaining([
        "text.logits",
        "und.last_logits",
        "und.logits_row1",
        "gen0.first_logits",
        "gen0.cfg_logits_first8",
        "gen1.cfg_logits_first8",
      ]),
    );
  });

  it("only decoding against the cache is wrong: a position too far", async () => {
    const failing = await spoiled((model) => {
      const hidden = model.hidden.bind(model);
      model.hidden = (x, sequence) =>
        hidden(x, sequence.decode ? { ...sequence, positions: scope(() => sequence.positions.add(1)) } : sequence);
    });
    expect(failing).toEqual([...DRAWN, "und.greedy_ids", "und.greedy_text"].sort());
  });

  it("left padding that is attended to", async () => {
    const failing = await spoiled((model) => {
      const hidden = model.hidden.bind(model);
      model.hidden = (x, { positions, cache, decode }) =>
        hidden(x, { positions, ...(cache && { cache }), ...(decode && { decode }) });
    });
    expect(failing).toEqual(["und.last_logits", "und.logits_row1"]);
  });

  it("pictures: patches of the vision tower, the image decoder, the codebook", async () => {
    const swap = (modules: unknown, a: string, b: string): void => {
      const of = modules as Record<string, unknown>;
      [of[a], of[b]] = [of[b], of[a]];
    };
    type Spoil = Parameters<typeof spoiled>[0];
    const decoder: Spoil = ({ model: { vqmodel } }) => swap(vqmodel.decoder.mid, "block_1", "block_2");
    const encoder: Spoil = ({ model: { vqmodel } }) => swap(vqmodel.encoder.mid, "block_1", "block_2");
    const vision: Spoil = ({ model: { aligner } }) => {
      aligner.fc1.bias!.dispose(); // the model no longer finds it
      Object.assign(aligner.fc1, { bias: aligner.hidden_layers[0]!.bias });
    };
    const drawn = ["gen0.pixels", "gen1.pixels", "vq.reconstruction"];
    const coded = ["vq.codes", "vq.margin", "vq.z"];
    const looked = ["vision.aligned", "und.last_logits", "und.logits_row1"];
    const all = await spoiled((...of) => [decoder, encoder, vision].forEach((spoil) => spoil(...of)));
    expect(all).toEqual(expect.arrayContaining([...drawn, ...coded, ...looked]));
    const others = all.filter((entry) => !entry.startsWith("und."));
    expect(others).toEqual([...drawn, ...coded, "vision.aligned"].sort());
    if (!isLong) return;
    expect(await spoiled(decoder)).toEqual(drawn);
    expect(await spoiled(encoder)).toEqual(coded);
    const seen = await spoiled(vision);
    expect(seen).toEqual(expect.arrayContaining(looked));
    expect(seen).not.toContain("vision.last_hidden");
  });
});

describe("another model", () => {
  const device = useDevice();

  it("three questions with two, no and one picture, three prompts, pictures with gaps", async () => {
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
    const files = memorySink();
    const model = createModel(config, { seed: 3, device: device() });
    await saveModel(model, config, files, { sideFiles: byteTokenizerFiles() });
    const source = sourceOfFiles(files.files);
    const checkpoint = await openCheckpoint(source);
    const processor = await readProcessor(source, checkpoint.config);
    await checkpoint.close();

    const questions = [
      "<|User|>: <image_placeholder><image_placeholder>Which?\n\n<|Assistant|>:",
      "<|User|>: Hi\n\n<|Assistant|>:",
      "<|User|>: <image_placeholder>Why not?\n\n<|Assistant|>:",
    ];
    const prompts = ["a", "bb cc", "d"].map((text) => processor.prompts.generation(text));
    const json: Record<string, unknown> = {
      understand_prompts: questions,
      generate_prompts: prompts,
      num_image_tokens: tokens,
      tokenizer: [],
    };
    const golden = new Map<string, Uint8Array>();
    for (const [at, i] of [0, 3, 11].entries()) {
      const [width, height] = [9 + 4 * at, 30 - 7 * at];
      golden.set(
        `image${i}.png`,
        await encodePng({ width, height, data: fillBytes(`picture ${i}`, 3 * width * height) }),
      );
    }
    const made = new Map<string, Values>();
    const put = (name: string, values: Values): void => void made.set(name, values);
    const open = async (): Promise<Golden> => {
      const whole = [...made].map(([name, { shape, data }]) => ({
        name,
        shape,
        dtype: data instanceof Int32Array ? ("i32" as const) : ("f32" as const),
        data: bytesOf(data),
      }));
      golden.set("golden.safetensors", encodeSafetensors(whole));
      golden.set("golden.json", new TextEncoder().encode(JSON.stringify(json)));
      return Golden.open(fileSet("golden", golden));
    };
    put("text.input_ids", { shape: [2, 5], data: Int32Array.of(256, 1, 2, 3, 4, 256, 9, 8, 7, 6) });

    const runs = new GoldenModel(model, config, processor);
    const inputs = new GoldenInputs(await open(), config, processor);
    const pixels = inputs.firstPictures();
    const asked = await inputs.questions();
    const embedded = { ...asked, images: await runs.imageEmbeddings(asked.pixels!) };
    const answers = await runs.answers(embedded, 7);
    json.und_greedy_text = answers.map((ids) => processor.tokenizer.decode(ids));
    put("und.input_ids", { shape: [3, asked.length], data: asked.ids });
    put("und.pixels", asked.pixels!);
    for (const i of [0, 3, 11]) put(`preprocess.pixels${i}`, inputs.picture(i));
    put("vision.pixels", pixels);
    put("vision.last_hidden", await runs.visionTower(pixels));
    put("vision.aligned", await runs.imageEmbeddings(pixels));
    put("text.logits", await runs.textLogits({ shape: [2, 5], data: made.get("text.input_ids")!.data }));
    put("und.last_logits", await runs.questionLogits(embedded, "last"));
    for (const r of [0, 1, 2]) put(`und.logits_row${r}`, await runs.questionLogits(embedded, r));
    put("und.greedy_ids", { shape: [3, 7], data: Int32Array.from(answers.flat()) });
    for (const i of [0, 1, 2]) {
      const codes = await runs.drawn(await inputs.prompt(i));
      const { first, guided } = await runs.forcedCodes(await inputs.prompt(i), codes);
      json[`gen${i}_top2_margin_min`] = Math.min(...marginsOf(guided));
      put(`gen${i}.tokens`, { shape: [1, tokens], data: Int32Array.from(codes) });
      put(`gen${i}.pixels`, await runs.decoded(made.get(`gen${i}.tokens`)!));
      put(`gen${i}.first_logits`, first);
      put(`gen${i}.cfg_logits_first5`, { shape: [5, 100], data: guided.data.slice(0, 500) });
    }
    put("vq.z", await runs.codeVectors(pixels));
    put("vq.codes", await runs.codes(pixels));
    put("vq.margin", { shape: [3, tokens], data: Float32Array.from((await runs.codeMargins(made.get("vq.z")!)).data) });
    put("vq.reconstruction", await runs.decoded(made.get("vq.codes")!));

    await using folder = await open();
    checkGolden(folder, config);
    const rows: Comparison[] = [];
    for await (const row of new Verification(new GoldenInputs(folder, config, processor), runs).rows()) rows.push(row);
    expect(rows.filter(({ pass }) => pass === false)).toEqual([]);
    // All tensors but text.input_ids, and of golden.json num_image_tokens, the text and three margins.
    expect(rows.filter(({ pass }) => pass)).toHaveLength(made.size - 1 + 5);
    expect(rows.find(({ entry }) => entry === "und.logits_row1")!.shape).toEqual([
      asked.length - asked.starts[1]!,
      700,
    ]);
    model.dispose();
  });
});

const bytesOf = ({ buffer, byteOffset, byteLength }: Values["data"]): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);
