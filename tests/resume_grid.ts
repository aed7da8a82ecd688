/**
 * Resuming as it happens: `janus train` with 40 steps in one process, against one that is killed by SIGKILL a few steps after it has saved step 20
 * and another process that resumes. Every byte of the last checkpoint (weights, masters, moments, averages, state) and all that is logged but times
 * must be equal. For each stage, with 1 and 4 accumulations, with and without recomputed blocks:
 * `node scripts/run.mjs tests/resume_grid.ts [--steps 40] [--dtype f32|bf16|f16] [--muon] [--seed N]`. Exits with 1 if anything differs.
 */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { table } from "../cli/format.ts";
import { Device } from "../index.ts";
import { byteTokenizerFiles } from "../model/byte_tokenizer.ts";
import { createModel, tinyConfig } from "../model/janus/create.ts";
import { encodePng, writeFolderAtomic } from "../model/node/index.ts";
import { saveModel } from "../model/janus/save.ts";
import { Tokenizer } from "../model/janus/tokenizer.ts";
import type { StepEvent } from "../train/node/report/index.ts";
import { STAGES } from "../train/stages.ts";
import type { Stage } from "../train/stages.ts";
import { Checkpoints } from "../train/node/run/checkpoints.ts";
import { startCli } from "./cli.ts";
import { randomFrom } from "./random.ts";

export interface Cell {
  readonly stage: Stage;
  /** Groups of rows whose gradients are added up. */
  readonly accumulation: 1 | 4;
  readonly recompute: boolean;
}

export interface CellOptions {
  /** An even number from 6; the middle one is the last that is saved before the kill. */
  readonly steps: number;
  readonly dtype: "f32" | "bf16" | "f16";
  readonly muon?: boolean;
  /** Trains an adapter, on weights of `dtype` or on quantised ones, with dropout. */
  readonly lora?: "plain" | "int4";
  /** Trains preferences, or images that a program rewards, in place of samples of all tasks. */
  readonly objective?: keyof typeof OBJECTIVES;
  /** AdamW keeps moments of 8 bits and no f32 masters. */
  readonly int8?: boolean;
  /** From 0 to 1. */
  readonly random: () => number;
}

export interface Outcome extends Cell {
  /** Steps that the killed process had logged. */
  readonly killedAfter: number;
  readonly files: number;
  readonly bytes: number;
  /** Files, and lines of the log, that are not equal. */
  readonly differing: readonly string[];
  readonly seconds: number;
}

export const CELLS: readonly Cell[] = STAGES.flatMap((stage) =>
  ([1, 4] as const).flatMap((accumulation) => [false, true].map((recompute) => ({ stage, accumulation, recompute }))),
);

/** Settings of other objectives, and their data. */
const OBJECTIVES = {
  dpo: { settings: { dpo: { beta: 0.5 }, ratios: { und: 1, text: 0, gen: 1 } }, data: ["answers", "images"] },
  grpo: {
    settings: { grpo: { group: 3, updates: 2 }, batch: 2, ratios: { und: 0, text: 0, gen: 1 } },
    data: ["prompts"],
  },
} as const;
/** Rewards an image by its bytes, so that the same one has the same reward in any process. */
const REWARD = `require("readline").createInterface({ input: process.stdin }).on("line", (line) => console.log(Buffer.from(JSON.parse(line).png, "base64").reduce((a, b) => (31 * a + b) % 1009)));`; // prettier-ignore

const ROWS = 4;
const LENGTH = 160;
const SYSTEM = "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, and assist the user with a variety of tasks using natural language."; // prettier-ignore

