/** Preferences and prompts as data, the settings of dpo and grpo, advantages, and reward programs that fail. */
import { afterEach, describe, expect, it } from "vitest";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { shippedModel } from "../../model/janus/node/shipped.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import { folderSource } from "../../model/node/files.ts";
import { tinyConfig } from "../../model/janus/create.ts";
import { estimateStep } from "../../train/estimate.ts";
import type { StepEstimate } from "../../train/estimate.ts";
import { checkConfig } from "../../train/config.ts";
import type { TrainConfig } from "../../train/config.ts";
import { RecordEncoder } from "../../train/data/encode.ts";
import { SampleError, SourceError } from "../../train/data/errors.ts";
import type { RawSample } from "../../train/data/raw_sample.ts";
import { advantagesOf } from "../../train/grpo.ts";
import { unitGroups } from "../../train/objective.ts";
import { kindOf, parseRecord, requireUse, sourceTask } from "../../train/node/data/sources.ts";
import { RewardProgram } from "../../train/node/reward.ts";
import { loadConfig } from "../../train/node/settings.ts";
import { RewardError } from "../../train/policy.ts";
import { IGNORE, textSample, trainedTokens } from "../../train/samples.ts";
import type { Sample, Task } from "../../train/samples.ts";
import { errorOf } from "../gpu.ts";
import { SMALL } from "../small_model.ts";

function parse(record: unknown, task?: Task): RawSample {
  const kind = kindOf(record)!;
  const found = sourceTask({ path: "pairs.jsonl", ...(task && { task }) }, kind);
  return parseRecord(record, kind, found, { file: "pairs.jsonl", line: 3, images: "/pictures" });
}

describe("records of preferences", () => {
  const question = { role: "user", content: "Which colour?" };

  it("are two answers to a question, with or without images, as texts or as messages", () => {
    expect(parse({ id: 1, prompt: "Which colour?", chosen: "Red.", rejected: "Loud." }, "text")).toEqual({
      task: "text",
      messages: [question, { role: "assistant", content: "Red." }],
      rejected: "Loud.",
    });
    const turns = [question, { role: "assistant", content: "Red." }, { role: "user", content: "Sure?" }];
    const answer = (content: string): unknown => [{ role: "assistant", content }];
    expect(parse({ prompt: [{ role: "system", content: "Be brief." }, ...turns], chosen: answer("Yes."), rejected: answer("Perhaps.") })).toEqual({
      task: "und",
      images: [],
      system: "Be brief.",
      messages: [...turns, { role: "assistant", content: "Yes." }],
      untrained: [1],
      rejected: "Perhaps.",
    }); // prettier-ignore
    const image = { type: "image" };
    const words = { type: "text", text: "Which colour?" };
    for (const [prompt, content] of [["Which colour?", [image, words]], ["Which colour?<image>", [words, image]]] as const)
      expect(parse({ prompt, image: "a.png", chosen: "Red.", rejected: "Loud." })).toMatchObject({
        images: ["/pictures/a.png"],
        messages: [{ role: "user", content }, { role: "assistant" }],
      }); // prettier-ignore
  });

  it("are two images for a prompt", () => {
    expect(parse({ prompt: "a cat", chosen_image: "a.png", rejected_image: { bytes: "AAAA", path: null } })).toEqual({
      task: "gen",
      prompt: "a cat",
      image: "/pictures/a.png",
      rejected: "data:;base64,AAAA",
    });
    expect(parse({ prompt: "a cat" })).toEqual({ task: "gen", prompt: "a cat", image: "" });
  });

  it.each([
    [{ prompt: "a", chosen: "b", rejected: "b" }, /pairs.jsonl:3: chosen and rejected are the same/],
    [{ prompt: "a", chosen: "b", rejected: "" }, /rejected is empty/],
    [{ prompt: "a", chosen: "b", rejected: "c", score: 1 }, /the field "score" is not used/],
    [{ prompt: [question], chosen: [{ role: "assistant", content: "b", mood: 1 }], rejected: "c" }, /"chosen\[\]\.mood" is not used/],
    [{ prompt: [question], chosen: [question], rejected: "c" }, /chosen must be a text or one message of the assistant/],
    [{ prompt: [{ role: "assistant", content: "b" }], chosen: "b", rejected: "c" }, /message 0 is of "assistant"/],
    [{ chosen: "b", rejected: "c" }, /prompt must be a string, got nothing/],
    [{ prompt: "a", chosen_image: "a.png", rejected_image: "http://x/b.png" }, /only files and base64 data URLs are read/],
  ] as const)("that are wrong are named: %j", (record, message) => {
    expect(() => parse(record)).toThrow(message);
  }); // prettier-ignore

  it("of another use than the settings are refused before training", () => {
    const source = (kind: "pairs" | "preferences" | "prompts"): Parameters<typeof requireUse>[0] => [{ spec: { path: "x.jsonl" }, kind }]; // prettier-ignore
    expect(() => requireUse(source("preferences"), "samples")).toThrow(SourceError);
    expect(() => requireUse(source("prompts"), "samples")).toThrow(/x.jsonl: the settings need records to imitate .* got records of kind prompts/); // prettier-ignore
    expect(() => requireUse(source("pairs"), "preferences")).toThrow(/need preferences/);
    expect(() => requireUse(source("pairs"), "prompts")).toThrow(/need prompts \{prompt\} without images/);
    requireUse(source("preferences"), "preferences");
  });
});

