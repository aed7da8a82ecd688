/** Training data of the emoji as JSONL: conversations about each picture, prompts to draw it, and texts of its words; and as a plain folder. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Dice } from "../shapes/dice.ts";
import { png } from "../shapes/dataset_files.ts";
import { isHeldOut, loadEmoji, pixelsOf } from "./pictures.ts";
import type { Emoji } from "./pictures.ts";
import { NAME_QUESTIONS, askAbout } from "./questions.ts";
import type { QuestionKind } from "./questions.ts";

/** Streams of random numbers. */
const TRAINING = 41;

export interface DatasetCounts {
  readonly pictures: number;
  readonly heldOut: number;
}

const text = (words: string): object => ({ type: "text", text: words });
const user = (...content: readonly object[]): object => ({ role: "user", content });
const assistant = (content: string): object => ({ role: "assistant", content });

/** Two conversations about a picture; what an answer reveals comes last. */
function conversations(dice: Dice, emoji: Emoji, others: readonly Emoji[], image: string): object[] {
  const shown = { type: "image_url", image_url: { url: image } };
  const talk = (turns: readonly (readonly [question: string, answer: string])[]): object => ({
    messages: turns.flatMap(([question, answer], i) => [user(...(i === 0 ? [shown] : []), text(question)), assistant(answer)]), // prettier-ignore
  });
  const ask = (kind: QuestionKind): [string, string] => {
    const { question, answer } = askAbout(dice, emoji, kind, others);
    return [question, answer];
  };
  const [first, second] = dice.shuffle<QuestionKind>(["group", "which group"]);
  return [
    talk([ask("tag"), ask("tag"), ask(first!), [NAME_QUESTIONS.en, emoji.en.label]]),
    talk([ask(second!), ask("which name"), [NAME_QUESTIONS.zh, emoji.zh.label]]),
  ];
}

/** What the words say without a picture. */
const saying = ({ en, zh }: Emoji): string =>
  `${en.label}: ${en.tags.join(", ")}. ${zh.label}：${zh.tags.join("，")}。`;

/** All texts that training may show, for a tokenizer of their words. */
export const textsOf = (emoji: readonly Emoji[]): string[] =>
  emoji.filter((one) => !isHeldOut(one)).flatMap((one) => [saying(one), one.en.label, one.zh.label]);

/**
 * Writes `und.jsonl`, `gen.jsonl` and `text.jsonl` of the pictures that training may see, and the pictures in `images/`. Those that are held out are in
 * `held-out/` with their names, `photo.png` beside `photo.txt`.
 * @param most pictures, of the first in their order (default: all)
 */
export async function writeDataset(folder: string, most = Infinity): Promise<DatasetCounts> {
  const all = loadEmoji().slice(0, most);
  const training = all.filter((one) => !isHeldOut(one));
  for (const name of ["images", "held-out"]) await mkdir(join(folder, name), { recursive: true });
  const lines: { und: object[]; gen: object[]; text: object[] } = { und: [], gen: [], text: [] };
  for (const [i, emoji] of all.entries()) {
    const pixels = png(await pixelsOf(emoji));
    if (isHeldOut(emoji)) {
      await writeFile(join(folder, "held-out", `${emoji.code}.png`), pixels);
      await writeFile(join(folder, "held-out", `${emoji.code}.txt`), emoji.en.label);
      continue;
    }
    const image = `images/${emoji.code}.png`;
    await writeFile(join(folder, image), pixels);
    lines.und.push(...conversations(new Dice(0, TRAINING, i), emoji, training, image));
    lines.gen.push({ prompt: emoji.en.label, image }, { prompt: emoji.zh.label, image });
    lines.text.push({ text: saying(emoji) });
  }
  for (const [task, records] of Object.entries(lines))
    await writeFile(join(folder, `${task}.jsonl`), records.map((one) => `${JSON.stringify(one)}\n`).join(""));
  return { pictures: training.length, heldOut: all.length - training.length };
}
