/** A run of stage 0 as a whole: from pictures to a checkpoint whose tokenizer has learned and whose other weights are as they were. */
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { ArgumentError } from "../../index.ts";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { unusedTensors } from "../../model/janus/checkpoint/index.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { FileError, folderSource } from "../../model/node/files.ts";
import { Janus, encodePng, writeFolderAtomic } from "../../model/janus/node/index.ts";
import { readUnused, saveModel } from "../../model/janus/save.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { checkConfig, checkTokenizerConfig } from "../../train/config.ts";
import type { TokenizerConfig } from "../../train/config.ts";
import { SourceError } from "../../train/data/errors.ts";
import { PREFIX, loadTokenizer } from "../../train/stage0/image_tokenizer.ts";
import { readEvents } from "../../train/node/report/index.ts";
import type { TokenizerStepEvent } from "../../train/node/report/index.ts";
import { nodeFileSystem } from "../../train/node/run/file_system.ts";
import type { RunResult } from "../../train/node/train.ts";
import { train } from "../../train/node/train.ts";
import { TrainingError } from "../../train/skips.ts";
import { trainTokenizer } from "../../train/node/stage0/train.ts";
import type { TokenizerRunOptions } from "../../train/node/stage0/train.ts";
import type { VqTrainingState } from "../../train/stage0/options.ts";
import { addTrain } from "../../cli/train.ts";
import { runCli, runHere } from "../cli.ts";
import { errorOf, useDevice } from "../gpu.ts";
import { isLong } from "../long.ts";

const home = mkdtempSync(join(tmpdir(), "janus-tokenizer-"));
const at = (...names: string[]): string => join(home, ...names);
const device = useDevice();

