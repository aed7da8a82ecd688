/**
 * Scorers of `eval/`: against outcomes of the official scorers on random answers and detections
 * (`tests/eval_official.jsonl`, a part of those that docs/evaluation.md counts), and by hand.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { float, round2, strip, words } from "../../eval/python.ts";
import { loadRecipe } from "../../eval/recipe.ts";
import type { AskRecipe, Benchmark, DrawRecipe } from "../../eval/recipe.ts";
import { choice, isOpenAnswer, officialChoice, openAnswers, vqaText, yesNo } from "../../eval/score/answers.ts";
import { readDpgAnswers, readDpgQuestions, scoreDpg } from "../../eval/score/dpg.ts";
import { isRight, readGenevalPrompts, readJudgedImages, relations, scoreGeneval } from "../../eval/score/geneval.ts";
import type { GenevalPrompt } from "../../eval/score/geneval.ts";
import { spreadOf } from "../../eval/score/score.ts";
import type { Figure, Prediction, Score } from "../../eval/score/score.ts";
import { parseAnswer, scoreOf } from "../../eval/score/understanding.ts";
import { bootstrap, mcnemar, wilson } from "../../eval/statistics.ts";

const folder = mkdtempSync(join(tmpdir(), "janus-eval-scores-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;
const file = (text: string, ending = ".jsonl"): string => {
  const path = join(folder, `${files++}${ending}`);
  writeFileSync(path, text);
  return path;
};

const asked = (benchmark: Benchmark): AskRecipe => loadRecipe(benchmark).recipe as AskRecipe;
const drawn = (benchmark: Benchmark): DrawRecipe => loadRecipe(benchmark).recipe as DrawRecipe;
const figure = (score: Score, name: string): number | null | undefined =>
  score.figures.find((one) => one.name === name)?.value;
const predicted = (one: Partial<Prediction> & Pick<Prediction, "id" | "expected" | "parsed">): Prediction => ({
  category: null,
  group: null,
  answer: "",
  correct: one.expected === one.parsed,
  ...one,
});

describe("outcomes of the official scorers", () => {
  type Case = Record<string, any> & { kind: string }; // oxlint-disable-line no-explicit-any
  const cases = readFileSync(new URL("../eval_official.jsonl", import.meta.url), "utf8").trim().split("\n").map((line) => JSON.parse(line) as Case); // prettier-ignore
  const own: Readonly<Record<string, (one: Case) => unknown>> = {
    yesno: ({ answer }) => yesNo(answer),
    vqa: ({ answer }) => vqaText(answer),
    choice: ({ answer, options }) => choice(answer, new Map(Object.entries(options))),
    mmmu: ({ answer, options }) => officialChoice(answer, new Map(Object.entries(options))),
    open: ({ answer, gold }) => isOpenAnswer(openAnswers(answer), [gold].flat()),
    geneval: ({ meta, detections }) => isRight({ exclude: [], ...meta }, detections, drawn("geneval"), "case"),
    circular: ({ rows }) => {
      const predictions = rows.map((row: Record<string, string>) => {
        const options = new Map(["A", "B", "C", "D"].filter((letter) => row[letter] !== null).map((letter) => [letter, row[letter]!]));
        return predicted({ id: String(row.index), group: "5", expected: row.GT!, parsed: choice(row.prediction!, options) });
      }); // prettier-ignore
      return scoreOf(asked("mmbench"), predictions).headline.value === 100;
    },
  };
  it.each(Object.keys(own))("%s: every item is judged alike", (kind) => {
    const of = cases.filter((one) => one.kind === kind);
    expect(of.length).toBeGreaterThanOrEqual(30);
    for (const one of of) expect(own[kind]!(one), JSON.stringify(one)).toEqual(one.official);
  });

  it("POPE, MME and MM-Vet: every figure is the same", () => {
    for (const { kind, rows, official } of cases) {
      const predictions = rows?.map((row: Record<string, string>) => predicted({ id: String(row.index), category: row.category!, group: row.image_path ?? null, expected: row.answer ?? "", parsed: row.extracted ?? null })); // prettier-ignore
      if (kind === "pope") {
        const score = scoreOf(asked("pope"), predictions, undefined, false);
        for (const { split, Overall, acc, precision, recall } of official) {
          const name = split === "Overall" ? "" : `${split}: `;
          const f1 = split === "Overall" ? score.headline.value : figure(score, `${name}F1`);
          const all = [f1, ...["accuracy", "precision", "recall"].map((one) => figure(score, name + one) ?? 0)];
          for (const [i, value] of [Overall, acc, precision, recall].entries()) expect(all[i]).toBeCloseTo(value, 8);
        }
      }
      if (kind === "mme") {
        const score = scoreOf(asked("mme"), predictions, undefined, false);
        expect(score.headline.value).toBeCloseTo(official.perception, 8);
        for (const { name, value } of score.figures) expect(value).toBeCloseTo(official[name], 8);
      }
      if (kind === "mmvet") {
        const scores = new Map<string, number>(
          rows.map((row: Record<string, unknown>) => [String(row.index), row.score]),
        );
        const score = scoreOf(asked("mmvet"), predictions, scores);
        for (const { Category: name, acc, tot } of official) {
          if (tot === 0) continue;
          const ours = name === "Overall" ? score.headline.value : (figure(score, `${name}, as VLMEvalKit counts`) ?? figure(score, name)); // prettier-ignore
          expect(ours).toBeCloseTo(acc, 8);
        }
      }
    }
  });

  it("DPG-Bench: overall and categories of the official code", async () => {
    for (const { kind, csv, detail, official } of cases) {
      if (kind !== "dpg") continue;
      const questions = await readDpgQuestions(file(csv, ".csv"));
      const score = scoreDpg(questions, await readDpgAnswers(file(detail, "_detail.txt"), questions));
      if (official.overall === null) expect(score.headline.value).toBeNull();
      else expect(score.headline.value).toBeCloseTo(official.overall, 8);
      for (const [name, value] of Object.entries(official.cats)) expect(figure(score, name)).toBeCloseTo(value as number, 8); // prettier-ignore
    }
  });
});

describe("answers", () => {
  it.each([
    ["Yes.", "Yes"], [" no", "No"], ["Yes, there is no dog", "Unknown"], ["Maybe", "Unknown"], ["yesterday", "Unknown"], ["", "Unknown"],
  ])("yes or no as a whole word: %j is %s", (answer, expected) => expect(yesNo(answer)).toBe(expected)); // prettier-ignore

  const options = new Map([["A", "red"], ["B", "blue"], ["C", "a red dog"]]); // prettier-ignore
  it.each<[string, string | null]>([
    ["B", "B"], ["(B).", "B"], ["The answer is B.", "B"], ["A dog is in the grass", null], ["A or B", null], ["blue", "B"],
    ["It is a red dog", null], ["Cannot determine the answer", "Z"], ["D", null], ["the correct answer is **c**, because of A and B", "C"], ["", null],
  ])("a letter from free text: %j is %s", (answer, expected) => expect(choice(answer, options)).toBe(expected)); // prettier-ignore

  it("Python's strings: white space, numbers and rounding", () => {
    expect(words("\x1ca\u3000b\x85 \ufeffc")).toEqual(["a", "b", "\ufeffc"]);
    expect(strip("\x1c a\u00a0")).toBe("a");
    expect(strip("'a'", "'")).toBe("a");
    expect(["1_000", " 5. ", ".5", "1e3", "-inf", "1__0", "0x10", "", "١٢", "٣𝟜"].map(float)).toEqual([1000, 5, 0.5, 1000, -Infinity, null, null, null, 12, 34]); // prettier-ignore
    expect(float("NaN")).toBeNaN();
    expect([0.125, 0.375, -0.125, 2.675, 1.005, 12.345, 1e21].map(round2)).toEqual([0.12, 0.38, -0.12, 2.67, 1, 12.35, 1e21]); // prettier-ignore
  });

  it("GQA: lower case and stripped; VQA's normalisation only if asked for", () => {
    const item = { id: "1", at: 1, question: "?", hint: null, options: new Map(), answer: "Two", category: null, group: null, images: [] }; // prettier-ignore
    const lower = asked("gqa");
    expect(parseAnswer(item, " two\n", lower)).toEqual({ parsed: "two", correct: true });
    expect(parseAnswer(item, "The 2", lower).correct).toBe(false);
    const vqa = loadRecipe("gqa", { set: ["scorer.manner=vqa"] }).recipe as AskRecipe;
    expect(parseAnswer(item, "The 2!", vqa)).toEqual({ parsed: "2", correct: true });
    expect(vqaText("a Man, an Apple")).toBe("man apple");
  });

  it("MMMU: both manners, open questions with numbers and lists, letters drawn by the id", () => {
    const item = { id: "7", at: 1, question: "?", hint: null, options: new Map<string, string>(), answer: "['1,234.5', 'about 1k']", category: null, group: null, images: [] }; // prettier-ignore
    const official = loadRecipe("mmmu", { set: ["scorer.manner=official"] }).recipe as AskRecipe;
    expect(parseAnswer(item, "So the result is 1234.50", official).correct).toBe(true);
    expect(parseAnswer(item, "It is 1234", official).correct).toBe(false);
    expect(parseAnswer({ ...item, answer: "apple" }, "an apple tree", asked("mmmu"))).toEqual({ parsed: "A", correct: true }); // prettier-ignore
    expect(parseAnswer({ ...item, answer: "apple" }, "pear", asked("mmmu"))).toEqual({ parsed: null, correct: false });
    const choices = { ...item, answer: "B", options: new Map([["A", "one"], ["B", "two"]]) }; // prettier-ignore
    expect(parseAnswer(choices, "(A) or (B)", official)).toEqual({ parsed: "B", correct: true });
    const unsure = parseAnswer(choices, "hm", official);
    expect(unsure).toEqual({ ...parseAnswer(choices, "well", official) });
    expect(unsure.drawn).toBe(true);
  });
});

describe("scores by hand", () => {
  const pope = (rows: readonly [string, string, string][]): Score =>
    scoreOf(asked("pope"), rows.map(([category, expected, parsed], i) => predicted({ id: `${i}`, category, expected, parsed })), undefined, false); // prettier-ignore

  it("POPE: F1 of yes; a row of two categories counts twice; Unknown is wrong and no yes", () => {
    // Exploded: random has Yes/Yes, Yes/Unknown; popular has Yes/Yes, No/Yes.
    const score = pope([["random,popular", "Yes", "Yes"], ["random", "Yes", "Unknown"], ["popular", "No", "Yes"]]); // prettier-ignore
    expect(score.headline.value).toBeCloseTo((100 * 2 * 2) / (2 * 2 + 1 + 1), 10); // TP 2, FP 1, FN 1
    expect(figure(score, "accuracy")).toBe(50);
    expect(figure(score, "random: F1")).toBeCloseTo(100 * (2 / 3), 10);
    expect(figure(score, "popular: precision")).toBe(50);
    expect(score.notes.join()).toMatch(/1 answers are neither/);
  });

  it("MME: accuracy + accuracy+ by kind, and no sum if a kind is missing or an image has one question", () => {
    const kinds = ["OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene"]; // prettier-ignore
    const rows = kinds.flatMap((category) => [1, 2, 3, 4].map((q) => predicted({ id: `${category}${q}`, category, group: q < 3 ? "one.png" : "two.png", expected: "Yes", parsed: q === 4 ? "No" : "Yes" }))); // prettier-ignore
    const score = scoreOf(asked("mme"), rows, undefined, false);
    expect(score.headline.value).toBe(10 * (75 + 50));
    expect(figure(score, "color")).toBe(125);
    const cut = scoreOf(
      asked("mme"),
      rows.filter(({ id }) => !["OCR1", "OCR3"].includes(id)),
      undefined,
      false,
    );
    expect(cut.headline.value).toBeNull();
    expect(cut.notes.join()).toMatch(/2 images do not have two questions.*kinds OCR are missing/);
  });

  it("MMBench: all rotations must be right; the category is that of the first", () => {
    const row = (id: number, parsed: string | null): Prediction => predicted({ id: `${id}`, group: `${id % 1e6}`, category: id % 2 ? "odd" : "even", expected: "A", parsed }); // prettier-ignore
    const score = scoreOf(asked("mmbench"), [row(1, "A"), row(1_000_001, "A"), row(2, "A"), row(1_000_002, "B"), row(4, null), row(1_000_009, "A")]); // prettier-ignore
    expect(score.headline).toMatchObject({ value: 100 / 3, n: 3 });
    expect(figure(score, "odd")).toBe(100);
    expect(figure(score, "even")).toBe(0);
  });

  it("MM-Vet: no score without a judge or with an answer missing", () => {
    const rows = [predicted({ id: "0", category: "rec,ocr", expected: "", parsed: null }), predicted({ id: "1", category: "rec", expected: "", parsed: null })]; // prettier-ignore
    expect(scoreOf(asked("mmvet"), rows).headline.value).toBeNull();
    expect(scoreOf(asked("mmvet"), rows, new Map([["0", 1]])).headline.value).toBeNull();
    const score = scoreOf(asked("mmvet"), rows, new Map([["0", 1], ["1", 0.1]])); // prettier-ignore
    expect(score.headline.value).toBeCloseTo(55, 10);
    expect(figure(score, "ocr")).toBe(100);
    expect(figure(score, "rec")).toBeCloseTo(55, 10);
    expect(figure(score, "rec, as VLMEvalKit counts")).toBeCloseTo(40, 10);
  });
});

describe("GenEval", () => {
  const prompt = (changes: Partial<GenevalPrompt>): GenevalPrompt => ({ tag: "two_object", prompt: "p", include: [], exclude: [], text: "{}", ...changes }); // prettier-ignore
  const at = (name: string, left: number, score = 0.8, color?: string): Parameters<typeof isRight>[1][number] => ({ class: name, box: [left, 0, left + 10, 10], score, ...(color && { color }) }); // prettier-ignore
  const judge = (one: Partial<GenevalPrompt>, ...detections: ReturnType<typeof at>[]): boolean => isRight(prompt(one), detections, drawn("geneval"), "case"); // prettier-ignore

  it("thresholds, counting, colours and positions by the rules", () => {
    const dog = { class: "dog", count: 1 };
    expect(judge({ include: [dog] }, at("dog", 0, 0.3))).toBe(false); // above 0.3, not at it
    expect(judge({ include: [dog] }, at("dog", 0, 0.31))).toBe(true);
    const three = { tag: "counting", include: [{ class: "dog", count: 3 }], exclude: [{ class: "dog", count: 4 }] };
    expect(judge(three, at("dog", 0, 0.95), at("dog", 20, 0.95), at("dog", 40, 0.89))).toBe(false);
    expect(judge(three, ...[0, 20, 40].map((left) => at("dog", left, 0.95)))).toBe(true);
    expect(judge(three, ...[0, 20, 40, 60].map((left) => at("dog", left, 0.95)))).toBe(false);
    // Only the most certain object counts for the colour.
    const red = { tag: "colors", include: [{ class: "dog", count: 1, color: "red" }] };
    expect(judge(red, at("dog", 0, 0.9, "blue"), at("dog", 20, 0.8, "red"))).toBe(false);
    expect(() => judge(red, at("dog", 0))).toThrow(/names a colour; each dog must have a color/);
    const left = {
      tag: "position",
      include: [
        { class: "cat", count: 1 },
        { ...dog, position: ["left of", 0] as const },
      ],
    };
    expect(judge(left, at("cat", 50), at("dog", 0))).toBe(true);
    expect(judge(left, at("cat", 0), at("dog", 50))).toBe(false);
    expect(judge(left, at("dog", 0))).toBe(false);
    expect(relations([0, 0, 10, 10], [1, 0, 11, 10], 0.1)).toEqual([]); // within 0.1 × the sizes
    expect(relations([0, 0, 10, 10], [30, 30, 40, 40], 0.1)).toEqual(["left of", "above"]);
  });

  it("the overall score is the mean of six kinds, not of images", async () => {
    const tags = ["single_object", "two_object", "counting", "colors", "position", "color_attr"];
    const prompts = tags.map((tag) => prompt({ tag, prompt: tag }));
    const lines = tags.flatMap((tag, i) => Array.from({ length: i + 1 }, (_, k) => ({ filename: `/x/0000${i}/samples/000${k}.png`, tag, prompt: tag, correct: k === 0, metadata: "{}" }))); // prettier-ignore
    const images = await readJudgedImages(file(lines.map((line) => JSON.stringify(line)).join("\n")), prompts, drawn("geneval")); // prettier-ignore
    const score = scoreGeneval(images);
    expect(score.headline.value).toBeCloseTo((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 6, 10);
    expect(figure(score, "images")).toBeCloseTo(6 / 21, 10);
    expect(scoreGeneval(images.filter(({ tag }) => tag !== "colors")).headline.value).toBeNull();
  });

  it("refuses lines that are no judged image", async () => {
    const read = (text: string): Promise<unknown> => readJudgedImages(file(text), [prompt({})], drawn("geneval"));
    const box = (detection: object): string => JSON.stringify({ filename: "00000/samples/0000.png", detections: [detection] }); // prettier-ignore
    await expect(read("")).rejects.toThrow(/at least one judged image/);
    await expect(read('{"filename":"a.png"}')).rejects.toThrow(/:1: the filename must be NNNNN/);
    await expect(read('{"filename":"00000/samples/0000.png"}')).rejects.toThrow(/:1: correct and tag/);
    await expect(read(box({ class: "dog", box: [0, 0, 1], score: 1 }))).rejects.toThrow(/a box of 4 finite numbers/);
    await expect(read(box({ class: "dog", box: [0, 0, 1, 1], score: null }))).rejects.toThrow(/a finite score/);
    await expect(read('{"filename":"00009/samples/0000.png","detections":[]}')).rejects.toThrow(/NNNNN\/samples/);
    const { tag, prompt: text } = prompt({});
    const line = (folder: string, changes: object = {}): string => JSON.stringify({ filename: `${folder}/00000/samples/0000.png`, tag, prompt: text, correct: true, ...changes }); // prettier-ignore
    await expect(read(`${line("a")}\n${line("b")}`)).rejects.toThrow(/:2: each image must be judged once/);
    for (const other of [{ tag: "x" }, { prompt: "of another file" }]) await expect(read(line("a", other))).rejects.toThrow(/:1: the tag and the prompt must be those of line 1/); // prettier-ignore
    const clause = (changes: object): Promise<unknown> => readGenevalPrompts(file(JSON.stringify({ tag: "x", prompt: "p", include: [{ class: "a", count: 1 }, { class: "b", count: 1, ...changes }] }))); // prettier-ignore
    await clause({ position: ["above", 0], color: "red" });
    for (const count of [0, 1.5, "1"]) await expect(clause({ count })).rejects.toThrow(/a count from 1/);
    for (const strange of [{ position: ["above", 1] }, { position: ["over", 0] }, { position: 5 }, { color: 1 }]) await expect(clause(strange)).rejects.toThrow(/a color must be a text, a position one of left of/); // prettier-ignore
    await expect(readGenevalPrompts(file('{"tag":"x","prompt":"p","include":[{"class":"a"}]}'))).rejects.toThrow(/a class and a count/); // prettier-ignore
  });
});

describe("DPG-Bench", () => {
  const csv = (rows: readonly (readonly [string, number, string, string])[]): string =>
    ["item_id,text,proposition_id,dependency,tuple,question_natural_language", ...rows.map(([item, id, parents, tuple]) => `${item},"a, ""b""",${id},"${parents}",${tuple},Is it ${id}?`)].join("\n"); // prettier-ignore
  const answers = (item: string, images: readonly (readonly [number, string][])[]): string =>
    images.flatMap((of, image) => of.map(([question, answer]) => JSON.stringify({ item, image, question, answer }))).join("\n") + "\n"; // prettier-ignore

  it("a question counts only if those it depends on do; the official figures have the official faults", async () => {
    // Row 0 of the file is skipped by the official code; question 2 of item a depends on it: a is dropped.
    const questions = await readDpgQuestions(
      file(csv([["a", 1, "0", "entity - whole (x)"], ["a", 2, "1", "attribute - color (x)"], ["b", 1, "0", "entity - whole (y)"], ["b", 2, "1", "attribute - color (y)"], ["b", 3, "2", "global (y)"]]), ".csv"),
    ); // prettier-ignore
    const text = answers("a", [[[1, "yes"], [2, "yes"]]]) + answers("b", [[[1, "no"], [2, "yes"], [3, "yes"]], [[1, "yes"], [2, "no"], [3, "yes"]]]); // prettier-ignore
    const score = scoreDpg(questions, await readDpgAnswers(file(text), questions));
    // b: image 0: 0 of 3 (2 falls with 1, 3 with 2); image 1: 1 of 3.
    expect(score.headline.value).toBeCloseTo(100 * ((0 + 1 / 3) / 2), 10);
    expect(figure(score, "global")).toBe(100); // the last image, without the rule
    expect(figure(score, "overall, every question")).toBeCloseTo((100 * (1 + 1 / 6)) / 2, 10);
    expect(figure(score, "global, every image by the rule")).toBe(0);
    expect(score.notes.join()).toMatch(/drops 1 items/);
  });

  it("images are in the order of their places in the file, whatever the order of the lines; there are four", async () => {
    const questions = await readDpgQuestions(
      file(
        csv([
          ["z", 1, "0", "global"],
          ["a", 1, "0", "entity (x)"],
        ]),
        ".csv",
      ),
    );
    const detail = (left: number, top: number, answer: string): string =>
      `i/a.png, (${left}, ${top}, ${left + 8}, ${top + 8}), Is it 1?, ${answer}`;
    const read = async (text: string): Promise<unknown> =>
      (await readDpgAnswers(file(text, ".txt"), questions)).get("a");
    const expected = [new Map([[1, false]]), new Map([[1, true]])];
    expect(await read(`${detail(8, 8, "yes")}\n${detail(8, 0, "no")}`)).toEqual(expected);
    expect(
      await read(
        answers("a", [[], [[1, "no"]], [[1, "yes"]]])
          .split("\n")
          .reverse()
          .join("\n"),
      ),
    ).toEqual(expected);
    await expect(read('{"item":"a","image":4,"question":1,"answer":"yes"}')).rejects.toThrow(/image \(0 to 3\)/);
    await expect(read(`${detail(8, 0, "yes")}\n${detail(9, 0, "no")}`)).rejects.toThrow(/answered before/);
  });

  it("refuses answers to other questions, and a CSV that is another", async () => {
    const questions = await readDpgQuestions(file(csv([["a", 1, "0", "entity (x)"]]), ".csv"));
    await expect(readDpgAnswers(file(answers("a", [[[2, "yes"]]])), questions)).rejects.toThrow(/no such question/);
    await expect(readDpgAnswers(file(answers("b", [[[1, "yes"]]])), questions)).rejects.toThrow(/not in the CSV/);
    await expect(readDpgAnswers(file("nonsense", ".txt"), questions)).rejects.toThrow(/a line must be path/);
    await expect(readDpgQuestions(file("a,b\n1,2\n", ".csv"))).rejects.toThrow(/the columns item_id.* are required/);
    await expect(readDpgQuestions(file(csv([["a", 1, "x", "t"]]), ".csv"))).rejects.toThrow(/whole dependencies/);
  });
});

describe("intervals and tests", () => {
  it("Wilson's interval, McNemar's exact test, and a bootstrap that is the same each time", () => {
    expect(wilson(8, 10).low).toBeCloseTo(0.4902, 4);
    expect(wilson(8, 10).high).toBeCloseTo(0.9433, 4);
    expect(wilson(0, 10).low).toBe(0);
    expect(mcnemar(0, 0)).toBe(1);
    expect(mcnemar(1, 9)).toBeCloseTo((2 * (1 + 10)) / 1024, 12);
    expect(mcnemar(5000, 5200)).toBeCloseTo(0.0487, 3);
    const mean = (units: readonly number[]): number => units.reduce((sum, i) => sum + (i % 2), 0) / units.length;
    const interval = bootstrap(100, mean)!;
    expect(interval).toEqual(bootstrap(100, mean));
    expect(bootstrap(100, () => 1)).toBeNull();
    const part = (value: number, half: number | null): Figure => ({ name: "", value, n: 1, interval: half === null ? null : { low: value - half, high: value + half } }); // prettier-ignore
    expect(spreadOf(6, [part(1, 3), part(2, 4), part(3, null)])).toEqual({ low: 1, high: 11 });
    expect(interval.low).toBeGreaterThan(0.37);
    expect(interval.high).toBeLessThan(0.63);
  });
});
