/** What is asked about an emoji: is it of a group, does a tag fit, which of four. Wrong choices are of other pictures of the same side of the split. */
import type { Dice } from "../shapes/dice.ts";
import { GROUPS } from "./pictures.ts";
import type { Emoji } from "./pictures.ts";

export const QUESTION_KINDS = ["group", "tag", "which group", "which name"] as const;
export type QuestionKind = (typeof QUESTION_KINDS)[number];

/** Share of right answers by guessing. */
export const CHANCE: Readonly<Record<QuestionKind, number>> = {
  group: 1 / 2,
  tag: 1 / 2,
  "which group": 1 / 4,
  "which name": 1 / 4,
};

export interface Question {
  readonly kind: QuestionKind;
  readonly question: string;
  /** Possible answers, of which one is right. */
  readonly choices: readonly string[];
  readonly answer: string;
}

const YES_NO = ["yes", "no"] as const;

/** The same for all pictures: one answer names what is there. */
export const NAME_QUESTIONS = { en: "What is this?", zh: "这是什么？" } as const;

const listed = (names: readonly string[]): string => `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;

/** Three others that differ from `own`, and `own`, in random order. */
function four<T>(dice: Dice, own: T, others: () => T, limit = 1000): T[] {
  const found = [own];
  for (let tries = 0; found.length < 4 && tries < limit; tries++) {
    const other = others();
    if (!found.includes(other)) found.push(other);
  }
  return dice.shuffle(found);
}

/** A question about `emoji`; of yes-or-no questions half have the answer yes. */
export function askAbout(dice: Dice, emoji: Emoji, kind: QuestionKind, others: readonly Emoji[]): Question {
  const own = GROUPS[emoji.group]!;
  const groups = Object.values(GROUPS);
  const isTrue = dice.chance(0.5);
  const answer = isTrue ? "yes" : "no";
  switch (kind) {
    case "group": {
      const group = isTrue ? own : dice.pick(groups.filter((one) => one !== own));
      return { kind, answer, choices: YES_NO, question: `Is this ${group}?` };
    }
    case "tag": {
      const known = new Set([...emoji.en.tags, emoji.en.label]);
      let tag = emoji.en.tags.length ? dice.pick(emoji.en.tags) : emoji.en.label;
      while (!isTrue && known.has(tag)) tag = dice.pick(dice.pick(others).en.tags.concat("thing"));
      return { kind, answer, choices: YES_NO, question: `Does "${tag}" fit this?` };
    }
    case "which group": {
      const choices = four(dice, own, () => dice.pick(groups));
      return { kind, answer: own, choices, question: `Is this ${listed(choices)}?` };
    }
    case "which name": {
      const choices = four(dice, emoji.en.label, () => dice.pick(others).en.label);
      return { kind, answer: emoji.en.label, choices, question: `Which is it: ${listed(choices)}?` };
    }
  }
}
