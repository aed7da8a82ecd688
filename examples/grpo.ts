/**
 * `node scripts/run.mjs examples/grpo.ts [--minutes 25] [--out grpo-run]`: trains the shapes model that comes with the package by GRPO, with the demo's judge as
 * the reward command, and counts what it draws before and after. Prompts are those that training may have; those of the evaluation are others. A run that was
 * stopped resumes with the same command. `--minutes 0` only counts.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Device, Janus, JanusError } from "../index.node.ts";
import { shippedModel } from "../model/janus/node/shipped.ts";
import { Checkpoints, checkConfig, train } from "../train/node/index.ts";
import { KINDS, randomPrompt } from "./shapes/captions.ts";
import type { Kind } from "./shapes/captions.ts";
import { Dice } from "./shapes/dice.ts";
import { evaluate } from "./shapes/evaluate.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "25" },
    out: { type: "string", default: "grpo-run" },
    prompts: { type: "string", default: "100" },
    seeds: { type: "string", default: "1,2" },
    "after-only": { type: "boolean", default: false },
  },
});

/** What the model still does wrong comes more often. */
const ROUND: readonly Kind[] = ["colors", "position", "two_object", "counting", "color_attr", "position", "colors", "color_attr", "single_object"]; // prettier-ignore
const PROMPTS = 3000;
const STREAM = 31; // of random numbers, none of the demo's

/** Writes the prompts for training, and what each asks for. Returns the two files. */
function writePrompts(folder: string): { readonly data: string; readonly asked: string } {
  mkdirSync(folder, { recursive: true });
  const [data, asked] = [join(folder, "prompts.jsonl"), join(folder, "asked.jsonl")];
  const prompts = Array.from({ length: PROMPTS }, (_, i) => randomPrompt(new Dice(0, STREAM, i), ROUND[i % ROUND.length]!)); // prettier-ignore
  const lines = (all: readonly unknown[]): string => all.map((one) => `${JSON.stringify(one)}\n`).join("");
  writeFileSync(data, lines(prompts.map(({ text }) => ({ prompt: text }))));
  writeFileSync(asked, lines(prompts));
  return { data, asked };
}

/** Counts of the demo's evaluation by kind, over all seeds. */
async function judged(name: string, model: string, device: Device): Promise<void> {
  using janus = await Janus.fromPretrained(model, { device });
  for (const seed of values.seeds.split(",").map(Number)) {
    const { drawing } = await evaluate(janus, { prompts: Number(values.prompts), questions: 0, seed });
    console.log(`${name}, seed ${seed}: ${KINDS.map((kind) => `${kind} ${drawing[kind].right}/${drawing[kind].of}`).join("  ")}`); // prettier-ignore
  }
}

async function main(): Promise<void> {
  const device = await Device.create();
  const shipped = shippedModel("shapes")!;
  const { data, asked } = writePrompts(values.out);
  if (!values["after-only"]) await judged("before", shipped, device);
  const run = join(values.out, "run");
  const { checkpoint, steps } =
    values.minutes === "0" ? await newest(run) : await trained(shipped, run, { data, asked, device });
  await judged(`after ${steps} steps`, checkpoint, device);
  device.destroy();
}

/** The model that a run has left. */
async function newest(run: string): Promise<{ readonly checkpoint: string; readonly steps: number }> {
  const { newest: found } = await new Checkpoints(run).newestVerified();
  if (!found) throw new RangeError(`grpo: ${run} must have a checkpoint; got none. Train with --minutes 25.`);
  return { checkpoint: found.path, steps: found.step };
}

/** Trains for the minutes given, or resumes. */
async function trained(
  model: string,
  run: string,
  { data, asked, device }: { readonly data: string; readonly asked: string; readonly device: Device },
): Promise<{ readonly checkpoint: string; readonly steps: number }> {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), Number(values.minutes) * 60_000);
  process.on("SIGINT", () => stop.abort());
  const result = await train({
    model,
    run,
    cache: join(values.out, "cache"),
    device,
    sources: [{ path: data }],
    stop: stop.signal,
    config: checkConfig({
      stage: 2,
      batch: 8,
      length: 352,
      microRows: 12,
      steps: 1000,
      ratios: { und: 0, text: 0, gen: 1 },
      conditioningDropout: 0,
      optimizer: { lr: 1e-4, warmup: 5 },
      grpo: {
        reward: `node scripts/run.mjs examples/shapes/reward.ts ${asked}`,
        group: 8,
        updates: 2,
        beta: 0.01,
        guidance: 1,
        temperature: 1,
        drawnAtOnce: 64,
      },
      save: { every: 10, keep: 2 },
      report: { every: 0 },
    }),
    onStep: ({ step, measures, gradNorm, ms }) => {
      const { reward = NaN, flat = NaN, kl = NaN, clipped = NaN } = measures ?? {};
      console.log(`step ${step + 1}  reward ${reward.toFixed(3)}  flat ${flat.toFixed(2)}  kl ${kl.toFixed(4)}  clipped ${clipped.toFixed(3)}  norm ${gradNorm.toFixed(3)}  ${(ms / 1000).toFixed(1)} s`); // prettier-ignore
    },
  });
  clearTimeout(timer);
  return result;
}

try {
  await main();
} catch (error) {
  if (!(error instanceof JanusError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
