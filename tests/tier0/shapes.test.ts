/** The demo's world of shapes: the same seed gives the same data, nothing held out is in it, and prompts, pictures and questions are true. */
import { mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { KINDS, NUMBER_WORDS, heldOutPrompts, randomPrompt, sceneFor } from "../../examples/shapes/captions.ts";
import { evaluation, trainingSample } from "../../examples/shapes/dataset.ts";
import { writeDataset } from "../../examples/shapes/dataset_files.ts";
import { Dice } from "../../examples/shapes/dice.ts";
import {
  heldOutIn,
  isHeldOutAttributes,
  isHeldOutColour,
  isHeldOutCount,
  isHeldOutLayout,
  isHeldOutPair,
  isHeldOutPosition,
} from "../../examples/shapes/held_out.ts";
import { QUESTION_KINDS } from "../../examples/shapes/questions.ts";
import { COLOURS, RELATIONS, SHAPES, layOut, relations, render } from "../../examples/shapes/scene.ts";
import type { Colour, Relation, Scene, Shape } from "../../examples/shapes/scene.ts";
import { holds } from "../../examples/shapes/truth.ts";
import { readImage } from "../../model/node/image_file.ts";

// Finds what a text names by reading it, apart from how it was made.
const SHAPE_WORDS: Readonly<Record<string, Shape>> = Object.fromEntries(
  SHAPES.flatMap((shape) => [[shape, shape], [`${shape}s`, shape], [`${shape}es`, shape]]), // prettier-ignore
);
const SIDES: Readonly<Record<string, Relation>> = { left: "left of", right: "right of", above: "above", over: "above", below: "below", under: "below" }; // prettier-ignore

/** What is held out in a text. `answer` turns "what is left of the ring? cross" into a position. */
function heldOutInText(text: string): string[] {
  const found: string[] = [];
  const words: readonly string[] = text.match(/[a-z]+/g) ?? [];
  const named: { shape: Shape; colour?: Colour }[] = [];
  words.forEach((word, i) => {
    const shape = SHAPE_WORDS[word];
    if (!shape) return;
    const before = words[i - 1] as Colour | undefined;
    const behind = words[i + 1] === "in" || words[i + 1] === "is" ? (words[i + 2] as Colour) : undefined;
    const colour = [before, behind].find((name) => name && COLOURS.includes(name));
    named.push(colour ? { shape, colour } : { shape });
    const near = words[0] === "how" ? words.slice(-1) : words.slice(Math.max(0, i - 2), i);
    const count = NUMBER_WORDS.indexOf(near.find((name) => (NUMBER_WORDS as readonly string[]).includes(name)) as "two"); // prettier-ignore
    if (word !== shape && count > 0 && !colour && isHeldOutCount(shape, count)) found.push(`${count} ${word}`);
  });
  named.forEach((a, i) => {
    if (a.colour && isHeldOutColour({ ...a, colour: a.colour })) found.push(`${a.colour} ${a.shape}`);
    for (const b of named.slice(i + 1)) {
      if (isHeldOutPair(a.shape, b.shape)) found.push(`${a.shape} and ${b.shape}`);
      if (a.colour && b.colour && isHeldOutAttributes({ ...a, colour: a.colour }, { ...b, colour: b.colour })) {
        found.push(`${a.colour} ${a.shape} and ${b.colour} ${b.shape}`);
      }
    }
  });
  words.forEach((word, side) => {
    const relation = SIDES[word];
    if (!relation) return;
    const at = (list: string[]): Shape | undefined => list.map((name) => SHAPE_WORDS[name]).find(Boolean);
    const target = at(words.slice(side));
    const subject = /what|which/.test(text) ? SHAPE_WORDS[words.at(-1)!] : at(words.slice(0, side).reverse());
    if (target && subject && isHeldOutPosition(subject, relation, target))
      found.push(`${subject} ${relation} ${target}`);
  });
  return found;
}

/** An answer found by looking at the scene, apart from how the question was made; undefined for forms it does not know. */
function answerOf({ objects }: Scene, question: string): string | undefined {
  const words: readonly string[] = question.match(/[a-z]+/g) ?? [];
  const shape = words.map((word) => SHAPE_WORDS[word]).find(Boolean);
  const colour = COLOURS.find((name) => words.includes(name));
  const sides = words.map((word) => SIDES[word]).filter((relation) => relation !== undefined);
  const boxes = objects.map((object) => ({ ...object, width: object.size, height: object.size }));
  const only = (list: readonly string[]): string | undefined => (new Set(list).size === 1 ? list[0] : undefined);
  const fits = (o: { shape: Shape; colour: Colour }): boolean =>
    (!shape || o.shape === shape) && (!colour || o.colour === colour);
  if (words[0] === "how") return NUMBER_WORDS[objects.filter(fits).length];
  if (sides.length > 0) {
    // "the circle" and "the red shape" are of one object.
    const named = [...question.matchAll(/the (\w+)/g)].map(([, word]) => {
      const those = boxes.filter((box) => box.shape === word || box.colour === word);
      if (those.length !== 1) throw new Error(`"${question}" names ${those.length} objects by "${word}"`);
      return those[0]!;
    });
    if (named.length === 2) {
      const truth = relations(named[0]!, named[1]!);
      if (sides.length === 1) return truth.includes(sides[0]!) ? "yes" : "no";
      const [word] = words.filter((name) => SIDES[name] && truth.includes(SIDES[name]!));
      return word;
    }
    const there = boxes.filter((box) => box !== named[0] && relations(box, named[0]!).includes(sides[0]!));
    return only(there.map((box) => (words.includes("colour") ? box.colour : box.shape)));
  }
  if (/^(is there|do you see) /.test(question)) return objects.some(fits) ? "yes" : "no";
  if (words.includes("colour")) return only(objects.filter(fits).map((o) => o.colour));
  return only(objects.filter(fits).map((o) => o.shape));
}

/** Whether a description names every object of the scene, and the truth: found by reading it, apart from how it was made. */
function describes(text: string, { objects }: Scene): boolean {
  const words = text.match(/[a-z]+/g) ?? [];
  const told: { colour: string | undefined; shape: Shape | undefined; fits: Scene["objects"] }[] = [];
  words.forEach((word, i) => {
    if (!SHAPE_WORDS[word] && !/^shapes?$/.test(word)) return;
    const shape = SHAPE_WORDS[word];
    const colour = COLOURS.find((name) => name === words[i - 1]);
    const count = Math.max(
      1,
      NUMBER_WORDS.findIndex((name) => words.slice(Math.max(0, i - 2), i).includes(name)),
    );
    const fits = objects.filter((o) => (!shape || o.shape === shape) && (!colour || o.colour === colour));
    for (let n = 0; n < count; n++) told.push({ shape, colour, fits });
  });
  // Each is named once: all objects find a phrase of their own.
  const assign = (i: number, taken: readonly unknown[]): boolean =>
    i === told.length || told[i]!.fits.some((o) => !taken.includes(o) && assign(i + 1, [...taken, o]));
  if (told.length !== objects.length || !assign(0, [])) return false;
  const side = words.map((word) => SIDES[word]).find(Boolean);
  const box = (o: Scene["objects"][number]) => ({ ...o, width: o.size, height: o.size });
  return !side || told[0]!.fits.some((a) => told[1]!.fits.some((b) => a !== b && relations(box(a), box(b)).includes(side))); // prettier-ignore
}

describe("scenes", () => {
  it("keep objects apart, off the border, and on whole pixels of the grid", () => {
    for (let n = 0; n < 400; n++) {
      const dice = new Dice(3, 0, n);
      const grid = dice.pick([1, 4]);
      const objects = Array.from({ length: 1 + (n % 4) }, () => ({
        shape: dice.pick(SHAPES),
        colour: dice.pick(COLOURS),
      }));
      const scene = layOut(dice, objects, undefined, { grid });
      if (!scene) continue; // four of the largest do not always find a place
      scene.objects.forEach((a, i) => {
        const [left, top] = [a.x - a.size / 2, a.y - a.size / 2];
        expect([left % grid, top % grid]).toEqual([0, 0]);
        expect(Math.min(left, top, 64 - left - a.size, 64 - top - a.size)).toBeGreaterThanOrEqual(2);
        for (const b of scene.objects.slice(i + 1)) {
          expect(Math.max(Math.abs(a.x - b.x), Math.abs(a.y - b.y)) - (a.size + b.size) / 2).toBeGreaterThanOrEqual(6);
        }
      });
    }
  });

  it("are drawn with the area of the shapes, at any size", () => {
    const areas = { circle: Math.PI / 4, square: 1, triangle: 0.5, cross: 0.3 * 2 - 0.09, ring: (Math.PI / 4) * (1 - 0.52 ** 2), diamond: 0.5 }; // prettier-ignore
    for (const side of [64, 96, 384]) {
      for (const shape of SHAPES) {
        const size = 24;
        const { data } = render(
          { background: "black", objects: [{ shape, colour: "yellow", size, x: 30, y: 33 }] },
          side,
        );
        let sum = 0;
        for (let i = 0; i < data.length; i += 3) sum += (data[i]! - 14) / (250 - 14);
        expect(sum / (size * (side / 64)) ** 2 / areas[shape], `${shape} at ${side}`).toBeCloseTo(1, 1);
      }
    }
  });
});

describe("training data", () => {
  it("is a function of seed and index", () => {
    expect(trainingSample(5, 77)).toEqual(trainingSample(5, 77));
    expect(trainingSample(5, 77)).not.toEqual(trainingSample(6, 77));
    expect(trainingSample(5, 77)).not.toEqual(trainingSample(5, 88)); // the same kind
  });

  it("never says or asks what is held out, shows no layout that is, and is true", () => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    const said = new Set<string>();
    const answers = new Map<string, number>();
    let lines = 0;
    for (let n = 0; lines < 100_000; n++) {
      const { scene, prompt, questions, description, text } = trainingSample(seed, n, { questions: 12 });
      lines += 2 + (prompt ? 1 : 0) + questions.length; // as in the three files
      if (isHeldOutLayout(scene)) throw new Error(`seed ${seed} sample ${n} has a layout of the evaluation`);
      const told = [
        text,
        description,
        ...(prompt ? [prompt.text] : []),
        ...questions.map((q) => `${q.question} ${q.answer}`),
      ];
      for (const one of told) {
        if (said.has(one)) continue;
        const found =
          /are|is|do/.test(one) && !one.includes(".") ? heldOutInText(one) : one.split(".").flatMap(heldOutInText);
        if (found.length > 0) throw new Error(`seed ${seed} sample ${n}: "${one}" names ${found.join()}`);
        said.add(one);
      }
      if (prompt && !holds(scene, prompt)) throw new Error(`seed ${seed} sample ${n} is not "${prompt.text}"`);
      if (!describes(description, scene)) throw new Error(`seed ${seed} sample ${n} is not "${description}"`);
      if (prompt) expect(scene.objects).toHaveLength(prompt.include.reduce((sum, { count }) => sum + count, 0));
      // What two sentences of a text say together is checked by the scene.
      if (text.includes("?") && heldOutIn(scene).length > 0)
        throw new Error(`seed ${seed} sample ${n}: "${text}" is about a scene that holds ${heldOutIn(scene).join()}`);
      for (const { kind, question, answer } of questions) {
        const truth = answerOf(scene, question);
        if (truth !== answer) throw new Error(`seed ${seed} sample ${n}: "${question}" ${answer}, not ${truth}`);
        if (kind === "shape" || kind === "colour") {
          const words: readonly string[] = `${question} ${answer}`.match(/[a-z]+/g)!;
          const shape = words.map((word) => SHAPE_WORDS[word]).find(Boolean);
          const colour = COLOURS.find((name) => words.includes(name));
          if (shape && colour && isHeldOutColour({ shape, colour }))
            throw new Error(`seed ${seed} sample ${n}: "${question}" ${answer} names a ${colour} ${shape}`);
        }
        answers.set(`${kind} ${answer}`, (answers.get(`${kind} ${answer}`) ?? 0) + 1);
        const counted = /^how many (?:\w+ )?(\w+) (?:are|do)/.exec(question)?.[1];
        const shape = counted === undefined ? undefined : SHAPE_WORDS[counted];
        const all = scene.objects.filter((object) => object.shape === shape).length;
        if (shape && answer === NUMBER_WORDS[all] && isHeldOutCount(shape, all))
          throw new Error(`seed ${seed} sample ${n}: "${question}" ${answer} counts all ${counted}`);
      }
    }
    for (const kind of ["exists", "relation"]) {
      const [yes, no] = ["yes", "no"].map((answer) => answers.get(`${kind} ${answer}`)!);
      expect(yes! / (yes! + no!), kind).toBeGreaterThan(0.47);
      expect(yes! / (yes! + no!), kind).toBeLessThan(0.53);
    }
    for (const kind of KINDS) for (const { text } of heldOutPrompts(kind)) expect(said.has(text), text).toBe(false);
  });

  it("asks of a picture no relation and no thing's being there that an earlier question of the conversation asked for in other words", () => {
    for (let n = 0; n < 2000; n++) {
      const { scene, questions } = trainingSample(8, n, { questions: 14 });
      const placeOf = (name: string): number => scene.objects.findIndex(({ shape, colour }) => [shape, colour].includes(name as never)); // prettier-ignore
      const pairs = questions.flatMap(({ kind, question }) => {
        if (kind !== "relation") return [];
        const pair = [...question.matchAll(/the (\w+)/g)].map(([, name]) => placeOf(name!)).sort((a, b) => a - b);
        return [`${pair.join()} ${/left|right/.test(question) ? "across" : "down"}`];
      });
      const looked = questions.flatMap(({ kind, question }) => (kind === "exists" ? [question.replace(/^(is there|do you see) /, "")] : [])); // prettier-ignore
      for (const list of [pairs, looked]) expect(new Set(list).size, list.join()).toBe(list.length);
      expect(questions.length).toBeLessThanOrEqual(4 * scene.objects.length);
    }
  });

  it("still meets every colour, shape and relation with most others", () => {
    for (const shape of SHAPES) {
      expect(COLOURS.filter((colour) => !isHeldOutColour({ colour, shape })).length).toBeGreaterThanOrEqual(6);
      expect([2, 3, 4].filter((count) => !isHeldOutCount(shape, count))).toHaveLength(2);
      expect(SHAPES.filter((other) => !isHeldOutPair(shape, other))).toHaveLength(5); // itself too
      for (const relation of RELATIONS) {
        const isTold = relation === "right of" || relation === "below"; // from the other side
        expect(SHAPES.filter((other) => isHeldOutPosition(shape, relation, other))).toHaveLength(isTold ? 0 : 1);
      }
    }
  });

  it("is written as files that name each other", async () => {
    const folder = await mkdtemp(join(tmpdir(), "shapes-"));
    try {
      const counts = await writeDataset(folder, { seed: 4, pictures: 150, questions: 3 });
      const lines = async (name: string): Promise<unknown[]> =>
        (await readFile(join(folder, name), "utf8")).trim().split("\n").map((line) => JSON.parse(line) as unknown); // prettier-ignore
      const generation = (await lines("gen.jsonl")) as { prompt: string; image: string }[];
      const understanding = (await lines("und.jsonl")) as { messages: { role: string; content: unknown }[] }[];
      expect(await lines("text.jsonl")).toHaveLength(counts.text);
      expect([generation.length, understanding.length]).toEqual([counts.generation, counts.understanding]);
      expect(await readdir(join(folder, "images"))).toHaveLength(150);
      const { scene, prompt, questions, description } = trainingSample(4, 72, { questions: 3 });
      const image = "images/0000072.png";
      expect((await readImage(join(folder, image))).data).toEqual(render(scene).data);
      const drawn = generation.filter((entry) => entry.image === image).map((entry) => entry.prompt);
      expect(drawn).toEqual([prompt!.text, description]);
      const asked = understanding.filter(({ messages }) => JSON.stringify(messages).includes(image));
      // One conversation about the picture, which stands in its first question.
      const picture = { type: "image_url", image_url: { url: image } };
      expect(asked.map(({ messages }) => messages)).toEqual([
        questions.flatMap(({ question, answer }, i) => [
          { role: "user", content: i === 0 ? [picture, { type: "text", text: question }] : question },
          { role: "assistant", content: answer },
        ]),
      ]);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

describe("the evaluation", () => {
  it("has prompts of every kind that are held out, and scenes for them", () => {
    const { prompts } = evaluation(9, { questions: 4 });
    expect(evaluation(9, { questions: 4 }).prompts).toEqual(prompts);
    expect(evaluation(10, { questions: 4 }).prompts).not.toEqual(prompts);
    for (const kind of KINDS) {
      expect(prompts[kind]).toHaveLength(100);
      prompts[kind].slice(0, 20).forEach((prompt, i) => {
        const scene = sceneFor(new Dice(9, 50, i), prompt, { heldOut: true });
        expect(isHeldOutLayout(scene)).toBe(true);
        expect(holds(scene, prompt), prompt.text).toBe(true);
        if (kind !== "single_object") expect(heldOutIn(scene), prompt.text).not.toEqual([]);
        if (kind !== "single_object") expect(heldOutInText(prompt.text), prompt.text).not.toEqual([]);
      });
    }
  });

  it("asks true questions about layouts of its own, and as many about held-out combinations", () => {
    const { questions } = evaluation(9, { questions: 10 });
    expect(questions).toHaveLength(20 * QUESTION_KINDS.length);
    for (const { scene, question, answer, heldOut } of questions) {
      expect(isHeldOutLayout(scene)).toBe(true);
      expect(answerOf(scene, question), question).toBe(answer);
      if (!heldOut) expect(heldOutIn(scene)).toEqual([]);
    }
    expect(questions.filter(({ heldOut }) => heldOut)).toHaveLength(questions.length / 2);
    const looked = questions.filter(({ kind }) => kind === "exists");
    expect(looked.filter(({ answer }) => answer === "yes")).toHaveLength(10);
  });

  it("and training have no prompt in common", () => {
    for (const kind of KINDS) {
      const heldOut = new Set(heldOutPrompts(kind).map(({ text }) => text));
      for (let n = 0; n < 300; n++) expect(heldOut.has(randomPrompt(new Dice(1, 60, n), kind).text)).toBe(false);
    }
  });
});
