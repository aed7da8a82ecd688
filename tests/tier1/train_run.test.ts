/** A training run as a whole: from files to a checkpoint that is a model, stopped and resumed bit for bit, refused when it is another run. */
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { addCkpt } from "../../cli/ckpt.ts";
import { addConvert } from "../../cli/convert.ts";
import { addData } from "../../cli/data.ts";
import { newCheckpoint } from "../../examples/new_checkpoint.ts";
import { ArgumentError, Device, setDevice } from "../../index.ts";
import type { Launch } from "../../engine/types.ts";
import { castFloats } from "../../model/io/cast.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { encodeSafetensors, readSafetensors } from "../../model/io/safetensors.ts";
import { FileError, folderSource, openFile } from "../../model/node/files.ts";
import { Janus, encodePng, readPicture } from "../../model/janus/node/index.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { QuarantineError } from "../../train/data/errors.ts";
import { CODES_LABEL } from "../../train/stage0/image_tokenizer.ts";
import { readEvents } from "../../train/node/report/index.ts";
import type { StepEvent } from "../../train/node/report/index.ts";
import { Checkpoints } from "../../train/node/run/checkpoints.ts";
import { RunFolderError, RunLockedError, SaveError } from "../../train/node/run/errors.ts";
import { nodeFileSystem } from "../../train/node/run/file_system.ts";
import { MANIFEST, encodeManifest, parseManifest } from "../../train/node/run/manifest.ts";
import { RunFolder } from "../../train/node/run/run_folder.ts";
import { TrainingError } from "../../train/skips.ts";
import { train } from "../../train/node/train.ts";
import type { RunOptions, RunResult } from "../../train/node/train.ts";
import { TRAINED } from "../../train/stages.ts";
import { tensorsOf } from "../checkpoint/tiny.ts";
import { runHere } from "../cli.ts";
import { errorOf } from "../gpu.ts";
import { writeSameSamples } from "../data_files.ts";
import { isLong } from "../long.ts";
import { SMALL } from "../small_model.ts";

const home = mkdtempSync(join(tmpdir(), "janus-train-"));
const at = (...names: string[]): string => join(home, ...names);
let device: Device;

beforeAll(async () => {
  device = await Device.create();
  setDevice(device);
  await newCheckpoint(at("model"), {
    device,
    changes: SMALL,
    texts: ["a red square. what colour is it? red. blue green"],
  });
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
    length: 256,
    steps: 6,
    ratios: { und: 2, text: 1, gen: 3 },
    optimizer: { lr: 1e-3, warmup: 4 },
    save: { every: 100, keep: 5 },
    report: { every: 0 },
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
    ceiling: 1e9,
    ...more,
  });

type Logged = Omit<
  StepEvent,
  "ms" | "waitingMs" | "tokensPerSecond" | "imagesPerSecond" | "mfu" | "memoryBytes" | "loss"
> & {
  readonly loss: number | null;
};

/** The log without what depends on the clock and on the device's memory. */
const losses = (run: string): Logged[] =>
  readFileSync(at(run, "log.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const { ms: _a, waitingMs: _b, tokensPerSecond: _c, imagesPerSecond: _d, mfu: _e, memoryBytes: _f, ...rest } = JSON.parse(line) as StepEvent; // prettier-ignore
      return rest;
    });

function expectEqualFiles(a: string, b: string): void {
  const files = readdirSync(a).sort();
  expect(readdirSync(b).sort()).toEqual(files);
  for (const name of files)
    expect(Buffer.compare(readFileSync(join(a, name)), readFileSync(join(b, name))), name).toBe(0);
}

