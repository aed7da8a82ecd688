/**
 * `npm run demo [-- --full | --quick | --smoke]`: trains a small Janus-Pro. It draws a data set of coloured shapes,
 * trains a small model from random weights through stages 0 to 3, then draws from prompts and answers questions that
 * are not in the training data; a judge that reads the pixels counts, next to the model of the full recipe (`shapes`).
 * Writes everything to demo/<length>/; the page and images of the default length go to demo/, those of the others to
 * demo/<length>/, so that a short run does not overwrite the report of a longer one. `--model NAME` shows an existing
 * model.
 */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Device, Janus, JanusError, savePicture } from "../index.node.ts";
import { writeFileAtomic } from "../model/node/index.ts";
import { KINDS, KIND_NAMES } from "./shapes/captions.ts";
import { APART, evaluate } from "./shapes/evaluate.ts";
import type { Results, Score } from "./shapes/evaluate.ts";
import { learn } from "./shapes/learn.ts";
import { reportPage } from "./shapes/page.ts";
import { RECIPES } from "./shapes/recipe.ts";
import type { Length } from "./shapes/recipe.ts";
import { showModel } from "./show_model.ts";

const FOLDER = "demo";
const SAID_EVERY = 5000; // ms

const { values } = parseArgs({
  options: {
    smoke: { type: "boolean", default: false },
    quick: { type: "boolean", default: false },
    full: { type: "boolean", default: false },
    fresh: { type: "boolean", default: false },
    seed: { type: "string", default: "0" },
    model: { type: "string" },
    n: { type: "string", default: "4" },
  },
});
const length: Length = values.full ? "full" : values.quick ? "quick" : values.smoke ? "smoke" : "default";

const started = performance.now();
const say = (line: string): void =>
  console.log(`${((performance.now() - started) / 1000).toFixed(0).padStart(5)} s  ${line}`);

/** At most one line in five seconds. */
function nowAndThen(): (line: string, always?: boolean) => void {
  let last = -Infinity;
  return (line, always = false) => {
    if (!always && performance.now() - last < SAID_EVERY) return;
    last = performance.now();
    say(line);
  };
}

const percent = ({ right, of }: Score): string => `${Math.round((100 * right) / of)} %`;

/** The table of the end: a row per kind, a column a model. */
function table(columns: readonly { readonly name: string; readonly results: Results }[]): string {
  const rows = [
    ["", ...columns.map(({ name }) => name)],
    ...KINDS.map((kind) => [KIND_NAMES[kind], ...columns.map(({ results }) => percent(results.drawing[kind]))]),
    ["questions", ...columns.map(({ results }) => percent(results.questions.all))],
    ["left of or not", ...columns.map(({ results }) => percent(results.questions.kinds[APART]))],
    ["held-out questions", ...columns.map(({ results }) => percent(results.heldOut.all))],
  ];
  const widths = rows[0]!.map((_, c) => Math.max(...rows.map((row) => row[c]!.length)));
  return rows.map((row) => row.map((cell, c) => (c ? cell.padStart(widths[c]! + 3) : cell.padEnd(widths[c]!))).join("")).join("\n"); // prettier-ignore
}

async function demo(device: Device): Promise<void> {
  const recipe = RECIPES[length];
  const folder = join(FOLDER, length);
  if (values.fresh || length !== "full") rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const stop = new AbortController();
  const onSignal = (): void => {
    if (stop.signal.aborted) process.exit(130);
    say("finishing the step; press Ctrl-C once more to exit at once");
    stop.abort();
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);

  const sometimes = nowAndThen();
  let steps = 0;
  const trained = await learn(folder, {
    recipe,
    seed: Number(values.seed),
    device,
    stop: stop.signal,
    onNotice: say,
    onStage: (name, count) => {
      steps = count;
      sometimes(name === "data" ? `drawing ${count} images` : `${name}: ${count} steps`, true);
    },
    onTokenizer: (report) => {
      sometimes(`stage 0  step ${report.step + 1}/${steps}  reconstruction ${report.reconstruction.toFixed(4)}`);
    },
    onStep: (stage, report) => {
      const losses = Object.entries(report.tasks).map(([task, { loss }]) => `${task} ${loss.toFixed(3)}`);
      sometimes(`stage ${stage}  step ${report.step + 1}/${steps}  loss of ${losses.join("  ")}`);
    },
  });
  if (trained === null) {
    say(length === "full" ? "stopped; the same command resumes from here" : "stopped");
    process.exitCode = 130;
    return;
  }

  const { prompts, questions } = recipe;
  const judged = async (name: string, model: string): Promise<{ name: string; results: Results }> => {
    using janus = await Janus.fromPretrained(model, { device });
    const onProgress = (done: number, total: number): void => sometimes(`judging ${name}: ${done}/${total}`);
    return { name, results: await evaluate(janus, { prompts, questions, onProgress }) };
  };
  const columns = [await judged(`${length} recipe`, trained)];
  if (length !== "full") columns.push(await judged("full recipe", "shapes"));
  const shownIn = length === "default" ? FOLDER : folder;
  const shown = KINDS.map((kind) => columns[0]!.results.drawn.find(({ prompt }) => prompt.kind === kind)!);
  for (const { prompt, picture } of shown) await savePicture(join(shownIn, `${prompt.kind}.png`), picture);
  const minutes = (performance.now() - started) / 60_000;
  const page = await reportPage({ length, recipe, device: device.name, minutes, columns, folder, trained });
  await writeFileAtomic(join(shownIn, "report.html"), new TextEncoder().encode(page));
  say(`done: ${join(shownIn, "report.html")}, images beside it, the model in ${trained}\n`);
  console.log(table(columns));
  console.log(
    `\nPrompts per kind: ${recipe.prompts}, questions: ${recipe.questions}; training had none of these prompts and none of the images asked about. Held-out questions, as many again, also name combinations that training never does.`,
  );
}

try {
  const device = await Device.create();
  say(`device: ${device.name}${device.capabilities.software ? " (software: correct, slow)" : ""}`);
  if (values.model === undefined) await demo(device);
  else await showModel(values.model, { folder: FOLDER, n: Number(values.n), seed: Number(values.seed), device, say });
  device.destroy();
} catch (error) {
  if (!(error instanceof JanusError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
