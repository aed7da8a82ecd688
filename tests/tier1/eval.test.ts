/** All nine benchmarks from small files to pages with the shipped model: batches, resuming, parts of a run, and the layouts of drawn images. */
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { BENCHMARKS } from "../../eval/recipe.ts";
import type { Benchmark } from "../../eval/recipe.ts";
import type { PredictionLine } from "../../eval/predictions.ts";
import { evaluate } from "../../eval/run.ts";
import type { EvalOptions, Outcome } from "../../eval/run.ts";
import { readPicture } from "../../model/janus/node/janus.ts";
import { Janus } from "../../model/janus/node/janus.ts";
import { readImage } from "../../model/node/image_file.ts";
import { shippedModel } from "../../model/janus/node/shipped.ts";
import { writeBenchmarks } from "../eval_files.ts";
import { useDevice } from "../gpu.ts";

const SHORT: Partial<Record<Benchmark, string>> = {
  geneval: "geneval.imagesPerPrompt=1",
  dpg: "dpg.imagesPerPrompt=2",
};

describe("evaluation", () => {
  const device = useDevice();
  const root = mkdtempSync(join(tmpdir(), "janus-eval-"));
  const data = join(root, "data");
  let janus: Janus;
  beforeAll(async () => {
    writeBenchmarks(data);
    janus = await Janus.fromPretrained(shippedModel("shapes")!, { device: device() });
  });
  afterAll(() => {
    janus.dispose();
    rmSync(root, { recursive: true, force: true });
  });

  const notices: string[] = [];
  const run = (out: string, benchmarks: readonly Benchmark[], changes: Partial<EvalOptions> = {}): Promise<Outcome[]> =>
    evaluate({
      benchmarks,
      data,
      out: join(root, out),
      changes: { set: benchmarks.flatMap((name) => [`${name}.dtype=checkpoint`, SHORT[name] ?? `${name}.decoding.maxNewTokens=4`]) },
      batch: 8,
      limit: null,
      shard: { index: 0, count: 1 },
      canResume: true,
      scores: new Map(),
      judge: null,
      version: "0",
      commit: null,
      load: () => Promise.resolve({ janus, name: "shapes", dtype: "f32" }),
      signal: new AbortController().signal,
      onNotice: (message) => notices.push(message),
      onProgress: () => undefined,
      ...changes,
    }); // prettier-ignore
  const predictions = (out: string, benchmark: string): string => readFileSync(join(root, out, benchmark, "predictions.jsonl"), "utf8"); // prettier-ignore

  it("runs all nine, with the recipe and its changes beside every number", async () => {
    const outcomes = await run("all", BENCHMARKS, { limit: 1 });
    expect(outcomes.map(({ benchmark, result }) => [benchmark, result?.counts.items ?? null])).toEqual([
      ["pope", 1], ["mme", 2], ["mmbench", 2], ["seed", 1], ["gqa", 1], ["mmmu", 1], ["mmvet", 1], ["geneval", null], ["dpg", null],
    ]); // prettier-ignore
    expect(notices.join("\n")).toMatch(
      /pope: POPE.tsv has the MD5 [0-9a-f]{32}; the recipe's is c12f5acb142f2ef1f85a26ba2fbe41d5/,
    );
    const image = join(root, "all", "geneval", "images", "00000");
    expect(readdirSync(image).sort()).toEqual(["metadata.jsonl", "samples"]);
    expect(await readPicture(join(image, "samples", "0000.png"))).toMatchObject({ seed: 0, prompt: "a red circle" });
    const grid = await readImage(join(root, "all", "dpg", "images", "0.png"));
    expect([grid.width, grid.height]).toEqual([64, 32]); // two images of 32 × 32
    expect(JSON.parse(readFileSync(join(root, "all", "mmvet", "answers.json"), "utf8"))).toHaveProperty("v1_0");
    const page = readFileSync(join(root, "all", "results.html"), "utf8");
    for (const text of ["Table 3: understanding", "Janus-Pro-1B", "decoding.maxNewTokens: 4 instead of 2048", janus.fingerprint, "only the first 1 were evaluated"]) expect(page).toContain(text); // prettier-ignore
  });

  it("batches of 1 and 8, parts 1 and 2 of 2, and a run that was killed give the same bytes; an image is encoded once", async () => {
    const [whole] = await run("a", ["pope"]);
    expect(whole!.work).toEqual({ questions: 6, images: 6, encoded: 2, prefixes: 2 });
    await run("b", ["pope"], { batch: 1 });
    expect(predictions("b", "pope")).toBe(predictions("a", "pope"));
    const [first] = await run("c", ["pope"], { shard: { index: 1, count: 2 } });
    expect(first!.result).toBeNull();
    await run("c", ["pope"], { shard: { index: 0, count: 2 } });
    expect(predictions("c", "pope")).toBe(predictions("a", "pope"));
    // Killed while it wrote the third line.
    const text = predictions("a", "pope");
    const lines = text.split("\n");
    writeFileSync(join(root, "b", "pope", "predictions.jsonl"), `${lines.slice(0, 2).join("\n")}\n${lines[2]!.slice(0, 30)}`); // prettier-ignore
    const results = readFileSync(join(root, "b", "results.json"), "utf8");
    rmSync(join(root, "b", "results.json"));
    const [resumed] = await run("b", ["pope"], { batch: 2 });
    expect(resumed!.work!.questions).toBe(4);
    expect(predictions("b", "pope")).toBe(text);
    expect(readFileSync(join(root, "b", "results.json"), "utf8")).toBe(results);
    const other = run("b", ["pope"], { changes: { set: ["decoding.maxNewTokens=3", "dtype=checkpoint"] } });
    await expect(other).rejects.toThrow(/resumes only as it began; got recipe\.\S+ is .* instead of /);
  });

  it("answers are those of questions asked without a shared beginning; the words of an image lie together", async () => {
    const set = ["pope.dtype=checkpoint", "pope.roles=model", "pope.decoding.maxNewTokens=4"];
    const text = { a: "", b: "" };
    for (const [out, batch] of [
      ["a", 1],
      ["b", 8],
    ] as const) {
      const folder = `alone-${out}`;
      const [{ work }] = (await run(folder, ["pope"], { batch, changes: { set } })) as [Outcome];
      expect(work).toEqual({ questions: 6, images: 6, encoded: 2, prefixes: 2 });
      text[out] = predictions(folder, "pope");
    }
    expect(text.a).toBe(text.b);
    const lines = text.a
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as PredictionLine);
    const images = [...readFileSync(join(data, "POPE.tsv"), "utf8").matchAll(/[A-Za-z0-9+/=]{65,}/g)].map(([image]) => Buffer.from(image, "base64")); // prettier-ignore
    const of = (id: string): Buffer => images[Number(id) < 3 ? 0 : 1]!;
    const questions = lines.map(({ id, prompt }) => ({ question: prompt, images: [of(id)] }));
    const alone = await janus.askAll(questions, { system: "", maxNewTokens: 4, temperature: 0 });
    expect(lines.map(({ answer }) => answer)).toEqual(alone.map((one) => one.text));
    expect(new Set(lines.map(({ answer }) => answer)).size).toBeGreaterThan(1);
    expect(lines.map(({ id }) => Number(id) < 3)).toEqual([true, true, true, false, false, false]);
  });

  it("a run is scored again in another manner without asking; a file of another run is refused", async () => {
    await run("e", ["mmmu"]);
    const before = predictions("e", "mmmu");
    const manner = ["mmmu.dtype=checkpoint", "mmmu.decoding.maxNewTokens=4", "mmmu.scorer.manner=official"];
    const [official] = await run("e", ["mmmu"], { changes: { set: manner } });
    expect([official!.work!.questions, official!.result!.score.notes[0]]).toEqual([0, "scored in MMMU's own manner"]);
    await run("f", ["mmmu"], { changes: { set: manner } });
    expect(predictions("e", "mmmu")).toBe(predictions("f", "mmmu"));
    expect(predictions("e", "mmmu")).not.toBe(before);
    await run("e", ["mmmu"]);
    expect(predictions("e", "mmmu")).toBe(before);
    const file = join(root, "e", "mmmu", "predictions.jsonl");
    writeFileSync(file, before.replace('"id":"val_1"', '"id":"val_9"'));
    await expect(run("e", ["mmmu"])).rejects.toThrow(/the item val_\d is required here; got val_/);
    await expect(run("e", ["mmmu"], { canResume: false })).rejects.toThrow(/the folder must have no run; got one/);
    // What another process has begun is no run of this one.
    rmSync(file);
    writeFileSync(join(root, "e", "mmmu", "predictions-2-of-2.jsonl"), "");
    await run("e", ["mmmu"], { canResume: false, shard: { index: 0, count: 2 } });
  });

  it("of two processes in one folder the second is refused before it loads a model; parts of a run share it", async () => {
    const loaded = async (shard: EvalOptions["shard"]): Promise<() => Promise<void>> => {
      let stop = (): void => undefined;
      let ended: Promise<unknown> = Promise.resolve();
      await new Promise<void>((begun, failed) => {
        const load = (): Promise<never> => new Promise((_, reject) => (begun(), (stop = () => reject(new Error("enough"))))); // prettier-ignore
        ended = run("twice", ["mme"], { shard, load }).catch(failed);
      });
      return async () => (stop(), void (await ended));
    };
    const whole = { index: 0, count: 1 };
    const stopFirst = await loaded(whole);
    await expect(loaded(whole)).rejects.toThrow(/another evaluation has this results folder \(process .*use another --out/); // prettier-ignore
    await stopFirst();
    const parts = await Promise.all([0, 1].map((index) => loaded({ index, count: 2 })));
    for (const stop of parts) await stop();
    expect(readdirSync(join(root, "twice", "mme"))).toEqual([]);
  });

  it("a bad image is a counted row; scores come from files of others", async () => {
    const [seed] = await run("d", ["seed"]);
    expect(seed!.result!.counts).toEqual({ items: 2, scored: 1, bad: 1 });
    expect(readFileSync(join(root, "d", "seed", "bad.jsonl"), "utf8")).toContain("its image must be base64");
    const results = join(root, "results.jsonl");
    const tags = ["single_object", "two_object", "counting", "colors", "position", "color_attr"];
    writeFileSync(results, tags.map((tag, i) => JSON.stringify({ filename: `0000${i}/samples/0000.png`, tag, prompt: "a red circle", correct: i < 3 })).join("\n")); // prettier-ignore
    const answers = join(root, "answers.jsonl");
    writeFileSync(answers, [1, 2].map((question) => JSON.stringify({ item: "0", image: 0, question, answer: question === 1 ? "yes" : "no" })).join("\n")); // prettier-ignore
    const scores = new Map<Benchmark, string>([["geneval", results], ["dpg", answers]]); // prettier-ignore
    const outcomes = await run("all", ["geneval", "dpg"], { scores, limit: 1 });
    expect(outcomes.map(({ result }) => result!.score.headline.value)).toEqual([0.5, 50]);
    expect(outcomes[0]!.result!.about.model!.fingerprint).toBe(janus.fingerprint); // of run.json: this model drew them
  });
});