/** Writes a model of all parts, as small as they go, and data of all tasks whose samples fill more than half a row. */
export async function prepare(home: string, device: Device): Promise<void> {
  const colours = { red: [220, 30, 30], green: [30, 200, 40], blue: [40, 60, 220] };
  const story = (name: string, k: number): string =>
    `${name} is a colour, ${Array.from({ length: 12 + k }, (_, i) => `${name} ${i}`).join(", ")}, and so on`;
  const texts = [SYSTEM, ...Object.keys(colours).map((name) => `what colour is it? a ${name} square`)];
  const sideFiles = byteTokenizerFiles({ texts, merges: 256 });
  const vocabulary = new Tokenizer({ tokenizer: new TextDecoder().decode(sideFiles.get("tokenizer.json")) }).size;
  const config = tinyConfig({
    vision: { imageSize: 32, hidden: 32, layers: 1, heads: 2, intermediate: 64 },
    vq: { multipliers: [1, 1], resBlocks: 1, codes: 64 },
    language: { vocabulary, hidden: 32, intermediate: 64, layers: 2, heads: 2, kvHeads: 1, headDim: 16 },
  });
  await writeFolderAtomic(join(home, "model"), 1e6, async (sink) => {
    const model = createModel(config, { dtype: "bf16", device });
    await saveModel(model, config, sink, { sideFiles }).finally(() => model.dispose());
  });
  mkdirSync(join(home, "data"));
  const rows = { und: [] as object[], text: [] as object[], gen: [] as object[] };
  for (const [name, rgb] of Object.entries(colours))
    for (let k = 0; k < 3; k++) {
      const [image, side] = [`${name}${k}.png`, 32 + 4 * k];
      const data = Uint8Array.from({ length: 3 * side * side }, (_, i) => rgb[i % 3]! + ((i * 7 + k) % 9));
      writeFileSync(join(home, "data", image), await encodePng({ width: side, height: side, data }));
      const content = [
        { type: "image_url", image_url: { url: image } },
        { type: "text", text: "what colour is it?" },
      ];
      rows.und.push({ messages: [{ role: "user", content }, { role: "assistant", content: name }] }); // prettier-ignore
      rows.gen.push({ prompt: story(name, k), image });
      rows.text.push({ text: story(name, k) });
    }
  const names = Object.keys(colours);
  const others = names.map((name, i) => [name, names[(i + 1) % names.length]!] as const);
  const preferences = {
    answers: others.map(([chosen, rejected]) => ({
      prompt: `a ${chosen} square. what colour is it?`,
      chosen,
      rejected,
    })),
    images: others.map(([a, b]) => ({
      prompt: `a ${a} square`,
      chosen_image: `${a}0.png`,
      rejected_image: `${b}0.png`,
    })),
    prompts: names.map((name) => ({ prompt: `a ${name} square` })),
  };
  writeFileSync(join(home, "reward.cjs"), REWARD);
  for (const [task, all] of Object.entries({ ...rows, ...preferences }))
    writeFileSync(join(home, "data", `${task}.jsonl`), all.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

/** All three processes of a cell, in folders of their own, which are removed again. Throws if one does not end as it must. */
export async function runCell(
  home: string,
  cell: Cell,
  { steps, dtype, muon = false, lora, objective, int8 = false, random }: CellOptions,
): Promise<Outcome> {
  const started = performance.now();
  const folder = mkdtempSync(join(home, "cell-"));
  const half = steps / 2;
  const settings = {
    stage: cell.stage,
    batch: ROWS,
    length: LENGTH,
    steps,
    ratios: { und: 1, text: 1, gen: 2 },
    optimizer: {
      lr: 2e-3,
      warmup: 5,
      cooldown: 5,
      weightDecay: 0.01,
      muon,
      ...(int8 && { moments: "int8", masters: "bf16" }),
    },
    microRows: ROWS / cell.accumulation,
    recompute: cell.recompute,
    dtype,
    ema: { decay: 0.9 },
    lossScaling: { growthInterval: 5 },
    save: { every: half, keep: 2 },
    report: { every: 0 },
    ...(objective && { ...OBJECTIVES[objective].settings, conditioningDropout: 0 }),
    ...(objective === "grpo" && {
      grpo: { ...OBJECTIVES.grpo.settings.grpo, reward: `node ${join(home, "reward.cjs")}` },
    }),
    ...(lora && {
      lora: { rank: 4, dropout: objective === "grpo" ? 0 : 0.1, ...(lora === "int4" && { quantize: lora }) },
    }),
  };
  writeFileSync(join(folder, "settings.yaml"), JSON.stringify(settings));
  const start = (run: string): ReturnType<typeof startCli> =>
    startCli([
      "train",
      join(folder, "settings.yaml"),
      `--model=${join(home, "model")}`,
      `--run=${join(folder, run)}`,
      `--cache=${join(folder, `${run}-cache`)}`,
      "--data",
      ...(objective ? OBJECTIVES[objective].data : ["und", "text", "gen"]).map((task) =>
        join(home, "data", `${task}.jsonl`),
      ),
    ]);
  const toEnd = async (run: string, from: number): Promise<void> => {
    const { code, stderr } = await start(run).result;
    const first = stepsIn(stderr)[0];
    if (code !== 0 || first !== from) throw new Error(`${run} began with step ${first} and ended with ${code}: ${stderr}`); // prettier-ignore
  };

  await toEnd("straight", 1);

  let killed = 0;
  // On a machine that stands still for a moment the process may be at its end before the kill comes.
  for (let attempt = 0; killed !== half; attempt++) {
    if (attempt === 5) throw new Error(`the kill came too late ${attempt} times`);
    rmSync(join(folder, "broken"), { recursive: true, force: true });
    killed = await killedRun(start("broken"), join(folder, "broken"), half, random);
  }
  const killedAfter = logged(join(folder, "broken")).length;

  await toEnd("broken", half + 1);

  const [a, b] = ["straight", "broken"].map((run) => new Checkpoints(join(folder, run)).folder(steps)) as [string, string]; // prettier-ignore
  const [files, others] = [readdirSync(a), readdirSync(b)];
  const differing = files.filter((name) => !others.includes(name)).concat(others.filter((name) => !files.includes(name))); // prettier-ignore
  let bytes = 0;
  for (const name of files.filter((one) => others.includes(one))) {
    const [left, right] = [readFileSync(join(a, name)), readFileSync(join(b, name))];
    bytes += left.length;
    if (!left.equals(right)) differing.push(name);
  }
  const [straight, broken] = [logged(join(folder, "straight")), logged(join(folder, "broken"))];
  if (straight.length !== steps || broken.length !== steps) differing.push(`log: ${straight.length} and ${broken.length} lines`); // prettier-ignore
  for (const [i, line] of straight.entries()) if (line !== broken[i]) differing.push(`log, step ${i + 1}`);
  for (const line of straight) {
    const { tokens } = JSON.parse(line) as { tokens: number };
    if (!objective && tokens !== ROWS * LENGTH)
      throw new Error(`a step has ${tokens} tokens, not ${ROWS} rows of ${LENGTH}`);
  }
  rmSync(folder, { recursive: true });
  return { ...cell, killedAfter, files: files.length, bytes, differing, seconds: (performance.now() - started) / 1000 };
}

/** Kills a run after one of the steps behind `half`, within the time of one more. Returns the step of its newest checkpoint then. */
async function killedRun(
  { child, result }: ReturnType<typeof startCli>,
  run: string,
  half: number,
  random: () => number,
): Promise<number> {
  const killAfter = half + 1 + Math.floor(Math.min(4, half - 2) * random());
  let [text, last, before, isArmed] = ["", performance.now(), 0, false];
  child.stderr!.on("data", (chunk: string) => {
    text += chunk;
    const step = stepsIn(text).at(-1) ?? 0;
    if (step === before) return;
    const ms = (performance.now() - last) / (step - before);
    [before, last] = [step, performance.now()];
    if (step < killAfter || isArmed) return;
    isArmed = true;
    setTimeout(() => child.kill("SIGKILL"), ms * random());
  });
  const { code, stderr } = await result;
  if (code !== null && code !== 0) throw new Error(`the process that was to be killed ended with ${code}: ${stderr}`);
  return (await new Checkpoints(run).newestVerified()).newest?.step ?? 0;
}

const stepsIn = (text: string): number[] => [...text.matchAll(/^step (\d+)\//gm)].map(([, n]) => Number(n));

/** Fields of a line of the log that depend on the clock and on the device's memory. */
const UNEQUAL: readonly string[] = ["ms", "waitingMs", "tokensPerSecond", "imagesPerSecond", "mfu", "memoryBytes"] satisfies (keyof StepEvent)[]; // prettier-ignore

/** The whole lines of a run's log, without that. */
const logged = (run: string): string[] =>
  readFileSync(join(run, "log.jsonl"), "utf8")
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.stringify(JSON.parse(line), (key, value: unknown) => (UNEQUAL.includes(key) ? undefined : value))); // prettier-ignore

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      steps: { type: "string", default: "40" },
      dtype: { type: "string", default: "bf16" },
      muon: { type: "boolean", default: false },
      seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 31)) },
    },
  });
  const { dtype, muon } = values;
  if (!(dtype === "f32" || dtype === "bf16" || dtype === "f16")) throw new Error(`--dtype ${dtype}; f32, bf16 or f16`);
  const options = { steps: Number(values.steps), dtype, muon, random: randomFrom(Number(values.seed)) } as const;
  const home = mkdtempSync(join(tmpdir(), "janus-resume-"));
  try {
    const device = await Device.create();
    await prepare(home, device);
    device.destroy();
    console.log(`${options.steps} steps in ${dtype}${muon ? ", matrices by Muon" : ""}, seed ${values.seed}`);
    const rows = [["stage", "accumulation", "recomputed", "killed after", "files", "bytes", "differing", "s"]];
    for (const cell of CELLS) {
      const { stage, accumulation, recompute, killedAfter, files, bytes, differing, seconds } = await runCell(home, cell, options); // prettier-ignore
      const row = [stage, accumulation, recompute ? "yes" : "no", `step ${killedAfter}`, files, bytes, differing.length, seconds.toFixed(0)]; // prettier-ignore
      rows.push(row.map(String));
      console.log(row.join("  "));
      for (const name of differing) console.log(`  differs: ${name}`);
      if (differing.length) process.exitCode = 1;
    }
    console.log(`\n${table(rows)}`);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