describe("samples", () => {
  const encoder = async (options: Partial<ConstructorParameters<typeof RecordEncoder>[1]>): Promise<RecordEncoder> => {
    const source = folderSource(shippedModel("shapes")!);
    const checkpoint = await openCheckpoint(source);
    await checkpoint.close();
    const processor = await readProcessor(source, checkpoint.config);
    return new RecordEncoder(processor, { seed: 0, drop: 0, codes: async (path) => (path === "a" ? [1, 2, 3] : [4, 5, 6]), ...options }); // prettier-ignore
  };
  const of = { id: "0:0", epoch: 0, name: "pairs.jsonl:1" };
  const texts: RawSample = {
    task: "text",
    messages: [
      { role: "user", content: "Which colour?" },
      { role: "assistant", content: "red" },
    ],
    rejected: "the circle",
  };

  it("of preferences have the other answer or image with the same prompt, and only answers are trained", async () => {
    const preferences = await encoder({ use: "preferences" });
    const chosen = await preferences.encode(texts, of);
    const rejected = chosen.rejected!;
    const prompt = chosen.textTargets.findIndex((target) => target !== IGNORE) + 1;
    expect(prompt).toBeGreaterThan(4);
    expect(rejected.ids.slice(0, prompt)).toEqual(chosen.ids.slice(0, prompt));
    expect(rejected.ids.slice(prompt)).not.toEqual(chosen.ids.slice(prompt));
    expect(rejected.textTargets.findIndex((target) => target !== IGNORE) + 1).toBe(prompt);
    const drawn = await preferences.encode({ task: "gen", prompt: "a circle", image: "a", rejected: "b" }, of);
    const targets = ({ codeTargets }: Sample): number[] => [...codeTargets].filter((code) => code !== IGNORE);
    expect([targets(drawn), targets(drawn.rejected!)]).toEqual([[1, 2, 3], [4, 5, 6]]); // prettier-ignore
    await expect((await encoder({})).encode(texts, of)).rejects.toThrow(SampleError);
    await expect(preferences.encode({ task: "gen", prompt: "a circle", image: "a" }, of)).rejects.toThrow(/one of samples, and the run needs preferences/); // prettier-ignore
    await expect(encoder({ use: "preferences", truncate: true })).rejects.toThrow(
      /truncate must be false with preferences/,
    );
  });

  it("of prompts have a text and train nothing", async () => {
    const sample = await (await encoder({ use: "prompts" })).encode({ task: "gen", prompt: "a circle", image: "" }, of);
    expect([sample.prompt, trainedTokens(sample)]).toEqual(["a circle", 0]);
  });

  it("go through the model in whole pairs", () => {
    const text = (n: number): Sample => textSample("text", new Array<number>(n).fill(1), new Array<number>(n).fill(1));
    const units = [4, 5, 3, 9].map((n) => [text(n), text(n)]);
    const groups = unitGroups(units, { length: 10, microRows: 1 });
    const sizes = groups.map((rows) => rows.map((row) => row.map(({ ids }) => ids.length)));
    expect(sizes).toEqual([[[4, 4]], [[5, 5]], [[3, 3]], [[9], [9]]]);
    expect(unitGroups(units.slice(0, 3), { length: 10, microRows: 3 }).length).toBe(1);
  });
});