const IN_PARTS = [
  [1, 1, false, "bf16", { ema: { decay: 0.9 } }],
  [3, 2, false, "f32", {}],
  // In the short form the run of resume.test.ts is in f16, whose loss scale grows.
  [2, 4, true, "f16", { ema: { decay: 0.9 }, lossScaling: { initScale: 2 ** 64, growthInterval: 2 } }],
] as const;
it.each(isLong ? IN_PARTS : IN_PARTS.slice(0, 2))(
  "a run in one piece equals one that stopped half way: weights, moments and losses bit for bit (stage %i, %i rows at once, recomputed: %s, %s)",
  async (stage, microRows, recompute, dtype, more) => {
    const steps = dtype === "f16" ? 6 : isLong ? 4 : 2; // the loss scale moves every third step
    const config = settings({ stage, microRows, recompute, dtype, steps, ...more });
    const straight = await go(`straight${stage}`, config);
    expect([straight.steps, straight.stopped]).toEqual([steps, false]);
    const stop = new AbortController();
    const broken = await go(`broken${stage}`, config, {
      stop: stop.signal,
      onStep: ({ step }) => step === steps / 2 - 1 && stop.abort(),
    });
    expect([broken.steps, broken.stopped]).toEqual([steps / 2, true]);
    const resumed = await go(`broken${stage}`, config);
    expect([resumed.steps, resumed.stopped]).toEqual([steps, false]);
    expect(readdirSync(straight.checkpoint)).toEqual(
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
    expectEqualFiles(straight.checkpoint, resumed.checkpoint);
    expect(losses(`broken${stage}`)).toEqual(losses(`straight${stage}`));
    // The scale moved before and after the stop.
    const scales = losses(`straight${stage}`).map(({ lossScale }) => lossScale);
    const [before, after] = [scales.slice(0, steps / 2), scales.slice(steps / 2)].map((some) => new Set(some).size);
    expect([before! > 1, after! > 1]).toEqual([dtype === "f16", dtype === "f16"]);
    expect(readFileSync(at(`straight${stage}`, "quarantine.jsonl"), "utf8")).toMatch(/missing\.png/);
  },
);

it("the same samples from JSONL, tar shards and Parquet train to the same bits", async () => {
  // Which prompts are dropped depends on the hash of the file.
  const config = settings({ steps: isLong ? 3 : 1, conditioningDropout: 0 });
  const checkpoints: string[] = [];
  for (const [name, paths] of Object.entries(await writeSameSamples(at("formats")))) {
    const sources = [...paths, at("data", "text.jsonl")].map((path) => ({ path }));
    const named = name === "jsonl" ? { ...config, data: { ...config.data, fields: { prompt: "TEXT" } } } : config;
    checkpoints.push((await go(`format ${name}`, named, { sources })).checkpoint);
    expect(existsSync(at(`format ${name}`, "quarantine.jsonl")), name).toBe(false);
  }
  for (const file of ["model.safetensors", "optimizer.safetensors"]) {
    const [jsonl, ...others] = checkpoints.map((checkpoint) => readFileSync(join(checkpoint, file)));
    for (const other of others) expect(Buffer.compare(other, jsonl!), file).toBe(0);
  }
});

it("a model whose head is tied to its embedding trains, saves once, resumes bit for bit, and answers", async () => {
  const tied = at("tied model");
  cpSync(at("model"), tied, { recursive: true });
  const json = JSON.parse(readFileSync(join(tied, "config.json"), "utf8")) as { text_config: Record<string, unknown> };
  json.text_config["tie_word_embeddings"] = true;
  writeFileSync(join(tied, "config.json"), JSON.stringify(json));
  const weights = await tensorsOf(readFileSync(join(tied, "model.safetensors")));
  expect(weights.delete("lm_head.weight")).toBe(true);
  writeFileSync(join(tied, "model.safetensors"), encodeSafetensors([...weights.values()]));
  const config = settings({ dtype: "bf16", steps: 2, ema: { decay: 0.9 } });
  const straight = await go("tied", config, { model: tied });
  await go("tied broken", { ...config, stopAt: 1 }, { model: tied });
  expectEqualFiles(straight.checkpoint, (await go("tied broken", config, { model: tied })).checkpoint);
  for (const [file, names] of Object.entries({
    "model.safetensors": [""],
    "optimizer.safetensors": [".m", ".master", ".v"],
    "ema.safetensors": [""],
  })) {
    const written = [...(await tensorsOf(readFileSync(join(straight.checkpoint, file)))).keys()];
    expect(written.filter((name) => /lm_head|embed_tokens/.test(name)).sort(), file).toEqual(names.map((end) => `model.language_model.embed_tokens.weight${end}`)); // prettier-ignore
  }
  const embedding = "model.language_model.embed_tokens.weight";
  const [before, after] = [weights.get(embedding)!, (await tensorsOf(readFileSync(join(straight.checkpoint, "model.safetensors")))).get(embedding)!]; // prettier-ignore
  expect(Buffer.compare(before.data, after.data), "trained").not.toBe(0);
  const janus = await Janus.fromPretrained(straight.checkpoint);
  expect(janus.model.lm_head.weight).toBe(janus.model.model.language_model.embed_tokens.weight);
  expect((await janus.ask("what colour is it?", { maxNewTokens: 3 }).result()).tokenIds.length).toBeGreaterThan(0);
  janus.dispose();
});

it("a checkpoint of an earlier version, which has one step count for all parameters, resumes bit for bit", async () => {
  const config = settings({ steps: 2 });
  const straight = await go("counted", config);
  const { checkpoint } = await go("uncounted", { ...config, stopAt: 1 });
  const file = join(checkpoint, "optimizer.safetensors");
  const tensors = await tensorsOf(readFileSync(file));
  expect(tensors.delete("steps")).toBe(true);
  const old = encodeSafetensors([...tensors.values()]);
  writeFileSync(file, old);
  const manifest = parseManifest(readFileSync(join(checkpoint, MANIFEST)), MANIFEST);
  const files = new Map(manifest.files).set("optimizer.safetensors", { bytes: old.length, sha256: createHash("sha256").update(old).digest("hex") }); // prettier-ignore
  writeFileSync(join(checkpoint, MANIFEST), encodeManifest({ ...manifest, files }));
  expectEqualFiles(straight.checkpoint, (await go("uncounted", config)).checkpoint);
});

it("a checkpoint is a model; another run's settings, and a second trainer, are refused", async () => {
  const config = settings({ steps: 2 });
  const { checkpoint } = await go("short", config);
  const live = device.pool.stats.liveBytes;
  const janus = await Janus.fromPretrained(checkpoint);
  expect((await janus.generate("a red square", { seed: 1 }).images())[0]!.tokenIds).toHaveLength(16);
  janus.dispose();
  const error = await errorOf(() => go("short", settings({ steps: 4, optimizer: { lr: 1e-4, warmup: 4 } })));
  expect(error).toBeInstanceOf(ArgumentError);
  expect(error.message).toMatch(/other settings \(optimizer\.lr\)/);
  const held = await RunFolder.open(at("short"));
  expect(await errorOf(() => go("short", config))).toBeInstanceOf(RunLockedError);
  await held.close();
  expect((await go("short", settings({ steps: 3 }))).steps).toBe(3); // more steps are no other settings
  expect(device.pool.stats.liveBytes, device.pool.table()).toBe(live);
});

it("a run whose checkpoints are all damaged is refused, not restarted, and its log stays", async () => {
  const config = settings({ steps: 2, save: { every: 1, keep: 2 } });
  await go("hurt", config);
  const hurt = (step: string): void => appendFileSync(at("hurt", step, "model.safetensors"), "x");
  hurt("step-00000002");
  const notices: string[] = [];
  await go("hurt", config, { onNotice: (message) => notices.push(message) });
  expect(notices).toEqual([expect.stringMatching(/step-00000002 is damaged: model.*; it is skipped$/), expect.stringMatching(/step-00000002 was damaged and is replaced/)]); // prettier-ignore
  for (const step of ["step-00000001", "step-00000002"]) hurt(step);
  const log = readFileSync(at("hurt", "log.jsonl"), "utf8");
  const error = await errorOf(() => go("hurt", config));
  expect(error).toBeInstanceOf(RunFolderError);
  expect(error.message).toMatch(
    /hurt: at least one valid checkpoint is required.*; .*\n.*step-00000002 is damaged: .*\n.*step-00000001/,
  );
  expect(readFileSync(at("hurt", "log.jsonl"), "utf8")).toBe(log);
});

it("missing data is reported before the model is loaded; a signal ends the verification of checkpoints", async () => {
  device.pool.resetPeak();
  const live = device.pool.stats.liveBytes;
  const error = await errorOf(() => go("nothing", settings(), { sources: [{ path: at("data", "missing.jsonl") }] }));
  expect(error.message).toMatch(/missing\.jsonl does not exist/);
  const alone = await errorOf(() => go("nothing", settings(), { sources: [{ path: at("data", "gen.jsonl") }] }));
  expect(alone.message).toMatch(/the ratio of und is \d and no source has records for it/);
  expect(device.pool.stats.peakBytes).toBe(live);
  await go("checked", settings({ steps: 1 }));
  device.pool.resetPeak();
  const stop = AbortSignal.abort(new Error("stopped at once"));
  const stopped = await errorOf(() => go("checked", settings({ steps: 1 }), { stop, onNotice: expect.unreachable }));
  expect([stopped.message, device.pool.stats.peakBytes]).toEqual(["stopped at once", live]);
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

it("weights that are not finite are named, and how many they are, by each notice and by the error", async () => {
  const bad = at("bad model");
  cpSync(at("model"), bad, { recursive: true });
  const weights = await tensorsOf(readFileSync(join(bad, "model.safetensors")));
  const name = "model.language_model.layers.0.post_attention_layernorm.weight";
  weights.get(name)!.data.set([0, 0, 192, 127]); // NaN
  writeFileSync(join(bad, "model.safetensors"), encodeSafetensors([...weights.values()]));
  const notices: string[] = [];
  const error = await errorOf(() =>
    go("bad weights", settings(), { model: bad, onNotice: (notice) => notices.push(notice) }),
  );
  expect(error).toBeInstanceOf(TrainingError);
  const said = new RegExp(
    `: the loss of und, text, gen was not finite \\(weights not finite: ${name} \\(1 of \\d+ tensors\\); the step's samples: .*\\); nothing was changed`,
  );
  expect(error.message).toMatch(said);
  expect(error.message).toMatch(/the run ends\. Training cannot repair these weights/);
  const [loading, ...steps] = notices;
  expect(loading).toContain(name);
  expect(steps).toHaveLength(3);
  for (const notice of steps) expect(notice).toMatch(said);
  expect(losses("bad weights")[0]!.cause).toMatchObject({ kind: "weights", tensors: [name] });
});

it("f16 searches its loss scale without ending the run, and ends it if the scale stops falling", async () => {
  const search = (initScale: number, backoffFactor = 0.5): TrainConfig =>
    settings({ dtype: "f16", steps: 5, lossScaling: { initScale, backoffFactor }, stage: 1 });
  expect((await go("search", search(2 ** 100))).steps).toBe(5);
  expect(losses("search").map(({ skipped, lossScale }) => [skipped, lossScale])).toEqual(
    [99, 98, 97, 96, 95].map((power) => [true, 2 ** power]),
  );
  const error = await errorOf(() => go("stuck", search(2 ** 100, 1)));
  expect(error).toBeInstanceOf(TrainingError);
  expect(error.message).toMatch(/^step 4: gradients were not finite .*; 3 steps in a row: the run ends/);
  expect(error.message).toMatch(
    /\(gradient overflow in f16 \(loss scale 1\.2\d+e\+30\); the step's samples: .*dtype=bf16/,
  );
});

it("a disk without room for a checkpoint is refused before the first step; one that fills up ends the run, which resumes later", async () => {
  const config = settings({ stage: 1, steps: 4, ema: { decay: 0.9 }, save: { every: 2, keep: 1 } });
  let room = 1000;
  const steps: number[] = [];
  const disk: Partial<RunOptions> = {
    fileSystem: { ...nodeFileSystem, freeBytes: async () => room },
    onStep: ({ step }) => steps.push(step),
  };
  const small = await errorOf(() => go("room", config, disk));
  expect(small).toBeInstanceOf(FileError);
  expect(small).toMatchObject({ code: "ENOSPC", message: expect.stringMatching(/room needs .*make room/) as string });
  expect([steps, readdirSync(at("room"))]).toEqual([[], []]);

  room = Infinity;
  const full = await errorOf(() => go("room", config, { ...disk, onStep: ({ step }) => step === 2 && (room = 1000) }));
  expect(full).toBeInstanceOf(SaveError);
  expect(full).toMatchObject({ code: "ENOSPC", step: 4 });
  expect(full.message).toMatch(/earlier checkpoints are unchanged; free some space and save again/);
  const { bytes, verified } = await new Checkpoints(at("room")).verify(2);
  expect([verified, readdirSync(at("room")).filter((name) => /step/.test(name))]).toEqual([true, ["step-00000002"]]);

  // What is asked for is what a checkpoint takes.
  room = bytes;
  expect(await errorOf(() => go("room", config, disk))).toBeInstanceOf(FileError);
  room = bytes + 2 ** 20;
  expect((await go("room", config, disk)).steps).toBe(4);
  expect(steps).toEqual([2, 3]);
});

it("more bad samples than are allowed end the run; its steps are kept, and it resumes if more are allowed", async () => {
  const some = { seed: 1, steps: 5 };
  const straight = await go("allowed", settings(some));
  const none = { ...some, bad: { share: 0, least: 0 } };
  const notices: string[] = [];
  let room = Infinity;
  const full: Partial<RunOptions> = {
    fileSystem: { ...nodeFileSystem, freeBytes: async () => room },
    onStep: () => (room = 1000),
    onNotice: (message) => notices.push(message),
  };
  expect(await errorOf(() => go("strict", settings(none), full))).toBeInstanceOf(QuarantineError);
  expect([notices, await new Checkpoints(at("strict")).list()]).toEqual([[expect.stringMatching(/^not saved: .*room/)], []]); // prettier-ignore
  const error = await errorOf(() => go("strict", settings(none)));
  expect(error).toBeInstanceOf(QuarantineError);
  expect(error.message).toMatch(
    /missing\.png.*; all of them are in .*quarantine\.jsonl\. Correct the data, or allow more \(bad\.share/,
  );
  const steps = await new Checkpoints(at("strict")).list();
  expect([steps.length, steps[0]! > 0, steps[0]! < 5]).toEqual([1, true, true]);
  const { checkpoint } = await go("strict", settings({ ...none, bad: { least: 2 } }));
  const weights = (folder: string): Buffer => readFileSync(join(folder, "model.safetensors"));
  expect(Buffer.compare(weights(checkpoint), weights(straight.checkpoint))).toBe(0);
  expect(losses("strict")).toEqual(losses("allowed"));
});

it("texts longer than a row are bad samples, or truncated; the system prompt is a setting", async () => {
  const long = "red blue green ".repeat(400);
  writeFileSync(at("data", "long.jsonl"), `${JSON.stringify({ text: long })}\n${JSON.stringify({ text: "red" })}\n`);
  const sources = [{ path: at("data", "long.jsonl") }, { path: at("data", "und.jsonl") }];
  const texts = { ratios: { und: 1, text: 1, gen: 0 }, batch: 4, steps: 1 };
  const set = async (run: string, data: object): Promise<{ bad: boolean; tokens: number }> => {
    await go(run, settings({ ...texts, data }), { sources });
    const [{ tokens, padding }] = losses(run) as [StepEvent];
    return { bad: existsSync(at(run, "quarantine.jsonl")), tokens: tokens - padding };
  };
  const [refused, cut, bare] = [await set("refused", {}), await set("cut", { truncate: true }), await set("bare", { system: "" })]; // prettier-ignore
  expect([refused.bad, cut.bad, bare.bad]).toEqual([true, false, true]);
  expect(readFileSync(at("refused", "quarantine.jsonl"), "utf8")).toMatch(/the text has \d+ tokens, at most 256 fit.*data\.truncate=true/); // prettier-ignore
  expect(cut.tokens).toBeGreaterThan(256);
  expect(bare.tokens).toBeLessThan(refused.tokens);
  const special = await errorOf(() => set("special", { system: "a <image_placeholder>" }));
  expect(special.message).toMatch(/the system prompt contains .*, a special token of the model/);
});

it("codes of janus data tokenize are those that training asks for", async () => {
  const model = at("half");
  expect(await runHere(addConvert, ["convert", at("model"), model, "--layout", "hf", "--dtype", "bf16"])).toMatchObject(
    { code: 0 },
  );
  const encoded = async (cache: string, dtype: string): Promise<number> => {
    let launches = 0;
    const listener = ({ label }: Launch): number => (launches += Number(label.startsWith(CODES_LABEL)));
    device.onLaunch(listener);
    await go(`coded-${cache}-${dtype}`, settings({ steps: 1, dtype }), { model, cache: at(cache) });
    device.offLaunch(listener);
    return launches;
  };
  const typed = ["data", "tokenize", at("data", "gen.jsonl"), "--model", model, "--cache", at("tokenized")];
  expect(await runHere(addData, typed)).toMatchObject({ code: 0 });
  expect([await encoded("tokenized", "f32"), (await encoded("tokenized", "bf16")) > 0]).toEqual([0, true]);
  expect(await runHere(addData, [...typed, "--dtype", "bf16"])).toMatchObject({ code: 0 });
  expect(await encoded("tokenized", "bf16")).toBe(0);
});

it("averages of the weights are exported in their place", async () => {
  const config = settings({ stage: 1, steps: 3, dtype: "bf16", ema: { decay: 0.5 } });
  const { checkpoint } = await go("averaged", config);
  const [last, averages] = [await openCheckpoint(folderSource(checkpoint)), await openCheckpoint(folderSource(checkpoint), { ema: true })]; // prettier-ignore
  const file = await openFile(join(checkpoint, "ema.safetensors"));
  const { tensors } = await readSafetensors(file);
  await file.close?.();
  const [trained, rest] = [[...tensors.keys()], [...last.tensors.keys()].filter((name) => !tensors.has(name))];
  expect(trained.every((name) => TRAINED[1].some((prefix) => name.startsWith(prefix)))).toBe(true);
  const result = await runHere(addCkpt, [
    "ckpt",
    "export",
    at("averaged"),
    "3",
    at("averages"),
    "--ema",
    "--layout",
    "deepseek",
  ]);
  expect(result).toMatchObject({ code: 0 });
  const exported = await openCheckpoint(folderSource(at("averages")));
  const bytes = (of: Checkpoint, name: string): Promise<Uint8Array> => of.read(of.parameters.get(name)!);
  const same = async (name: string, expected: Uint8Array): Promise<boolean> =>
    Buffer.compare(await bytes(exported, name), expected) === 0;
  for (const name of rest) expect(await same(name, await bytes(last, name)), name).toBe(true);
  let moved = 0;
  for (const name of trained) {
    expect(exported.parameters.get(name)!.dtype).toBe("bf16");
    const average = castFloats(await bytes(averages, name), "f32", "bf16", name);
    expect(await same(name, average), name).toBe(true);
    moved += Number(Buffer.compare(average, await bytes(last, name)) !== 0);
  }
  expect(moved).toBeGreaterThan(trained.length / 2);
  for (const open of [last, averages, exported]) await open.close();
  const plain = await runHere(addCkpt, ["ckpt", "export", at("search"), "5", at("none"), "--ema"]);
  expect([plain.code, plain.stderr]).toEqual([3, expect.stringMatching(/no ema\.safetensors; train with ema\.decay/)]);
});

// In the short form examples.test.ts sees it fall in the demo.
it.runIf(isLong)("the loss falls", async () => {
  await go("long", settings({ steps: 14, optimizer: { lr: 3e-3, warmup: 3 }, microRows: 4 }));
  const curve = losses("long") as { loss: number }[];
  expect(curve.at(-1)!.loss).toBeLessThan(curve[0]!.loss * 0.7);
});

it("a run with samples and a report trains the same bits as one without, and its folder holds what the page shows", async () => {
  const config = { steps: 2, recompute: true, microRows: 2, save: { every: 1, keep: 5 } };
  const live = device.pool.stats.liveBytes;
  const plain = await go("plain", settings(config));
  const prompts = ["a red square", "a <b>blue</b> square"];
  const notices: string[] = [];
  const report = { every: 1, sampleEvery: 1, prompts, seed: 5, reconstructions: 2 };
  const shown = await go("shown", settings({ ...config, report }), {
    onNotice: (message) => notices.push(message),
    onStep: ({ step }) => step > 0 && expect(readFileSync(at("shown", "report.html"), "utf8")).toMatch(/"refresh"/),
  });
  expect(notices).toEqual([]);
  expectEqualFiles(plain.checkpoint, shown.checkpoint);
  expect(losses("shown")).toEqual(losses("plain"));
  expect(device.pool.stats.liveBytes, device.pool.table()).toBe(live);

  expect(readdirSync(at("shown", "samples")).sort()).toEqual(["reconstructions", "step-00000001", "step-00000002"]);
  const drawn = await readPicture(at("shown", "samples", "step-00000002", "001.png"));
  expect(drawn).toMatchObject({ prompt: prompts[1], seed: 6 });
  using janus = await Janus.fromPretrained(shown.checkpoint, { device });
  const [again] = await janus.generate(prompts[1]!, { seed: 6 }).images();
  expect(drawn.tokenIds).toEqual(again!.tokenIds); // the same as the checkpoint's

  const page = readFileSync(at("shown", "report.html"), "utf8");
  for (const path of [
    "samples/step-00000001/000.png",
    "samples/step-00000002/001.png",
    "samples/reconstructions/001.png",
  ])
    expect(page).toContain(readFileSync(at("shown", ...path.split("/"))).toString("base64"));
  expect(page).toContain("a &lt;b&gt;blue&lt;/b&gt; square");
  expect(page).toMatch(/2 of 2 steps/);
  expect(page).not.toMatch(/"refresh"|<script|no values yet/);
  expect(existsSync(at("plain", "report.html"))).toBe(false);
  expect((await readEvents(at("shown"))).map(({ kind }) => kind)).toEqual(["start", "save", "save", "end"]);
  cpSync(at("shown", "samples", "step-00000002"), at("shown", "samples", "step-00000009"), { recursive: true }); // left by a process that did not save
  expect((await go("shown", settings(config))).steps).toBe(2); // another report is no other setting
  expect(readdirSync(at("shown", "samples")).sort()).toEqual(["reconstructions", "step-00000001", "step-00000002"]);
});

it("the log has each step once, also after steps that were done and not saved", async () => {
  const config = settings({ steps: 4, save: { every: 2, keep: 5 } });
  const killed = await errorOf(() =>
    go("killed", config, {
      onStep: ({ step }) => {
        if (step === 2) throw new Error("the power went");
      },
    }),
  );
  expect(killed.message).toBe("the power went");
  appendFileSync(at("killed", "log.jsonl"), '{"step":3,"loss":3');
  appendFileSync(at("killed", "events.jsonl"), '{"time":');
  await go("killed", config);
  await go("whole", config);
  expect(losses("killed")).toEqual(losses("whole"));
  expect(losses("killed")).toHaveLength(4);
  const events = await readEvents(at("killed"));
  expect(events.map(({ kind, step }) => [kind, step])).toEqual([
    ["start", 0],
    ["save", 2],
    ["error", 3],
    ["resume", 2],
    ["save", 4],
    ["end", 4],
  ]);
  expect(events[2]!.text).toBe("the power went");
  expect(events[3]!.text).toMatch(/done again: 1$/);
});

it("a report that cannot be written is a notice, not an error", async () => {
  mkdirSync(at("blocked", "report.html"), { recursive: true });
  const notices: string[] = [];
  const { steps } = await go("blocked", settings({ steps: 1, report: { reconstructions: 0 } }), {
    onNotice: (message) => notices.push(message),
  });
  expect(steps).toBe(1);
  expect(notices).toEqual([expect.stringMatching(/the report could not be written: .*report\.html/)]);
});

it("a prompt that cannot be drawn is a notice, and the rest of the report is there", async () => {
  const notices: string[] = [];
  const report = { prompts: ["red ".repeat(2000)], reconstructions: 1 };
  await go("prompt", settings({ steps: 1, report }), { onNotice: (message) => notices.push(message) });
  expect(notices).toEqual([expect.stringMatching(/no images for the report: the prompt has \d+ tokens/)]);
  expect(readdirSync(at("prompt", "samples", "reconstructions"))).toEqual(["000-original.png", "000.png"]);
  expect(readFileSync(at("prompt", "report.html"), "utf8")).toMatch(/the prompt has \d+ tokens/);
});

it("without a given ceiling, MFU is a share of the measured matrix products of this device", async () => {
  await go("measured", settings({ steps: 2 }), { ceiling: undefined });
  const events = readFileSync(at("measured", "log.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line) as StepEvent); // prettier-ignore
  for (const { mfu, flops, ms, memoryBytes, tokensPerSecond, imagesPerSecond, tokens, padding } of events) {
    expect(mfu).toBeGreaterThan(0);
    expect(mfu).toBeLessThan(2); // products of another size, and a machine that others use too
    expect(flops).toBeGreaterThan(1e8);
    expect(memoryBytes).toBeGreaterThan(1e6);
    expect(tokensPerSecond).toBeCloseTo(((tokens - padding) * 1000) / ms, 6);
    expect(imagesPerSecond).toBeCloseTo((5 * 1000) / ms, 6); // 2 seen, 3 to be drawn
  }
});