beforeAll(async () => {
  const sideFiles = byteTokenizerFiles();
  const vocabulary = new Tokenizer({ tokenizer: new TextDecoder().decode(sideFiles.get("tokenizer.json")) }).size;
  // 8 × 8 pixels, 4 × 4 codes of 32; the pooling head that the model does not read is there too.
  const config = tinyConfig({
    vision: { imageSize: 32, patchSize: 8, hidden: 32, layers: 1, heads: 2, intermediate: 64 },
    vq: { multipliers: [1, 1], resBlocks: 1, codes: 32, baseChannels: 32, latentChannels: 32 },
    language: { layers: 1, hidden: 32, intermediate: 64, heads: 2, kvHeads: 2, headDim: 16, vocabulary },
  });
  const unused = new Map(
    [...unusedTensors(config)].map(([name, shape], i) => {
      const bytes = new Uint8Array(2 * shape.reduce((a, b) => a * b, 1)).fill(i + 1);
      return [name, { dtype: "bf16" as const, shape, bytes }];
    }),
  );
  const model = createModel(config, { seed: 4, dtype: "bf16" });
  const save = { layout: "deepseek", sideFiles, unused } as const;
  await writeFolderAtomic(at("model"), 0, async (sink) => void (await saveModel(model, config, sink, save)));
  model.dispose();

  const picture = (k: number): Promise<Uint8Array> => {
    const [side, data] = [12 + k, new Uint8Array(3 * (12 + k) ** 2)];
    for (let i = 0; i < data.length; i++) data[i] = (k * 5 + Number(i > data.length / 2) * 3 + (i % 3)) % 2 ? 230 : 25;
    return encodePng({ width: side, height: side, data });
  };
  for (const folder of ["data", "classes", "classes/one", "classes/two"]) mkdirSync(at(folder));
  for (let k = 0; k < 6; k++) writeFileSync(at("data", `${k}.png`), await picture(k));
  for (const [k, name] of ["one", "two"].entries()) writeFileSync(at("classes", name, "0.png"), await picture(6 + k));
  const lines = (name: string, rows: object[]): void =>
    writeFileSync(at("data", name), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const images = [0, 1, 2].map((k) => ({ prompt: "a picture", image: `${k}.png` }));
  lines("pairs.jsonl", [...images, { prompt: "none", image: "missing.png" }]);
  const asked = (image: string[], tags: string): object => ({
    image,
    conversations: [{ from: "human", value: `${tags} what?` }, { from: "gpt", value: "that" }], // prettier-ignore
  });
  lines("seen.jsonl", [asked(["3.png"], "<image>"), asked(["4.png", "5.png"], "<image><image>"), asked([], "")]);
  lines("text.jsonl", [{ text: "no picture" }]);
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

/** Steps in which the reconstruction error falls to a third. */
const LEARNED = 24;

async function differentCodes(folder: string): Promise<number> {
  const checkpoint = await openCheckpoint(folderSource(folder));
  const vq = await loadTokenizer(checkpoint, device());
  await checkpoint.close();
  const data = (await vq.quantize.embedding.weight.data()) as Float32Array;
  vq.dispose();
  const dim = data.length / 32;
  return new Set(Array.from({ length: 32 }, (_, k) => data.slice(k * dim, (k + 1) * dim).join())).size;
}

const settings = (more: Record<string, unknown> = {}): TokenizerConfig =>
  checkTokenizerConfig({
    stage: 0,
    batch: 4,
    microBatch: 3,
    steps: 4,
    optimizer: { lr: 2e-3, warmup: 2 },
    reseed: { every: 2 },
    rateWeight: 0.05,
    save: { every: 100, keep: 1 },
    report: { every: 0 },
    seed: 3,
    ...more,
  });

const go = (run: string, config: TokenizerConfig, more: Partial<TokenizerRunOptions> = {}): Promise<RunResult> =>
  trainTokenizer({
    model: at("model"),
    run: at(run),
    config,
    sources: [{ path: at("data", "pairs.jsonl") }, { path: at("classes") }, { path: at("data", "seen.jsonl") }],
    cache: at("cache"),
    device: device(),
    ...more,
  });

/** The log without what depends on the clock and on the device's memory. */
const logOf = (run: string): Partial<TokenizerStepEvent>[] =>
  readFileSync(at(run, "log.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const { ms: _a, waitingMs: _b, imagesPerSecond: _c, memoryBytes: _d, ...rest } = JSON.parse(line) as TokenizerStepEvent; // prettier-ignore
      return rest;
    });

it("4 steps equal 3 and, after a stop, 1 more, bit for bit; all weights but the tokenizer's are copied byte by byte", async () => {
  const straight = await go("straight", settings());
  expect([straight.steps, straight.stopped]).toEqual([4, false]);
  const stop = new AbortController();
  const onStep = ({ step }: TokenizerStepEvent): void => void (step === 2 && stop.abort());
  const broken = await go("broken", settings(), { stop: stop.signal, onStep });
  expect([broken.steps, broken.stopped]).toEqual([3, true]);
  // At the end codes that are out of use lie on one that is in use; not if a run only stopped.
  const inUse = (folder: string): number =>
    (JSON.parse(readFileSync(join(folder, "state.json"), "utf8")) as { training: VqTrainingState }).training.idle.filter((n) => n < 2).length; // prettier-ignore
  expect(inUse(straight.checkpoint)).toBeLessThan(30);
  expect(await differentCodes(straight.checkpoint)).toBe(inUse(straight.checkpoint));
  expect(await differentCodes(broken.checkpoint)).toBeGreaterThan(inUse(broken.checkpoint));
  appendFileSync(at("broken", "log.jsonl"), '{"step":3,"recon'); // left by a process that was killed
  // The model to begin with is no longer needed; pictures at once are no other setting.
  const resumed = await go("broken", settings(), { model: at("gone") });
  expect([resumed.steps, resumed.stopped]).toEqual([4, false]);
  const files = readdirSync(straight.checkpoint).sort();
  expect(readdirSync(resumed.checkpoint).sort()).toEqual(files);
  for (const name of files) {
    const [a, b] = [straight, resumed].map(({ checkpoint }) => readFileSync(join(checkpoint, name)));
    expect(Buffer.compare(a!, b!), name).toBe(0);
  }
  expect(logOf("broken")).toEqual(logOf("straight"));
  // Codes were moved before the stop and after it; the uses of step 3 counted in step 4.
  const moved = logOf("straight").map(({ reseed }) => reseed?.moved ?? 0);
  expect(moved.map((n) => n > 0)).toEqual([false, true, false, true]);
  expect(logOf("straight").every(({ used, gradNorm }) => used! > 0 && used! <= 32 && gradNorm! > 0)).toBe(true);
  const bad = readFileSync(at("straight", "quarantine.jsonl"), "utf8");
  expect(bad).toMatch(/missing\.png/);
  expect(bad).toMatch(/seen\.jsonl:3: it has no image/);
  expect((await readEvents(at("broken"))).map(({ kind, step }) => [kind, step])).toEqual([
    ["start", 0],
    ["save", 3],
    ["stop", 3],
    ["resume", 3],
    ["save", 4],
    ["end", 4],
  ]);

  const [before, after] = [await openCheckpoint(folderSource(at("model"))), await openCheckpoint(folderSource(resumed.checkpoint))]; // prettier-ignore
  const same: Record<string, boolean> = {};
  for (const [name, source] of before.parameters) {
    const now = after.parameters.get(name)!;
    expect(now.dtype, name).toBe(name.startsWith(PREFIX) ? "f32" : "bf16");
    same[name] = Buffer.compare(await before.read(source), await after.read(now)) === 0;
  }
  expect(Object.keys(same).filter((name) => !same[name])).toEqual(
    Object.keys(same).filter((name) => name.startsWith(PREFIX)),
  );
  expect(before.unused.size).toBeGreaterThan(0);
  expect(await readUnused(after)).toEqual(await readUnused(before));
  for (const checkpoint of [before, after]) await checkpoint.close();
  expect(readFileSync(join(resumed.checkpoint, "tokenizer.json"))).toEqual(readFileSync(at("model", "tokenizer.json")));
});

it("with a discriminator from step 1 on: 3 steps equal 2 and 1 more, bit for bit, its weights and moments too", async () => {
  const config = tinyConfig({
    vision: { imageSize: 24, patchSize: 2, hidden: 32, layers: 1, heads: 2, intermediate: 64 },
    vq: { multipliers: [1, 1], resBlocks: 1, codes: 32, baseChannels: 32, latentChannels: 32 },
    language: { layers: 1, hidden: 32, intermediate: 64, heads: 2, kvHeads: 2, headDim: 16, vocabulary: 300 },
  });
  const made = createModel(config, { seed: 4 });
  await writeFolderAtomic(at("model24"), 0, async (sink) => void (await saveModel(made, config, sink, { sideFiles: byteTokenizerFiles() }))); // prettier-ignore
  made.dispose();
  const own = { model: at("model24") };
  const judged = (more: Record<string, unknown> = {}): TokenizerConfig =>
    settings({
      steps: 3,
      batch: isLong ? 4 : 2,
      microBatch: 2,
      rateWeight: 0,
      adversarial: { weight: 0.5, from: 1 },
      ...more,
    });
  const straight = await go("judged", judged(), own);
  await go("judged2", judged({ stopAt: 2 }), own);
  const resumed = await go("judged2", judged(), own);
  const files = readdirSync(straight.checkpoint).sort();
  expect(files).toContain("discriminator.safetensors");
  expect(readdirSync(resumed.checkpoint).sort()).toEqual(files);
  for (const name of files.filter((file) => file.endsWith(".safetensors"))) {
    const [a, b] = [straight, resumed].map(({ checkpoint }) => readFileSync(join(checkpoint, name)));
    expect(Buffer.compare(a!, b!), name).toBe(0);
  }
  expect(logOf("judged2")).toEqual(logOf("judged"));
  expect(logOf("judged").map((line) => [line.adversarial, line.discriminator].every(Number.isFinite))).toEqual([false, true, true]); // prettier-ignore
  // Pictures that are normalised together are no matter of cost alone.
  const other = await errorOf(() => go("judged", judged({ steps: 4, microBatch: 1 }), own));
  expect(other.message).toMatch(/other settings \(microBatch\)/);
  const small = await errorOf(() => go("small", judged()));
  expect(small).toBeInstanceOf(ArgumentError);
  expect(small.message).toMatch(/at least 24 × 24 pixels; got a side of 8/);
  expect(readdirSync(at("small"))).toEqual([]);
});

it("reconstructions improve, on the page during the run and by the checkpoint, which is a model", async () => {
  const shown = at("long", "samples", "reconstructions");
  const pages: string[] = [];
  const onStep = ({ step }: TokenizerStepEvent): void => {
    if (step === 10) pages.push(readFileSync(at("long", "report.html"), "utf8"), readFileSync(join(shown, "000.png"), "base64")); // prettier-ignore
  };
  const report = { every: 10, reconstructions: 1 };
  const more = { steps: LEARNED, microBatch: 4, reseed: { every: 10, until: 20 }, report };
  const { checkpoint } = await go("long", settings(more), { onStep });
  const curve = logOf("long");
  expect(curve.at(-1)!.reconstruction).toBeLessThan(curve[0]!.reconstruction! / 3);
  expect(curve.flatMap(({ step, reseed }) => (reseed ? [step! + 1] : []))).toEqual([10, 20]);
  const psnr = async (model: string): Promise<number> => {
    using janus = await Janus.fromPretrained(model, { device: device() });
    return (await janus.reconstruct(readFileSync(at("data", "0.png")))).psnr;
  };
  expect(await psnr(checkpoint)).toBeGreaterThan((await psnr(at("model"))) + 3);
  expect(pages[0]).toMatch(new RegExp(`10 of ${LEARNED} steps · running`));
  expect(readFileSync(join(shown, "000.png"), "base64")).not.toBe(pages[1]);
  expect(readdirSync(shown)).toEqual(["000-original.png", "000.png"]);
});

it("steps that are not finite change nothing, and three in a row end the run", async () => {
  const notices: string[] = [];
  const wild = settings({ optimizer: { lr: 1e38 }, save: { every: 1, keep: 9 }, reseed: { every: 1 } });
  const error = await errorOf(() => go("wild", wild, { onNotice: (message) => notices.push(message) }));
  expect(error).toBeInstanceOf(TrainingError);
  expect(error.message).toMatch(/^step 4: gradients were not finite \(.*\.jsonl:\d.*3 steps in a row/);
  expect(notices).toHaveLength(3);
  expect(logOf("wild").map(({ skipped, reseed }) => [skipped, reseed === undefined])).toEqual([
    [false, false],
    ...[2, 3, 4].map(() => [true, true]),
  ]);
  const state = JSON.parse(readFileSync(at("wild", "step-00000003", "state.json"), "utf8")) as { training: VqTrainingState }; // prettier-ignore
  const { shares, idle, ...counted } = state.training;
  expect(idle).toContain(0);
  expect(counted).toEqual({ uses: Array.from({ length: 32 }, () => 0), reseeds: 1, skipped: 2 }); // what is not finite uses no code
  expect(shares.reduce((sum: number, share: number) => sum + share, 0)).toBeCloseTo(1, 10);
  const saved = [1, 3].map((step) => readFileSync(at("wild", `step-0000000${step}`, "model.safetensors")));
  expect(Buffer.compare(saved[0]!, saved[1]!)).toBe(0);
});

it("other settings, runs of other stages and sources of texts are refused before the first step", async () => {
  await go("short", settings({ steps: 1, rateWeight: 0 }));
  const other = await errorOf(() => go("short", settings({ commitment: 0.5, rateWeight: 0 })));
  expect(other).toBeInstanceOf(ArgumentError);
  expect(other.message).toMatch(/other settings \(commitment\)/);
  // If codes retire at the end, the end is bound.
  await go("retired", settings({ steps: 1 }));
  const longer = await errorOf(() => go("retired", settings({ steps: 2 })));
  expect(longer.message).toMatch(/other settings \(steps\)/);
  const sources = [{ path: at("data", "pairs.jsonl") }];
  const stage1 = checkConfig({ stage: 1, batch: 1, length: 64, steps: 2, ratios: { und: 0, text: 0, gen: 1 }, optimizer: { lr: 1e-3 } }); // prettier-ignore
  const options = { model: at("model"), cache: at("cache"), device: device(), ceiling: 1e9, sources };
  const stage = await errorOf(() => train({ ...options, run: at("short"), config: stage1 }));
  expect(stage.message).toMatch(/other settings \(stage, /);
  const text = await errorOf(() => go("text", settings(), { sources: [...sources, { path: at("data", "text.jsonl") }] })); // prettier-ignore
  expect(text).toBeInstanceOf(SourceError);
  expect(text.message).toMatch(/text\.jsonl is a source of texts, but stage 0 trains on images/);
  expect(readdirSync(at("text"))).toEqual([]);
  const step1 = at("short", "step-00000001");
  const bytes = readdirSync(step1).reduce((sum, name) => sum + statSync(join(step1, name)).size, 0);
  const withRoom = (free: number): Promise<RunResult> =>
    go("room", settings({ steps: 1 }), { fileSystem: { ...nodeFileSystem, freeBytes: async () => free } });
  const full = await errorOf(() => withRoom(bytes));
  expect(full).toBeInstanceOf(FileError);
  expect(readdirSync(at("room"))).toEqual([]);
  expect((await withRoom(bytes + 2 ** 21)).steps).toBe(1);
  expect((await go("short", settings({ steps: 2, microBatch: 1, rateWeight: 0 }))).steps).toBe(2); // more steps and pictures at once are no other settings
});

it("runs as a command, a line a step, with a page at its end; a dry run writes nothing", async () => {
  const command = ["train", "stage0", `--model=${at("model")}`, `--run=${at("typed")}`, `--cache=${at("cache")}`];
  const data = ["--data", at("data", "pairs.jsonl"), at("classes"), "--set", "batch=2", "steps=2"];
  const dry = await runHere(addTrain, [...command, ...data, "--dry-run", "--measure-step"]);
  expect(dry.code, dry.stderr).toBe(0);
  expect(dry.stdout).toMatch(
    /image decoder +[\d,]+ +0\n(.|\n)*\na step: 2 images, 2 at once\n(.|\n)*at most 2 such steps\n +images +4\n(.|\n)*measured: one such step\n/,
  );
  expect(readdirSync(home)).not.toContain("typed");
  const run = await runCli([...command, ...data, "reseed.every=1"]);
  expect(run.code, run.stderr).toBe(0);
  expect(run.stdout).toBe(`${at("typed", "step-00000002")}\n`);
  const line =
    /^step \d\/2 {2}reconstruction \d+\.\d{4} {2}codebook .* commitment .* \d+ codes {2}.*norm .* lr 1\.0e-4 /gm;
  expect(run.stderr.match(line), run.stderr).toHaveLength(2);
  const page = readFileSync(at("typed", "report.html"), "utf8");
  expect(page).toMatch(/stage 0 · 2 of 2 steps · not running/);
  for (const title of ["error of reconstructed pixels", "vectors from their codes", "that a step used", "perplexity"])
    expect(page).toContain(title);
  expect(page).not.toContain("Loss by task");
  expect(page.match(/<img/g)).toHaveLength(8); // four pictures and what their codes give
});
