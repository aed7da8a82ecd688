/** Recipes, what is said about missing files, pages, comparisons, the judge, and the command, without a model. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { addEval } from "../../cli/eval.ts";
import { EXIT } from "../../cli/errors.ts";
import { claimFolder, readAbout } from "../../eval/about.ts";
import type { About } from "../../eval/about.ts";
import { compareRuns } from "../../eval/compare.ts";
import { ResultsError } from "../../eval/errors.ts";
import { judge, readJudgePrompt, readScores } from "../../eval/judge.ts";
import type { PredictionLine } from "../../eval/predictions.ts";
import { BENCHMARKS, loadRecipe, printedRecipe } from "../../eval/recipe.ts";
import type { AskRecipe, Benchmark } from "../../eval/recipe.ts";
import { reported, shownTables } from "../../eval/report/published.ts";
import { readResults, writeResult } from "../../eval/results.ts";
import { scoreOf } from "../../eval/score/understanding.ts";
import { FileError } from "../../model/node/files.ts";
import { runCli, runHere } from "../cli.ts";

const root = mkdtempSync(join(tmpdir(), "janus-eval-results-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe("recipes", () => {
  it("every benchmark has one, with DeepSeek's published settings", () => {
    for (const benchmark of BENCHMARKS) {
      const { recipe, changes } = loadRecipe(benchmark);
      expect([recipe.benchmark, recipe.dtype, changes]).toEqual([benchmark, "bf16", []]);
      if (recipe.kind !== "ask") continue;
      expect([recipe.decoding, recipe.roles]).toEqual([{ maxNewTokens: 2048, temperature: 0 }, "plain"]);
      expect(recipe.system === "").toBe(benchmark !== "mmvet");
    }
  });

  it("a change is listed, whether by --set or by a file; an unknown key or value is refused with its path", () => {
    const file = join(root, "own.yaml");
    writeFileSync(file, "benchmark: pope\nprompt:\n  remove: []\n");
    const { recipe, changes } = loadRecipe("pope", { set: ["pope.system=Be brief.", "gqa.system=no"], files: [file], dtype: "f32" }); // prettier-ignore
    expect((recipe as AskRecipe).system).toBe("Be brief.");
    expect(changes).toEqual([
      { path: "prompt.remove", from: [" Please answer yes or no."], to: [] },
      { path: "system", from: "", to: "Be brief." },
      { path: "dtype", from: "bf16", to: "f32" },
    ]);
    expect(loadRecipe("pope", { set: ["dtype=bf16"] }).changes).toEqual([]);
    const load = (set: string) => () => loadRecipe("pope", { set: [set] });
    expect(load("sistem=x")).toThrow(/the recipe of pope: 1 problem.*\n {2}sistem is not known; did you mean system\?/);
    expect(load("decoding.temperature=1")).toThrow(/decoding.temperature: /);
    expect(load("prompt.template=hello")).toThrow(/must contain \{question\}/);
    for (const set of ["benchmark=mme", "scorer.name=choice", "scorer.version=9"]) expect(load(set)).toThrow(/says what the recipe is and cannot be changed/); // prettier-ignore
    expect(load("system")).toThrow(/write key=value or benchmark.key=value/);
    writeFileSync(file, "benchmark: pop\n");
    expect(() => loadRecipe("pope", { files: [file] })).toThrow(/benchmark must be one of pope, mme/);
  });
});

const about = (benchmark: Benchmark): About => ({
  benchmark,
  recipe: printedRecipe(loadRecipe(benchmark).recipe),
  changes: [],
  file: { name: "POPE.tsv", md5: "0".repeat(32), expectedMd5: null },
  model: { name: "a<b", fingerprint: "f00d", dtype: "bf16" },
  limit: null,
  version: "1.2.3",
  commit: "abc",
});

/** A results folder with answers to yes/no questions. */
async function results(name: string, parsed: readonly string[]): Promise<string> {
  const folder = join(root, name);
  mkdirSync(join(folder, "pope"), { recursive: true });
  const lines = parsed.map((answer, i): PredictionLine => {
    const expected = i % 2 ? "No" : "Yes";
    return { id: `${i}`, at: i + 1, category: "random", group: null, prompt: "p", promptIds: [], answer, expected, parsed: answer, correct: answer === expected, finish: "end", tokens: 1 }; // prettier-ignore
  });
  writeFileSync(join(folder, "pope", "predictions.jsonl"), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const score = scoreOf(loadRecipe("pope").recipe as AskRecipe, lines);
  await writeResult(folder, "pope", { about: about("pope"), score, counts: { items: lines.length, scored: lines.length, bad: 0 }, notices: [], predictions: "hash" }); // prettier-ignore
  return folder;
}

describe("pages and comparisons", () => {
  it("the report's tables beside ours, and the recipe with the number", async () => {
    expect(BENCHMARKS.map((benchmark) => reported(benchmark))).toEqual([
      { oneB: 86.2, sevenB: 87.4 }, { oneB: 1444, sevenB: 1567.1 }, { oneB: 75.5, sevenB: 79.2 }, { oneB: 68.3, sevenB: 72.1 }, { oneB: 59.3, sevenB: 62 },
      { oneB: 36.3, sevenB: 41 }, { oneB: 39.8, sevenB: 50 }, { oneB: 0.73, sevenB: 0.8 }, { oneB: 82.63, sevenB: 84.19 },
    ]); // prettier-ignore
    const folder = await results("page", ["Yes", "No", "Yes", "Yes"]);
    const [table, ...others] = shownTables(await readResults(folder));
    expect(others).toEqual([]);
    expect(table!.rows[0]).toEqual({ isOurs: true, cells: ["a<b (measured)", "80.0", "–", "–", "–", "–", "–", "–"] });
    expect(table!.rows[1]!.cells).toEqual([
      "Janus-Pro-7B 7B",
      "87.4",
      "1567.1",
      "79.2",
      "72.1",
      "62.0",
      "41.0",
      "50.0",
    ]);
    for (const { cells } of table!.rows) expect(cells).toHaveLength(8);
    const page = readFileSync(join(folder, "results.html"), "utf8");
    const markdown = readFileSync(join(folder, "results.md"), "utf8");
    expect(page).not.toContain("a<b");
    for (const text of [
      "POPE: 80.00 [",
      "Janus-Pro-1B 86.2",
      "fingerprint f00d",
      "MD5 00000000",
      "roles: plain",
      "maxNewTokens: 2048",
      "version: 1",
      "1.2.3, commit abc",
    ])
      // prettier-ignore
      for (const of of [page, markdown]) expect(of).toContain(text);
  });

  it("compare: pairs, McNemar's test, the interval of the difference, the items that flipped", async () => {
    const a = await results("a", ["Yes", "No", "Yes", "No", "Yes", "No"]);
    const b = await results("b", ["No", "No", "Yes", "Yes", "Yes", "No"]);
    const [one] = await compareRuns(a, b);
    expect(one).toMatchObject({ benchmark: "pope", a: 100, paired: 6, onlyA: 2, onlyB: 0, p: 0.5, differs: [] });
    expect(one!.flips.map(({ id, right }) => [id, right])).toEqual([["0", "a"], ["3", "a"]]); // prettier-ignore
    expect(one!.difference!.high).toBeLessThanOrEqual(0);
    const shown = await runHere(addEval, ["eval", "compare", a, b]);
    expect(shown.code, shown.stderr).toBe(EXIT.done);
    expect(shown.stdout).toMatch(/pope: 100.00 and 66.67\n {2}6 pairs; right only in the first: 2, only in the second: 0; McNemar p = 0.500/); // prettier-ignore
    await expect(compareRuns(a, root)).rejects.toThrow(/both folders must have results of one benchmark/);
  });
});

describe("a results folder", () => {
  it("is of one model, file and recipe, whose scoring may change; a broken description is refused", async () => {
    const folder = join(root, "claimed");
    mkdirSync(folder);
    const first = about("pope");
    const { recipe } = first as { recipe: AskRecipe };
    await claimFolder(folder, first);
    await claimFolder(folder, { ...first, model: { ...first.model!, name: "another name" } });
    await claimFolder(folder, { ...first, recipe: { ...recipe, scorer: { ...recipe.scorer, manner: "lower" } } });
    expect((await readAbout(folder)).recipe).toMatchObject({ scorer: { manner: "lower" } });
    const others: [Partial<About>, RegExp][] = [
      [
        { model: { ...first.model!, fingerprint: "other" } },
        /as it began; got model\.fingerprint is "other" instead of /,
      ],
      [{ file: { ...first.file, md5: "1".repeat(32) } }, /as it began; got file\.md5 is "1+" instead of /],
      [{ recipe: { ...recipe, system: "Be brief." } }, /as it began; got recipe\.system is "Be brief\." instead of /],
      [{ limit: 3, version: "9" }, /as it began; got limit is 3 instead of .*; version is "9" instead of /],
    ];
    for (const [change, message] of others) await expect(claimFolder(folder, { ...first, ...change })).rejects.toThrow(message); // prettier-ignore
    for (const text of ["{}", "[]", "{", "7"]) {
      writeFileSync(join(folder, "run.json"), text);
      await expect(claimFolder(folder, first)).rejects.toThrow(ResultsError);
    }
  });
});

describe("MM-Vet's judge", () => {
  it("scores from files: JSON, the official grades, JSONL; others are refused", async () => {
    const file = (text: string, ending = ".json"): string => {
      const path = join(root, `scores${ending}`);
      writeFileSync(path, text);
      return path;
    };
    expect(Object.fromEntries(await readScores(file('{"v1_0":0.5,"7":{"score":[0.25,1]}}')))).toEqual({
      0: 0.5,
      7: 0.625,
    });
    expect([...(await readScores(file('{"id":3,"score":0}\n', ".jsonl")))]).toEqual([["3", 0]]);
    for (const text of ['{"0":1.5}', '{"0":"NaN"}', '{"0":null}', '{"0":[]}', '{"0":[1,"1"]}', "[1]", "{"]) await expect(readScores(file(text)), text).rejects.toThrow(/required/); // prettier-ignore
    await expect(readScores(file('{"v1_0":1,"0":1}'))).rejects.toThrow(/judged once/);
  });

  it("asks an endpoint, again if it is busy or the reply is no number, and not again what this judge has judged", async () => {
    const asked: { content: string; temperature: number; key: string | undefined }[] = [];
    const replies = ["about half", "0.5", "7", "x", "x", "x", "x", 429, 503, "1", "0.2", "0.9"];
    const server = createServer((request, response) => {
      let body = "";
      request.on("data", (chunk: Buffer) => (body += chunk.toString()));
      request.on("end", () => {
        const { messages, temperature } = JSON.parse(body) as { messages: { content: string }[]; temperature: number };
        asked.push({ content: messages[0]!.content, temperature, key: request.headers.authorization });
        const content = replies.shift();
        if (typeof content === "number") response.statusCode = content;
        response.end(JSON.stringify({ choices: [{ message: { content } }] }));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const options = { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`, model: "m", key: "k", waitMs: 1, prompt: "{question}|{answer}|{prediction}", signal: new AbortController().signal, onProgress: () => undefined }; // prettier-ignore
    const answers = [{ id: "0", question: "{answer}?", expected: "e<AND>f", answer: " p " }, { id: "1", question: "q", expected: "e", answer: "p" }]; // prettier-ignore
    const folder = join(root, "judge");
    mkdirSync(folder);
    try {
      const { path, notice } = await judge(folder, answers, options);
      expect([...(await readScores(path))]).toEqual([["0", 0.5], ["1", 0]]); // prettier-ignore
      expect(notice).toMatch(/^judged by m with a prompt that is not the official one: .*; 1 scores could not be read/);
      expect(asked[0]).toEqual({ content: "{answer}?|e <AND> f|p", temperature: 0, key: "Bearer k" });
      expect(asked.map(({ temperature }) => temperature)).toEqual([0, 0.5, 0, 0.5, 1, 1.5, 2]);
      await judge(folder, answers, options);
      expect(asked).toHaveLength(7);
      // Another model is another judge; it was busy, and killed while it wrote its second score.
      const other = await judge(folder, answers, { ...options, model: "n" });
      expect([...(await readScores(other.path)).values()]).toEqual([1, 0.2]);
      writeFileSync(other.path, readFileSync(other.path, "utf8").slice(0, -5));
      await judge(folder, answers, { ...options, model: "n" });
      expect([...(await readScores(other.path)).values()]).toEqual([1, 0.9]);
    } finally {
      server.close();
    }
    await expect(judge(join(root, "a"), answers, options)).rejects.toThrow(
      /--judge http:.*: a JSON answer is required/,
    );
  });
});

describe("the judge's prompt", () => {
  const file = (name: string, text: string): string => {
    const path = join(root, name);
    writeFileSync(path, text);
    return path;
  };

  it("is read from the official evaluator, as a program or a notebook, or is a text", async () => {
    const code = 'import x\nprompt = """Grade.\na | b | 0.1\n"""\nother = """no"""\n';
    const template = "Grade.\na | b | 0.1\n\n{question} | {answer} | {prediction} | ";
    expect(await readJudgePrompt(file("e.py", code))).toBe(template);
    const cells = [{ source: "# text" }, { source: code.split(/(?<=\n)/) }];
    expect(await readJudgePrompt(file("e.ipynb", JSON.stringify({ cells })))).toBe(template);
    expect(await readJudgePrompt(file("e.txt", "{answer} {prediction}"))).toBe("{answer} {prediction}");
    const { recipe, changes } = loadRecipe("mmvet", { judgePrompt: template });
    expect([(recipe as AskRecipe).judgePrompt, changes.map(({ path }) => path)]).toEqual([template, ["judgePrompt"]]);
  });

  it("is refused if the file has none, or if it does not ask for both texts", async () => {
    await expect(readJudgePrompt(file("e.py", "prompt = 1"))).rejects.toThrow(/a text prompt = """…""" is required/);
    await expect(readJudgePrompt(file("e.ipynb", "{}"))).rejects.toThrow(/a notebook is required/);
    await expect(readJudgePrompt(join(root, "none.py"))).rejects.toThrow(FileError);
    expect(() => loadRecipe("mmvet", { judgePrompt: "{answer}" })).toThrow(
      /must contain \{answer\} and \{prediction\}/,
    );
  });
});

describe("the command", () => {
  it("without its files a benchmark says what to get, and exits with the code of bad input; nothing is loaded", async () => {
    const empty = join(root, "empty");
    mkdirSync(empty);
    const { code, stderr, stdout } = await runCli(["eval", "pope", "dpg", "--data", empty, "--out", join(root, "none"), "--json"]); // prettier-ignore
    expect(code).toBe(EXIT.input);
    expect(stderr).toMatch(/pope: a data file is required in .*empty; got none. Get POPE.tsv from https:.* \(size not known; licence MIT; MD5 c12f5acb/); // prettier-ignore
    expect(stderr).toContain("dpg: prompts is required");
    expect(JSON.parse(stdout)).toMatchObject({ error: { name: "EvalDataError", exitCode: EXIT.input } });
  });

  it.each<[readonly string[], RegExp]>([
    [[], /name at least one benchmark: pope, mme/],
    [["pop"], /pop is no benchmark; did you mean pope\?/],
    [["pope", "--scores", "pope=x"], /write geneval=FILE, dpg=FILE or mmvet=FILE/],
    [["pope", "--scores", "dpg=x"], /dpg is not evaluated; name it/],
    [["pope", "--judge", "http://x"], /--judge and --judge-model are needed together/],
    [["pope", "--judge", "http://x", "--judge-model", "m"], /--judge judges mmvet, which is not evaluated/],
    [["mmvet", "--judge", "http://x", "--judge-model", "m", "--shard", "1/2"], /--judge asks from one process/],
    [["mmvet", "--judge", "file:x", "--judge-model", "m"], /--judge must be a URL with http or https/],
    [["mmvet", "--judge-prompt", "x"], /--judge-prompt is the prompt of --judge: give both/],
    [["pope", "--shard", "3/2"], /k\/n with k from 1 to n/],
    [["pope", "--set", "sistem=x"], /sistem is not known/],
    [["pope", "gqa", "--set", "gqa.dtype=f32"], /must have one dtype/],
  ])("refuses %j", async (args, message) => {
    const { code, stderr } = await runHere(addEval, ["eval", ...args]);
    expect([code, stderr]).toEqual([EXIT.usage, expect.stringMatching(message)]);
  });

  it("list prints what to download, and that some of it is not known", async () => {
    const { code, stdout } = await runHere(addEval, ["eval", "list"]);
    expect(code).toBe(EXIT.done);
    expect(stdout).toMatch(
      /geneval \(GenEval\)\n {2}evaluation_metadata.jsonl from https:.*\n {4}86 kB; licence MIT; MD5 9a0ed515/,
    );
    expect(stdout.match(/not known/g)!.length).toBeGreaterThan(8);
  });
});
