/**
 * Trains a small Janus-Pro on the emoji from random weights in a given time: the image tokenizer, then all else at a constant learning rate, then at a rate
 * that falls to 0, for as many steps as fit. Finished parts are not repeated, so a run that was stopped resumes.
 */
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Device } from "../../index.node.ts";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { createModel, tinyConfig } from "../../model/janus/create.ts";
import { DEFAULT_SYSTEM_PROMPT } from "../../model/janus/prompt.ts";
import { saveModel } from "../../model/janus/save.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { writeFolderAtomic } from "../../model/node/index.ts";
import { checkConfig, checkTokenizerConfig } from "../../train/config.ts";
import { Checkpoints } from "../../train/node/run/checkpoints.ts";
import { trainTokenizer } from "../../train/node/stage0/train.ts";
import { train } from "../../train/node/train.ts";
import { writeDataset, textsOf } from "./dataset.ts";
import { SIDE, loadEmoji } from "./pictures.ts";

const MERGES = 1500;
/** Tokens of a row, and rows that go through the model at once. */
export const ROW = 320;
const ROWS = 8;
/** Shares of the time. */
const SHARES = { tokenizer: 0.3, constant: 0.45, falling: 0.25 };
/** A step takes longer in the first steps, which compile kernels. */
const UNTIMED = 3;

export interface LearnOptions {
  /** Minutes of training, over all parts. */
  readonly minutes: number;
  readonly device: Device;
  readonly say: (line: string) => void;
  readonly stop: AbortSignal;
}

/** Writes a model of random weights whose tokenizer knows the words of training. */
async function randomModel(out: string, device: Device): Promise<void> {
  const texts = [...textsOf(loadEmoji()), ...Array<string>(20).fill(DEFAULT_SYSTEM_PROMPT)];
  const drawing = new TextEncoder().encode(JSON.stringify({ guidance_scale: 1.5, temperature: 0.8 }));
  const sideFiles = byteTokenizerFiles({ texts, merges: MERGES }).set("generation_config.json", drawing);
  const vocabulary = new Tokenizer({ tokenizer: new TextDecoder().decode(sideFiles.get("tokenizer.json")) }).size;
  const config = tinyConfig({
    vision: { imageSize: SIDE, patchSize: 8, hidden: 96, layers: 2, heads: 4, intermediate: 384 },
    vq: { baseChannels: 32, multipliers: [1, 1, 2, 2], resBlocks: 1, latentChannels: 64, codeDim: 8, codes: 512 },
    language: { vocabulary, hidden: 128, intermediate: 384, layers: 4, heads: 4, kvHeads: 4, headDim: 32 },
  });
  const model = createModel(config, { seed: 0, device });
  try {
    await writeFolderAtomic(out, 4 * model.parameterCount(), async (sink) => void (await saveModel(model, config, sink, { sideFiles }))); // prettier-ignore
  } finally {
    model.dispose();
  }
}

/** A signal that also aborts after some minutes. */
function within(minutes: number, stop: AbortSignal): { readonly signal: AbortSignal; readonly end: () => void } {
  const own = new AbortController();
  const timer = setTimeout(() => own.abort(), minutes * 60_000);
  const onStop = (): void => own.abort();
  stop.addEventListener("abort", onStop);
  return {
    signal: own.signal,
    end: () => {
      clearTimeout(timer);
      stop.removeEventListener("abort", onStop);
    },
  };
}

/** The newest model of a part that is done; null if it is not. */
async function doneBefore(run: string): Promise<string | null> {
  if (!existsSync(join(run, "done"))) return null;
  return (await new Checkpoints(run).newestVerified()).newest!.path;
}

interface Timing {
  readonly steps: number;
  /** Of a step, without the first ones. */
  readonly ms: number;
}

