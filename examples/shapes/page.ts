/** The page of the demo: the images and answers of its models, their scores, and the curves of the training. */
import { getDevice } from "../../engine/index.ts";
import { Janus, encodePng } from "../../model/janus/node/index.ts";
import {
  RunCurves,
  html,
  page,
  picture,
  pictureGrid,
  picturePairs,
  readLog,
  sideBySide,
  table,
} from "../../train/node/report/index.ts";
import type { Content, Html, PagePicture } from "../../train/node/report/index.ts";
import { STAGES } from "../../train/stages.ts";
import { KINDS, KIND_NAMES, randomScene } from "./captions.ts";
import { Dice } from "./dice.ts";
import { APART } from "./evaluate.ts";
import type { Answered, Drawn, Results, Score } from "./evaluate.ts";
import { runOf } from "./learn.ts";
import { LAYOUT, PICTURE } from "./model.ts";
import { QUESTION_KINDS, QUESTION_NAMES } from "./questions.ts";
import type { Recipe } from "./recipe.ts";
import { render } from "./scene.ts";

export interface ReportOptions {
  readonly length: string;
  readonly recipe: Recipe;
  readonly device: string;
  readonly minutes: number;
  /** The model of this run first; a model of the full recipe last. */
  readonly columns: readonly { readonly name: string; readonly results: Results }[];
  /** Folder of `learn`, and the folder of the model that came out. */
  readonly folder: string;
  readonly trained: string;
}

/** Images shown of each kind, by the full recipe and by another, and questions of each kind in each half. */
const SHOWN = 6;
const SHOWN_SMALL = 5;
const ASKED = 4;
const RECONSTRUCTED = 8;
const PAIRS_IN_ROW = 4;
const UNSEEN = 5; // a stream of random numbers
const THUMBNAIL = 48; // CSS pixels

const share = ({ right, of }: Score): string => `${((100 * right) / of).toFixed(0)} % (${right}/${of})`;
const sign = (correct: boolean): string => (correct ? "✓" : "✗");

type Column = ReportOptions["columns"][number];

const drawnPicture = async ({ prompt, picture: { image }, verdict }: Drawn): Promise<PagePicture> => ({
  png: await encodePng(image),
  caption: `${sign(verdict.correct)} ${prompt.text}${verdict.correct ? "" : ` (${verdict.reason})`}`,
});

/** The whole page. */
export async function reportPage(options: ReportOptions): Promise<string> {
  const { length, recipe, device, minutes, columns, folder, trained } = options;
  const { stages } = recipe;
  // The full recipe is the last column; its images come first and are large.
  const [best, ...others] = columns.toReversed() as [Column, ...Column[]];
  const { pairs, psnr } = await reconstructions(trained);
  return page({
    title: "Janus-Pro learns shapes",
    summary: `The ${length} recipe on ${device}: ${minutes.toFixed(1)} minutes from random weights to this page. Stage 0 took ${recipe.tokenizer.steps} steps of ${recipe.tokenizer.batch} pictures, stages 1 to 3 took ${stages[1].steps}, ${stages[2].steps} and ${stages[3].steps} steps of ${stages[3].batch} samples.`,
    sections: [
      { title: `Images by the ${best.name}`, content: await drawnByKind(best, SHOWN) },
      {
        title: "Scores",
        content: [
          scores(columns),
          `${recipe.prompts} prompts and ${recipe.questions} questions of each kind, and as many questions about held-out combinations. Training contained none of these prompts and none of these pictures. Combinations and wordings were held out of all training texts, layouts of all training pictures; the second half of the questions also names combinations that no training text names. A program judges the pictures by GenEval's rules, from their pixels.`,
        ],
      },
      ...(await Promise.all(
        others.map(async (column) => ({
          title: `Images by the ${column.name}`,
          content: [sideBySide(await drawnByKind(column, SHOWN_SMALL))],
        })),
      )),
      {
        title: "Questions about images",
        content: [sideBySide([await answers(columns, false), await answers(columns, true)])],
      },
      {
        title: "The image tokenizer",
        content: [
          `Images that training did not contain, each beside its reconstruction from 64 codes. Mean PSNR: ${psnr.toFixed(1)} dB.`,
          picturePairs(pairs, { columns: PAIRS_IN_ROW }),
        ],
      },
      { title: "Training curves", content: await curves(folder) },
    ],
  });
}

