/** What a model knows of emoji that it has never seen: reconstruction, the right caption among 20, questions. Each figure has its chance level. */
import type { Janus, RgbImage } from "../../index.node.ts";
import { noGrad } from "../../engine/index.ts";
import { imageTokens } from "../../model/janus/config.ts";
import { reconstruct } from "../../model/janus/image_codes.ts";
import { RecordEncoder } from "../../train/data/encode.ts";
import { taskLosses } from "../../train/loss.ts";
import { TASKS, imageSample, layRows, packSamples, targetsOf } from "../../train/samples.ts";
import type { Sample } from "../../train/samples.ts";
import { Dice } from "../shapes/dice.ts";
import { ROW } from "./learn.ts";
import { isHeldOut, loadEmoji, pixelsOf } from "./pictures.ts";
import type { Emoji } from "./pictures.ts";
import { CHANCE, NAME_QUESTIONS, QUESTION_KINDS, askAbout } from "./questions.ts";
import type { Question, QuestionKind } from "./questions.ts";

const EVALUATION = 42; // stream of random numbers
/** Captions of which one is right. */
const CAPTIONS = 20;
const ROWS_AT_ONCE = 8;

export interface Share {
  readonly right: number;
  readonly of: number;
  /** Share of right ones by guessing. */
  readonly chance: number;
}

export interface Figures {
  /** Mean PSNR of reconstructions, dB, and that of one colour for each picture, its mean. */
  readonly psnr: number;
  readonly psnrOfMean: number;
  /** The caption under which the codes of the picture are likeliest. */
  readonly byDrawing: Share;
  /** The caption that is the likeliest answer to "What is this?", per token. */
  readonly byAnswer: Share;
  readonly questions: Readonly<Record<QuestionKind, Share>>;
  readonly shown: readonly { readonly emoji: Emoji; readonly original: RgbImage; readonly reconstruction: RgbImage }[];
  /** Each with the likeliest of its choices. */
  readonly answers: readonly (Question & { readonly emoji: Emoji; readonly said: string })[];
}

/** Mean of −log p over the trained tokens of each sample. */
async function meanLosses(janus: Janus, samples: readonly Sample[]): Promise<number[]> {
  const found = new Map<Sample, number>();
  const packed = packSamples(samples, ROW);
  const { imageSize } = janus.config.vision;
  for (let r = 0; r < packed.length; r += ROWS_AT_ONCE) {
    const rows = layRows(packed.slice(r, r + ROWS_AT_ONCE), ROW, janus.processor.tokenizer.specials.pad, imageTokens(janus.config)); // prettier-ignore
    const losses = noGrad(() => taskLosses(janus.model, rows, imageSize, "none"));
    const targets = targetsOf(rows);
    for (const task of TASKS) {
      if (!losses[task]) continue;
      const values = await losses[task].data();
      const at = new Map([...rows.targets[task].at].map((token, m) => [token, m]));
      for (const [sample, own] of targets)
        if (sample.task === task) found.set(sample, own.at.reduce((sum, token) => sum + values[at.get(token)!]!, 0) / own.at.length); // prettier-ignore
      losses[task].dispose();
    }
  }
  return samples.map((sample) => found.get(sample)!);
}

/** How often the first of each group of `CAPTIONS` is the least. */
function firstBest(losses: readonly number[]): Share {
  let [right, of] = [0, 0];
  for (let g = 0; g < losses.length; g += CAPTIONS, of++)
    if (losses.slice(g + 1, g + CAPTIONS).every((other) => other > losses[g]!)) right++;
  return { right, of, chance: 1 / CAPTIONS };
}

function psnrOfMean({ data }: RgbImage): number {
  const means = [0, 1, 2].map((c) => data.reduce((sum, v, i) => sum + (i % 3 === c ? v : 0), 0) / (data.length / 3));
  const squares = data.reduce((sum, v, i) => sum + (v - means[i % 3]!) ** 2, 0);
  return 10 * Math.log10((255 ** 2 * data.length) / squares);
}