describe("settings", () => {
  const checked = (more: object): TrainConfig =>
    checkConfig({ stage: 2, batch: 2, length: 64, steps: 2, ratios: { und: 0, text: 0, gen: 1 }, optimizer: { lr: 1e-3 }, conditioningDropout: 0, ...more }); // prettier-ignore

  it.each([
    [{ dpo: {}, grpo: {} }, /grpo: is another training than dpo/],
    [{ dpo: {}, conditioningDropout: 0.1 }, /conditioningDropout: must be 0 with dpo and grpo/],
    [{ dpo: {}, data: { truncate: true } }, /data\.truncate: would cut the answers/],
    [{ dpo: { beta: 0 } }, /dpo\.beta/],
    [{ dpo: { label: 1 } }, /dpo\.label is not known/],
    [{ grpo: {}, ratios: { und: 1, text: 0, gen: 1 } }, /ratios: must be .* with grpo/],
    [{ grpo: {}, lora: { dropout: 0.1 } }, /lora\.dropout: must be 0 with grpo/],
    [{ grpo: { group: 1 } }, /grpo\.group/],
    [{ grpo: { temperature: 0 } }, /grpo\.temperature/],
    [{ grpo: { group: 33 } }, /grpo\.drawnAtOnce: must be at least grpo\.group/],
    [{ grpo: { timeout: 2 ** 31 / 1000 } }, /grpo\.timeout/],
  ] as const)("%j", (more, message) => {
    expect(() => checked(more)).toThrow(message);
  });

  it("of the presets are valid", () => {
    expect(loadConfig("dpo")).toMatchObject({ stage: 2, dpo: { beta: 0.1 }, lora: { rank: 16 } });
    expect(loadConfig("grpo", ["grpo.reward=./judge"])).toMatchObject({
      grpo: { group: 8, reward: "./judge", clip: 0.2 },
    });
  });
});

it("the count of a step has the frozen copy, both parts of pairs, and the rows without words", async () => {
  const sizes = tinyConfig(SMALL);
  const of = (more: object): Promise<StepEstimate> =>
    estimateStep(sizes, checkConfig({ stage: 2, batch: 2, length: 64, steps: 2, ratios: { und: 0, text: 0, gen: 1 }, optimizer: { lr: 1e-3 }, conditioningDropout: 0, ...more })); // prettier-ignore
  const plain = await of({});
  const lora = { rank: 2 };
  const [full, adapted, drawn] = [
    await of({ dpo: {} }),
    await of({ dpo: {}, lora }),
    await of({ grpo: { group: 2 }, lora }),
  ];
  expect(full.memory.weights).toBe(2 * plain.memory.weights);
  expect(adapted.memory.weights).toBeLessThan(1.2 * plain.memory.weights);
  expect([plain.targets.gen, full.targets.gen, drawn.targets.gen]).toEqual([32, 2, 64]); // codes, pairs, codes
  expect([plain.samples.length, full.samples.length, drawn.samples.length]).toEqual([2, 2, 4]);
  expect(full.rows).toBeGreaterThan(plain.rows);
});

