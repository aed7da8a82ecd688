/**
 * `node scripts/run.mjs examples/emoji.ts [--minutes 90] [--out emoji]`: trains a small Janus-Pro on real pictures with real words, Microsoft's emoji, from
 * random weights, and counts what it knows of those that it has never seen. `--data-only` writes only the data. docs/tutorials/your_own_pictures.md walks
 * through it. A run that was stopped resumes with the same command.
 */
import { mkdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Device, Janus, JanusError } from "../index.node.ts";
import type { RgbImage } from "../index.node.ts";
import { encodePng } from "../model/node/index.ts";
import { writeDataset } from "./emoji/dataset.ts";
import { learn } from "./emoji/learn.ts";
import { measure } from "./emoji/measure.ts";
import type { Figures, Share } from "./emoji/measure.ts";
import { row } from "./show_model.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "90" },
    out: { type: "string", default: "emoji" },
    pictures: { type: "string", default: "100" },
    "data-only": { type: "boolean", default: false },
  },
});

const started = performance.now();
const say = (line: string): void =>
  console.log(`${((performance.now() - started) / 1000).toFixed(0).padStart(5)} s  ${line}`);

const percent = (share: number): string => `${Math.round(100 * share)} %`;
const line = (name: string, { right, of, chance }: Share): string =>
  `${name.padEnd(44)} ${percent(right / of).padStart(6)} of ${of}   (guessing: ${percent(chance)})`;

/** Rows of images below each other. */
function grid(rows: readonly (readonly RgbImage[])[]): RgbImage {
  const lines = rows.map((images) => row(images));
  const { width } = lines[0]!;
  const data = new Uint8Array(lines.reduce((sum, { data: own }) => sum + own.length, 0));
  let at = 0;
  for (const { data: own } of lines) {
    data.set(own, at);
    at += own.length;
  }
  return { width, height: data.length / (3 * width), data };
}

const SHOWN = 10;

async function show(janus: Janus, figures: Figures, folder: string): Promise<void> {
  const some = figures.shown.slice(0, SHOWN);
  const drawn = await janus.generate(some.map(({ emoji }) => emoji.en.label), { seed: 0 }).images(); // prettier-ignore
  const rows = [some.map(({ original }) => original), some.map(({ reconstruction }) => reconstruction), drawn.map(({ image }) => image)]; // prettier-ignore
  await writeFile(join(folder, "held-out.png"), await encodePng(grid(rows)));
  const { psnr, psnrOfMean, byDrawing, byAnswer, questions } = figures;
  const lines = [
    `${"reconstruction of held-out pictures, PSNR".padEnd(44)} ${psnr.toFixed(1)} dB   (a picture's mean colour: ${psnrOfMean.toFixed(1)} dB)`,
    line("the right caption of 20, by the codes", byDrawing),
    line("the right caption of 20, by the answer", byAnswer),
    ...Object.entries(questions).map(([kind, share]) => line(`questions: ${kind}`, share)),
  ];
  console.log(`\n${lines.join("\n")}\n`);
  for (const { question, answer, said } of figures.answers.slice(0, 8)) console.log(`${question}  ${said === answer ? "right" : "wrong"}: ${said}${said === answer ? "" : ` (${answer})`}`); // prettier-ignore
  console.log(`\nimages: ${join(folder, "held-out.png")}: held-out pictures, their reconstructions, and what is drawn for ${some.map(({ emoji }) => emoji.en.label).join(", ")}`); // prettier-ignore
}

async function main(): Promise<void> {
  mkdirSync(values.out, { recursive: true });
  if (values["data-only"]) {
    const { pictures, heldOut } = await writeDataset(join(values.out, "data"));
    say(`${join(values.out, "data")}: ${pictures} pictures to train on, ${heldOut} held out`);
    return;
  }
  const minutes = Number(values.minutes);
  if (!(minutes > 0)) throw new RangeError(`emoji: --minutes must be above 0; got ${values.minutes}`);
  const device = await Device.create();
  const stop = new AbortController();
  process.on("SIGINT", () => stop.abort());
  const model = await learn(values.out, { minutes, device, say, stop: stop.signal });
  if (model === null) {
    say("stopped; the same command resumes from here");
    process.exitCode = 130;
  } else {
    say(`the model is in ${model}`);
    using janus = await Janus.fromPretrained(model, { device });
    await show(janus, await measure(janus, Number(values.pictures)), values.out);
    say("done");
  }
  device.destroy();
}

try {
  await main();
} catch (error) {
  if (!(error instanceof JanusError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
