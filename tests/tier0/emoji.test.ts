/** The emoji of the example: no picture on both sides of the split, questions with one right answer, records that training reads. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { writeDataset } from "../../examples/emoji/dataset.ts";
import { GROUPS, SIDE, isHeldOut, loadEmoji, pixelsOf } from "../../examples/emoji/pictures.ts";
import { CHANCE, QUESTION_KINDS, askAbout } from "../../examples/emoji/questions.ts";
import { Dice } from "../../examples/shapes/dice.ts";
import { indexSource, noticesOf, requireKnownFields } from "../../train/node/data/index_file.ts";

const home = mkdtempSync(join(tmpdir(), "janus-emoji-"));
afterAll(() => rmSync(home, { recursive: true, force: true }));
const emoji = loadEmoji();

it("there are 3,000, and variants of a picture are on one side of the split", () => {
  expect(emoji.length).toBeGreaterThan(3000);
  const heldOut = emoji.filter(isHeldOut);
  expect(heldOut.length / emoji.length).toBeGreaterThan(0.07);
  expect(heldOut.length / emoji.length).toBeLessThan(0.13);
  const bases = new Set(heldOut.map(({ base }) => base));
  expect(emoji.filter((one) => bases.has(one.base) && !isHeldOut(one))).toEqual([]);
  expect(emoji.filter(({ isTone }) => isTone).length).toBeGreaterThan(500);
  for (const { en, zh, group } of emoji) expect([en.label, zh.label, GROUPS[group]].every(Boolean)).toBe(true);
});

it("questions have one right answer, which guessing finds as often as stated", () => {
  const others = emoji.slice(0, 300);
  for (const kind of QUESTION_KINDS) {
    const asked = others.map((one, i) => ({ one, ...askAbout(new Dice(0, 9, i), one, kind, emoji) }));
    let yes = 0;
    for (const { one, choices, answer, question } of asked) {
      expect(choices.length).toBe(1 / CHANCE[kind]);
      expect(new Set(choices).size).toBe(choices.length);
      expect(choices).toContain(answer);
      yes += Number(answer === "yes");
      const tag = /^Does "(.*)" fit this\?$/.exec(question)?.[1];
      if (tag !== undefined) expect([...one.en.tags, one.en.label].includes(tag)).toBe(answer === "yes");
    }
    if (CHANCE[kind] === 1 / 2) expect(Math.abs(yes / asked.length - 0.5)).toBeLessThan(0.1);
  }
});

it("the pictures are on white, and the records are those that training reads", async () => {
  const { width, data } = await pixelsOf(emoji.find(({ en }) => en.label === "raccoon")!);
  expect([width, data.length, [...data.subarray(0, 3)]]).toEqual([SIDE, 3 * SIDE ** 2, [255, 255, 255]]);
  const { pictures, heldOut } = await writeDataset(join(home, "data"), 60);
  expect([pictures + heldOut, heldOut > 0]).toEqual([60, true]);
  expect(readdirSync(join(home, "data", "images")).length).toBe(pictures);
  const records = { "und.jsonl": 2 * pictures, "gen.jsonl": 2 * pictures, "text.jsonl": pictures, "held-out": heldOut };
  for (const [name, count] of Object.entries(records)) {
    const index = await indexSource({ path: join(home, "data", name) }, join(home, "cache"));
    requireKnownFields([index]);
    expect([index.count, noticesOf(index)], name).toEqual([count, []]);
    for (let i = 0; i < count; i++) await index.read(i);
    await index.close();
  }
});