/** Runs a part until its time is over. Returns its model and how long its steps took; null if it was stopped before. */
async function part(
  name: string,
  { minutes, folder, say, stop }: LearnOptions & { readonly folder: string },
  start: (run: string, signal: AbortSignal, onStep: (text: string, ms: number) => void) => Promise<{ readonly checkpoint: string }>, // prettier-ignore
): Promise<{ readonly model: string; readonly timing: Timing } | null> {
  const run = join(folder, name);
  const done = await doneBefore(run);
  if (done) return { model: done, timing: JSON.parse(await readFile(join(run, "done"), "utf8")) as Timing };
  const times: number[] = [];
  const { signal, end } = within(minutes, stop);
  let said = 0;
  const { checkpoint } = await start(run, signal, (text, ms) => {
    times.push(ms);
    if (performance.now() - said > 10_000) say(`${name}  ${text}`);
    if (performance.now() - said > 10_000) said = performance.now();
  }).finally(end);
  if (stop.aborted) return null;
  const steady = times.length > UNTIMED ? times.slice(UNTIMED) : times;
  const timing = { steps: times.length, ms: steady.reduce((sum, ms) => sum + ms, 0) / Math.max(1, steady.length) };
  await writeFile(join(run, "done"), JSON.stringify(timing));
  say(`${name}: ${timing.steps} steps of ${(timing.ms / 1000).toFixed(2)} s`);
  return { model: checkpoint, timing };
}

/** Returns the folder of the trained model; null if `stop` aborted the training. */
export async function learn(folder: string, options: LearnOptions): Promise<string | null> {
  const { minutes, device, say } = options;
  const data = join(folder, "data");
  if (!existsSync(join(data, "text.jsonl"))) {
    const { pictures, heldOut } = await writeDataset(data);
    say(`${pictures} pictures to train on, ${heldOut} held out`);
  }
  const random = join(folder, "random");
  if (!existsSync(random)) await randomModel(random, device);
  const common = { cache: join(folder, "cache"), device, onNotice: say };
  const STEPS = 1_000_000; // its time ends a part
  const within = (share: number): LearnOptions & { readonly folder: string } => ({ ...options, folder, minutes: share * minutes }); // prettier-ignore

  const tokenizer = await part("tokenizer", within(SHARES.tokenizer), (run, stop, onStep) =>
    trainTokenizer({
      ...common,
      model: random,
      run,
      stop,
      config: checkTokenizerConfig({
        stage: 0,
        steps: STEPS,
        batch: 8,
        microBatch: 8,
        optimizer: { lr: 2e-3, warmup: 20 },
        reseed: { every: 25 },
        save: { every: 100, keep: 1 },
      }),
      sources: [{ path: join(data, "gen.jsonl"), task: "gen" }],
      onStep: ({ step, reconstruction, ms }) => onStep(`step ${step + 1}  reconstruction ${reconstruction.toFixed(4)}`, ms), // prettier-ignore
    }),
  );
  if (!tokenizer) return null;

  const stage =
    (model: string, schedule: object, steps: number) =>
    (run: string, stop: AbortSignal, onStep: (text: string, ms: number) => void) =>
      // prettier-ignore
      train({
      ...common,
      model,
      run,
      stop,
      config: checkConfig({
        stage: 3,
        steps,
        batch: 20,
        length: ROW,
        microRows: ROWS,
        ratios: { und: 5, text: 1, gen: 4 },
        optimizer: { lr: 2e-3, muon: true, weightDecay: 0.1, ...schedule },
        save: { every: 100, keep: 1 },
      }),
      sources: (["und", "gen", "text"] as const).map((task) => ({ task, path: join(data, `${task}.jsonl`) })),
      onStep: ({ step, tasks, ms }) => onStep(`step ${step + 1}  ${Object.entries(tasks).map(([task, { loss }]) => `${task} ${loss.toFixed(3)}`).join("  ")}`, ms), // prettier-ignore
    });
  const constant = await part("constant", within(SHARES.constant), stage(tokenizer.model, { warmup: 40 }, STEPS));
  if (!constant) return null;
  const steps = Math.max(5, Math.floor((SHARES.falling * minutes * 60_000) / constant.timing.ms));
  const falling = await part("falling", { ...within(1), minutes: 60 * minutes }, stage(constant.model, { cooldown: steps }, steps)); // prettier-ignore
  return falling?.model ?? null;
}
