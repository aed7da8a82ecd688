/** demo/report.html: what was learned, by table, curves and pictures. */
import { getDevice } from "../../engine/index.ts";
import { Janus, encodePng } from "../../model/janus/node/index.ts";
import { RunCurves, page, pictureGrid, readLog, table } from "../../train/node/report/index.ts";
import type { Content, PagePicture } from "../../train/node/report/index.ts";
import { STAGES } from "../../train/stages.ts";
import { KINDS, randomScene } from "./captions.ts";
import { Dice } from "./dice.ts";
import { APART } from "./evaluate.ts";
import type { Answered, Drawn, Results, Score } from "./evaluate.ts";
import { runOf } from "./learn.ts";
import { LAYOUT, PICTURE } from "./model.ts";
import { QUESTION_KINDS } from "./questions.ts";
import type { Recipe } from "./recipe.ts";
import { render } from "./scene.ts";

export interface ReportOptions {
  readonly length: string;
  readonly recipe: Recipe;
  readonly device: string;
  readonly minutes: number;
  /** The model of this run first. */
  readonly columns: readonly { readonly name: string; readonly results: Results }[];
  /** Folder of `learn`, and the folder of the model that came out. */
  readonly folder: string;
  readonly trained: string;
}

/** Pictures shown of each kind, and of each kind of question. */
const SHOWN = 6;
const ASKED = 2;
const RECONSTRUCTED = 6;
const UNSEEN = 5; // a stream of random numbers
const WIDTH = 128; // CSS pixels

const share = ({ right, of }: Score): string => `${((100 * right) / of).toFixed(0)} % (${right}/${of})`;

const drawnPicture = async ({ prompt, picture, verdict }: Drawn): Promise<PagePicture> => ({
  png: await encodePng(picture.image),
  caption: `${verdict.correct ? "✓" : "✗"} ${prompt.text}${verdict.correct ? "" : ` (${verdict.reason})`}`,
});

const askedPicture = async ({ asked, answer, correct }: Answered): Promise<PagePicture> => ({
  png: await encodePng(render(asked.scene, PICTURE)),
  caption: `${correct ? "✓" : "✗"} ${asked.question} ${answer}${correct ? "" : ` (${asked.answer})`}`,
});

/** The whole page. */
export async function reportPage(options: ReportOptions): Promise<string> {
  const { length, recipe, device, minutes, columns, folder, trained } = options;
  const names = columns.map(({ name }) => name);
  const asked = (name: string, half: "questions" | "heldOut"): string[][] => [
    [`${name} (all but ${APART})`, ...columns.map(({ results }) => share(results[half].all))],
    ...QUESTION_KINDS.map((kind) => [`… ${kind}`, ...columns.map(({ results }) => share(results[half].kinds[kind]))]),
  ];
  const scores = table(
    ["", ...names],
    [
      ...KINDS.map((kind) => [kind, ...columns.map(({ results }) => share(results.drawing[kind]))]),
      ...asked("questions", "questions"),
      ...asked("about held-out combinations", "heldOut"),
    ],
    columns.map((_, i) => i + 1),
  );
  const pictures = await Promise.all(
    columns.flatMap(({ results }) =>
      KINDS.flatMap((kind) =>
        results.drawn
          .filter((d) => d.prompt.kind === kind)
          .slice(0, SHOWN)
          .map(drawnPicture),
      ),
    ),
  );
  const perColumn = pictures.length / columns.length;
  const answers = await Promise.all(
    QUESTION_KINDS.flatMap((kind) =>
      columns[0]!.results.answered
        .filter((a) => a.asked.kind === kind)
        .slice(0, ASKED * 2)
        .map(askedPicture),
    ),
  );
  const { seen, psnr } = await reconstructions(trained);
  const { stages } = recipe;
  return page({
    title: "Janus-Pro learns shapes",
    summary: `The ${length} recipe on ${device}: ${minutes.toFixed(1)} minutes from random weights to this page. Stage 0 took ${recipe.tokenizer.steps} steps of ${recipe.tokenizer.batch} pictures, stages 1 to 3 took ${stages[1].steps}, ${stages[2].steps} and ${stages[3].steps} steps of ${stages[3].batch} samples.`,
    sections: [
      {
        title: "What it can do",
        content: [
          scores,
          `${recipe.prompts} prompts and ${recipe.questions} questions a kind, and as many questions about held-out combinations. Combinations and wordings were held out of all that training says, layouts of all its pictures: it had none of these prompts and none of the pictures asked about; the second half of the questions also asks for combinations that it never names. Pictures are judged by GenEval's rules, by a program that reads their pixels.`,
        ],
      },
      ...names.map((name, i) => ({
        title: `Drawn by ${name}`,
        content: [pictureGrid(pictures.slice(i * perColumn, (i + 1) * perColumn), { columns: SHOWN, width: WIDTH })],
      })),
      { title: `Answered by ${names[0]}`, content: [pictureGrid(answers, { columns: SHOWN, width: WIDTH })] },
      {
        title: "The image tokenizer",
        content: [
          `Pictures that it never saw, and below each what its 64 codes give: PSNR ${psnr.toFixed(1)} dB.`,
          pictureGrid(seen, { columns: RECONSTRUCTED, width: WIDTH }),
        ],
      },
      { title: "How it learned", content: await curves(folder) },
    ],
  });
}

/** Unseen pictures and what the tokenizer makes of them: a row of the first, a row of the second. */
async function reconstructions(model: string): Promise<{ seen: PagePicture[]; psnr: number }> {
  using janus = await Janus.fromPretrained(model, { device: getDevice() });
  const all = [];
  for (let i = 0; i < RECONSTRUCTED; i++)
    all.push(
      await janus.reconstruct(render(randomScene(new Dice(1, UNSEEN, i), { ...LAYOUT, heldOut: true }), PICTURE)),
    );
  const before = all.map(async ({ original }) => ({ png: await encodePng(original), caption: "seen" }));
  const after = all.map(async ({ image, psnr }) => ({ png: await encodePng(image), caption: `${psnr.toFixed(1)} dB` }));
  const psnr = all.reduce((sum, one) => sum + one.psnr, 0) / all.length;
  return { seen: await Promise.all([...before, ...after]), psnr };
}

/** How well stage 0 holds pictures, then the curves of the three stages one after the other. */
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