/** A row for each kind of prompt and question, a column for each model. */
function scores(columns: readonly Column[]): Html {
  const asked = (name: string, half: "questions" | "heldOut"): string[][] => [
    [`${name} (all but “${QUESTION_NAMES[APART]}”)`, ...columns.map(({ results }) => share(results[half].all))],
    ...QUESTION_KINDS.map((kind) => [`… ${QUESTION_NAMES[kind]}`, ...columns.map(({ results }) => share(results[half].kinds[kind]))]), // prettier-ignore
  ];
  const right = columns.map((_, i) => i + 1);
  const names = columns.map(({ name }) => name);
  const drawing = KINDS.map((kind) => [KIND_NAMES[kind], ...columns.map(({ results }) => share(results.drawing[kind]))]); // prettier-ignore
  return sideBySide([
    table(["images", ...names], drawing, right),
    table(["questions", ...names], asked("held-out images", "questions"), right),
    table(["questions", ...names], asked("held-out combinations", "heldOut"), right),
  ]);
}

/** Images of each kind below its name. */
const drawnByKind = ({ results }: Column, most: number): Promise<Html[]> =>
  Promise.all(
    KINDS.map(async (kind) => {
      const some = results.drawn.filter(({ prompt }) => prompt.kind === kind).slice(0, most);
      return html`<h3>${KIND_NAMES[kind]}, ${share(results.drawing[kind])}</h3>
        ${pictureGrid(await Promise.all(some.map(drawnPicture)), { columns: most })}`;
    }),
  );

/** Questions about held-out images, or those that name held-out combinations: an image, its question, the answer of each model and the truth. */
async function answers(columns: readonly Column[], heldOut: boolean): Promise<Html> {
  const of = ({ results }: Column): readonly Answered[] =>
    QUESTION_KINDS.flatMap((kind) =>
      results.answered.filter(({ asked }) => asked.kind === kind && asked.heldOut === heldOut).slice(0, ASKED),
    );
  const answered = columns.map(of);
  const rows = answered[0]!.map(async ({ asked }, i): Promise<Content[]> => [
    picture({ png: await encodePng(render(asked.scene, PICTURE)), caption: asked.question }, THUMBNAIL),
    asked.question,
    ...answered.map((some) => `${sign(some[i]!.correct)}\u00a0${some[i]!.answer}`),
    asked.answer,
  ]);
  const names = columns.length > 1 ? columns.map(({ name }) => `answer (${name})`) : ["answer"];
  return html`<h3>${heldOut ? "About held-out combinations" : "About held-out images"}</h3>
    ${table(["image", "question", ...names, "truth"], await Promise.all(rows))}`;
}

/** Unseen images with their reconstructions, and the mean PSNR in dB. */
async function reconstructions(model: string): Promise<{ pairs: Parameters<typeof picturePairs>[0]; psnr: number }> {
  using janus = await Janus.fromPretrained(model, { device: getDevice() });
  const all = [];
  for (let i = 0; i < RECONSTRUCTED; i++)
    all.push(
      await janus.reconstruct(render(randomScene(new Dice(1, UNSEEN, i), { ...LAYOUT, heldOut: true }), PICTURE)),
    );
  const pairs = all.map(async ({ original, image, psnr }) => ({
    pictures: [
      { png: await encodePng(original), caption: "original" },
      { png: await encodePng(image), caption: "reconstruction" },
    ] as const,
    caption: `${psnr.toFixed(1)} dB`,
  }));
  return { pairs: await Promise.all(pairs), psnr: all.reduce((sum, { psnr }) => sum + psnr, 0) / all.length };
}

/** The reconstruction error of stage 0, then the curves of the three stages one after the other. */
async function curves(folder: string): Promise<Content[]> {
  const tokenizer = new RunCurves();
  for await (const line of readLog(runOf(folder, 0))) tokenizer.add(line);
  const stages = new RunCurves();
  for (const stage of STAGES) {
    stages.begin(`stage ${stage}`);
    for await (const line of readLog(runOf(folder, stage))) stages.add(line);
  }
  const [reconstruction] = await tokenizer.charts();
  return [reconstruction!, ...(await stages.charts())];
}