it("advantages are standard deviations from the mean of a group; a group without a difference has none", () => {
  expect(advantagesOf([1, 0, 0, 1])).toEqual([1, -1, -1, 1]);
  expect(advantagesOf([0.3, 0.3, 0.3])).toEqual([0, 0, 0]);
  expect(advantagesOf([2, 0, 0, 0]).map((a) => a.toFixed(3))).toEqual(["1.732", "-0.577", "-0.577", "-0.577"]);
});

describe("a reward program", () => {
  const open: RewardProgram[] = [];
  afterEach(async () => {
    for (const program of open.splice(0)) await program.close();
  });
  const program = (script: string, timeout = 20): RewardProgram => {
    const one = new RewardProgram(`node -e '${script}'`, { timeout });
    open.push(one);
    return one;
  };
  const image = { width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6) };
  const two = [{ prompt: "a cat", image }, { prompt: "it is", image }]; // prettier-ignore
  const EACH = `require("readline").createInterface({input: process.stdin}).on("line", (line) => { const {index, of, prompt, png} = JSON.parse(line);`;

  it("gives a number for each image, step after step, from its prompt and its PNG", async () => {
    const one = program(
      `${EACH} console.log(prompt.length + index / of + Buffer.from(png, "base64").readUInt32BE(16)) })`,
    );
    expect(await one.rewards(two)).toEqual([7, 7.5]);
    expect(await one.rewards(two.slice(1))).toEqual([7]);
  });

  it.each([
    [`${EACH} console.log("good") })`, 20, /must print a finite number for each image; got "good"/],
    [`${EACH} console.log(NaN) })`, 20, /got "NaN"/],
    [`${EACH} console.log("1\\n1\\n1") })`, 20, /must print one line for each image; got \d lines for 2/],
    [`process.stdin.once("data", () => { console.log(1); console.error("no model"); process.exitCode = 3; process.stdin.destroy() })`, 20, /must print 2 numbers; got 1, then it ended with code 3\..*It said: no model/],
    [`${EACH} console.log("0x10") })`, 20, /must print a finite number for each image; got "0x10"/],
    [`process.stdin.once("data", () => process.stdout.write("x".repeat(3e6))); setTimeout(() => 0, 1e5)`, 20, /got "xxx|got \d lines for 2/],
    [`process.stdin.resume()`, 0.5, /must print 2 numbers within 0.5 s while its input stays open; got 0/],
  ] as const)("that fails is an error: %s", async (script, timeout, message) => {
    const error = await errorOf(() => program(script, timeout).rewards(two));
    expect(error).toBeInstanceOf(RewardError);
    expect(error.message).toMatch(message);
  }); // prettier-ignore

  it("that prints without end before it is asked has to wait, and takes no memory", async () => {
    const one = program(`const more = () => { while (process.stdout.write("1\\n".repeat(10000))); process.stdout.once("drain", more); }; more()`); // prettier-ignore
    await new Promise((resolve) => setTimeout(resolve, 600));
    const error = await errorOf(() => one.rewards(two));
    const [, count] = /must print one line for each image; got (\d+) more/.exec(error.message) ?? [];
    expect(Number(count)).toBeLessThan(200_000); // what a pipe and one chunk hold; without an end it is millions
  });

  it.skipIf(process.platform === "win32")(
    "ends though a process that it has started keeps its output open",
    async () => {
      const one = program(`require("child_process").spawn("sleep", ["30"], { detached: true, stdio: "inherit" }).unref(); process.exit(3)`); // prettier-ignore
      expect((await errorOf(() => one.rewards(two))).message).toMatch(/got 0, then it ended with code 3/);
      await one.close(); // the test ends only if this does
    },
  );
});