/** Held-out emoji without variants, each with a first code point of its own. */
function subjects(most: number): Emoji[] {
  const seen = new Set<string>();
  const all = loadEmoji().filter((one) => isHeldOut(one) && !one.isTone && !seen.has(one.base) && seen.add(one.base));
  return new Dice(0, EVALUATION, 0).shuffle(all).slice(0, most);
}

/** @param most pictures, of all that are held out */
export async function measure(janus: Janus, most: number): Promise<Figures> {
  const emoji = subjects(most);
  const dice = new Dice(0, EVALUATION, 1);
  const pictures = new Map<string, RgbImage>();
  const shown: { emoji: Emoji; original: RgbImage; reconstruction: RgbImage }[] = [];
  const codes = new Map<string, readonly number[]>();
  const psnr: [number, number][] = [];
  for (const one of emoji) {
    const pixels = await pixelsOf(one);
    pictures.set(one.code, pixels);
    const { tokenIds, original, image, psnr: own } = await reconstruct(janus.model.model.vqmodel, pixels);
    codes.set(one.code, tokenIds);
    psnr.push([own, psnrOfMean(original)]);
    shown.push({ emoji: one, original, reconstruction: image });
  }
  const mean = (i: 0 | 1): number => psnr.reduce((sum, pair) => sum + pair[i], 0) / psnr.length;

  const captions = emoji.map((one) => {
    const others = dice.shuffle(emoji.filter(({ en }) => en.label !== one.en.label)).slice(0, CAPTIONS - 1);
    return [one, ...others].map(({ en }) => en.label);
  });
  const { prompts } = janus.processor;
  const encoder = new RecordEncoder(janus.processor, {
    seed: 0,
    drop: 0,
    readImage: async (code) => pictures.get(code)!,
  });
  const drawn = emoji.flatMap((one, i) => captions[i]!.map((caption) => imageSample(prompts.encode(prompts.generation(caption)), [...codes.get(one.code)!]))); // prettier-ignore
  const reply = ({ code }: Emoji, question: string, answer: string): Promise<Sample> => {
    const messages = [
      { role: "user" as const, content: [{ type: "image" as const }, { type: "text" as const, text: question }] },
      { role: "assistant" as const, content: answer },
    ];
    return encoder.encode({ task: "und", images: [code], messages }, { id: code, epoch: 0, name: code });
  };
  const answered: Sample[] = [];
  for (const [i, one] of emoji.entries())
    for (const caption of captions[i]!) answered.push(await reply(one, NAME_QUESTIONS.en, caption));
  const asked = emoji.flatMap((one, i) => QUESTION_KINDS.map((kind, k) => ({ ...askAbout(new Dice(0, EVALUATION, 10 + 8 * i + k), one, kind, emoji), emoji: one }))); // prettier-ignore
  const replies: Sample[] = [];
  for (const { emoji: one, question, choices } of asked)
    for (const choice of choices) replies.push(await reply(one, question, choice));
  const losses = await meanLosses(janus, replies);
  let first = 0;
  const answers = asked.map((one) => {
    const own = losses.slice(first, (first += one.choices.length));
    return { ...one, said: one.choices[own.indexOf(Math.min(...own))]! };
  });
  const share = (kind: QuestionKind): Share => {
    const own = answers.filter((one) => one.kind === kind);
    return { right: own.filter(({ said, answer }) => said === answer).length, of: own.length, chance: CHANCE[kind] };
  };
  return {
    psnr: mean(0),
    psnrOfMean: mean(1),
    byDrawing: firstBest(await meanLosses(janus, drawn)),
    byAnswer: firstBest(await meanLosses(janus, answered)),
    questions: { group: share("group"), tag: share("tag"), "which group": share("which group"), "which name": share("which name") }, // prettier-ignore
    shown,
    answers,
  };
}
