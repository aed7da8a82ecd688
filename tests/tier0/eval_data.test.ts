/** Files of benchmarks: TSV, JSONL and Parquet with images in them, and broken ones, which give a typed error or a counted bad row. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { EvalDataError } from "../../eval/errors.ts";
import { imageFile, itemsOf, withoutRotations } from "../../eval/items.ts";
import type { Items } from "../../eval/items.ts";
import { limited } from "../../eval/ask.ts";
import { packIds } from "../../eval/predictions.ts";
import { promptText } from "../../eval/prompt.ts";
import { openTable } from "../../eval/read/open.ts";
import { pythonList } from "../../eval/read/table.ts";
import type { Table } from "../../eval/read/table.ts";
import { loadRecipe } from "../../eval/recipe.ts";
import type { AskRecipe, Benchmark } from "../../eval/recipe.ts";
import { isLong } from "../long.ts";

/** Three rows in two groups, zstd: an image with a path, one without, none; a second column with a list of images. */
const PARQUET =
  "UEFSMRUEFRQVJkwVBBUAEgAAKLUv/SAKUQAAAQAAADABAAAAMRUAFRIVJCwVBBUQFQYVBhwAAAAotS/9IAlJAAACAAAABAEBAwIVBBU0FUZMFQQVABIAACi1L/0gGtEAAAwAAABJcyDDqSB0aGVyZT8GAAAASXMgaXQ/FQAVEhUkLBUEFRAVBhUGHAAAACi1L/0gCUkAAAIAAAAEAQEDAhUEFRoVLEwVBBUAEgAAKLUv/SANaQAAAwAAAHllcwIAAABubxUAFRIVJCwVBBUQFQYVBhwAAAAotS/9IAlJAAACAAAABAEBAwIVBBUUFSZMFQIVABIAACi1L/0gClEAAAYAAAByYW5kb20VABUSFSQsFQQVEBUGFQYcAAAAKLUv/SAJSQAAAgAAAAQBAQQAFQQVMBVCTBUEFQASAAAotS/9IBjBAAAIAAAAiVBORy1vbmUIAAAAiVBORy10d28VABUSFSQsFQQVEBUGFQYcAAAAKLUv/SAJSQAAAgAAAAQCAQMCFQQVEhUkTBUCFQASAAAotS/9IAlJAAAFAAAAYS5wbmcVABUUFSYsFQQVEBUGFQYcAAAAKLUv/SAKUQAAAwAAAAMGAAECABUEFRQVJkwVBBUAEgAAKLUv/SAKUQAAAQAAAHgBAAAAeRUAFSIVNCwVBhUQFQYVBhwAAAAotS/9IBGJAAACAAAAAwIEAAAAA2QAAAEDAhUEFRQVJkwVBBUAEgAAKLUv/SAKUQAAAQAAAHABAAAAcRUAFSIVNCwVBhUQFQYVBhwAAAAotS/9IBGJAAACAAAAAwIEAAAAA2QAAAEDAhUEFQoVHEwVAhUAEgAAKLUv/SAFKQAAAQAAADIVABUSFSQsFQIVEBUGFQYcAAAAKLUv/SAJSQAAAgAAAAIBAQIAFQQVGhUsTBUCFQASAAAotS/9IA1pAAAJAAAATm8gaW1hZ2U/FQAVEhUkLBUCFRAVBhUGHAAAACi1L/0gCUkAAAIAAAACAQECABUEFQ4VIEwVAhUAEgAAKLUv/SAHOQAAAwAAAHllcxUAFRIVJCwVAhUQFQYVBhwAAAAotS/9IAlJAAACAAAAAgEBAgAVBBUUFSZMFQIVABIAACi1L/0gClEAAAYAAAByYW5kb20VABUSFSQsFQIVEBUGFQYcAAAAKLUv/SAJSQAAAgAAAAIBAQIAFQQVABUSTBUAFQASAAAotS/9IAABAAAVABUOFSAsFQIVEBUGFQYcAAAAKLUv/SAHOQAAAgAAAAIAABUEFQAVEkwVABUAEgAAKLUv/SAAAQAAFQAVDhUgLBUCFRAVBhUGHAAAACi1L/0gBzkAAAIAAAACAAAVBBUAFRJMFQAVABIAACi1L/0gAAEAABUAFRoVLCwVAhUQFQYVBhwAAAAotS/9IA1pAAACAAAAAgACAAAAAgAAFQQVABUSTBUAFQASAAAotS/9IAABAAAVABUaFSwsFQIVEBUGFQYcAAAAKLUv/SANaQAAAgAAAAIAAgAAAAIAABUEGdw1ABgGc2NoZW1hFQwAFQwlAhgLcXVlc3Rpb25faWQlAEwcAAAAFQwlAhgIcXVlc3Rpb24lAEwcAAAAFQwlAhgGYW5zd2VyJQBMHAAAABUMJQIYCGNhdGVnb3J5JQBMHAAAADUCGAVpbWFnZRUEABUMJQIYBWJ5dGVzABUMJQIYBHBhdGglAEwcAAAANQIYB2ltYWdlXzIVAhUGTDwAAAA1BBgEbGlzdBUCADUCGAdlbGVtZW50FQQAFQwlAhgFYnl0ZXMAFQwlAhgEcGF0aCUATBwAAAAWBhksGYwmABwVDBk1AAYQGRgLcXVlc3Rpb25faWQVDBYEFmgWjAEmSiYIKSwVBBUAFQIAFQAVEBUCADwWBBkGGSYABAAAACYAHBUMGTUABhAZGAhxdWVzdGlvbhUMFgQWiAEWrAEm9gEmlAEpLBUEFQAVAgAVABUQFQIAPBYkGQYZJgAEAAAAJgAcFQwZNQAGEBkYBmFuc3dlchUMFgQWbhaSASaIAybAAiksFQQVABUCABUAFRAVAgA8FgoZBhkmAAQAAAAmABwVDBk1AAYQGRgIY2F0ZWdvcnkVDBYEFmgWjAEmlAQm0gMpLBUEFQAVAgAVABUQFQIAPBYYGQYZJgAEAAAAJgAcFQwZNQAGEBkoBWltYWdlBWJ5dGVzFQwWBBaEARaoASa8BSbeBCksFQQVABUCABUAFRAVAgA8FiAZBhk2AAAEAAAAJgAcFQwZNQAGEBkoBWltYWdlBHBhdGgVDBYEFmgWjAEmxgYmhgYpLBUEFQAVAgAVABUQFQIAPBYKGQYZNgACAgAAACYAHBUMGTUABhAZSAdpbWFnZV8yBGxpc3QHZWxlbWVudAVieXRlcxUMFgYWeBacASbUByaSByksFQQVABUCABUAFRAVAgA8FgQZJgQCGVYAAgAABAAAACYAHBUMGTUABhAZSAdpbWFnZV8yBGxpc3QHZWxlbWVudARwYXRoFQwWBhZ4FpwBJvAIJq4IKSwVBBUAFQIAFQAVEBUCADwWBBkmBAIZVgACAAAEAAAAFqIHFgQmCBbCCQAZjCYAHBUMGTUABhAZGAtxdWVzdGlvbl9pZBUMFgIWXhaCASaCCibKCSksFQQVABUCABUAFRAVAgA8FgIZBhkmAAIAAAAmABwVDBk1AAYQGRgIcXVlc3Rpb24VDBYCFm4WkgEmlAsmzAopLBUEFQAVAgAVABUQFQIAPBYSGQYZJgACAAAAJgAcFQwZNQAGEBkYBmFuc3dlchUMFgIWYhaGASaaDCbeCyksFQQVABUCABUAFRAVAgA8FgYZBhkmAAIAAAAmABwVDBk1AAYQGRgIY2F0ZWdvcnkVDBYCFmgWjAEmpg0m5AwpLBUEFQAVAgAVABUQFQIAPBYMGQYZJgACAAAAJgAcFQwZNQAGEBkoBWltYWdlBWJ5dGVzFQwWAhZQFnQmng4m8A0pLBUEFQAVAgAVABUQFQIAPBYAGQYZNgIAAAAAACYAHBUMGTUABhAZKAVpbWFnZQRwYXRoFQwWAhZQFnQmkg8m5A4pLBUEFQAVAgAVABUQFQIAPBYAGQYZNgIAAAAAACYAHBUMGTUABhAZSAdpbWFnZV8yBGxpc3QHZWxlbWVudAVieXRlcxUMFgIWXBaAASaGECbYDyksFQQVABUCABUAFRAVAgA8FgAZJgIAGVYCAAAAAAAAACYAHBUMGTUABhAZSAdpbWFnZV8yBGxpc3QHZWxlbWVudARwYXRoFQwWAhZcFoABJoYRJtgQKSwVBBUAFQIAFQAVEBUCADwWABkmAgAZVgIAAAAAAAAAFu4FFgImygkWjggAKCBwYXJxdWV0LWNwcC1hcnJvdyB2ZXJzaW9uIDI1LjAuMRmMHAAAHAAAHAAAHAAAHAAAHAAAHAAAHAAAAJ0FAABQQVIx";

const folder = mkdtempSync(join(tmpdir(), "janus-eval-data-"));
const tables: Table[] = [];
afterAll(async () => {
  for (const table of tables) await table.close();
  rmSync(folder, { recursive: true, force: true });
});
let files = 0;
function file(content: string | Uint8Array, ending: string): string {
  const path = join(folder, `${files++}${ending}`);
  writeFileSync(path, content);
  return path;
}
const tsv = (...rows: readonly (readonly string[])[]): string => file(rows.map((row) => row.join("\t")).join("\n") + "\n", ".tsv"); // prettier-ignore
const recipe = (benchmark: Benchmark, ...set: string[]): AskRecipe =>
  loadRecipe(benchmark, { set }).recipe as AskRecipe;
const BASE64 = Buffer.alloc(60, 7).toString("base64"); // 80 characters: longer than a reference

async function read(
  path: string,
  benchmark: Benchmark = "pope",
  maxRecord?: number,
  ...set: string[]
): Promise<Items & { bytes: (id: string) => Promise<Uint8Array[]> }> {
  // prettier-ignore
  const own = recipe(benchmark, ...set);
  const table = await openTable(path, { images: own.columns.image, ...(maxRecord && { maxRecord }) });
  tables.push(table);
  const items = itemsOf(table, own);
  const bytes = async (id: string): Promise<Uint8Array[]> => {
    const loaded: Uint8Array[] = [];
    for (const cell of items.items.find((item) => item.id === id)!.images)
      loaded.push(await imageFile(cell, path, "row"));
    return loaded;
  };
  return { ...items, bytes };
}
const HEAD = ["index", "image", "question", "answer", "category"];

describe("TSV", () => {
  it("reads quotes, line breaks, CRLF and a mark; a short value is the image of another row, a list several images", async () => {
    const other = Buffer.alloc(60, 9).toString("base64");
    const text = [HEAD.join("\t"), `0\t${BASE64}\t"Is ""it""\ta\r\nline?"\tYes\trandom,popular`, `1\t0\tIs 5" it?\tNo\t`, `2\t['${BASE64}', '${other}']\té\tYes\tx`, ""].join("\r\n"); // prettier-ignore
    const { items, bad, bytes } = await read(file(`\ufeff${text}`, ".tsv"));
    expect(bad).toEqual([]);
    expect(items.map(({ question, answer, category }) => [question, answer, category])).toEqual([
      ['Is "it"\ta\r\nline?', "Yes", "random,popular"],
      ['Is 5" it?', "No", null],
      ["é", "Yes", "x"],
    ]);
    expect((await bytes("0"))[0]).toEqual(Buffer.alloc(60, 7));
    expect(items[1]!.images[0]!.key).toBe(items[0]!.images[0]!.key); // encoded once
    expect(await bytes("2")).toEqual([Buffer.alloc(60, 7), Buffer.alloc(60, 9)]);
  });

  it.each<[string, string[][], RegExp]>([
    ["a missing column", [["index", "image", "question"], ["0", BASE64, "q"]], /a column for the answer is required \(answer\); got index, image, question/],
    ["an index twice", [HEAD, ["0", BASE64, "q", "Yes", ""], ["0", BASE64, "q", "No", ""]], /each row must have its own index; rows 1 and 2 both have "0"/],
    ["a row with too few cells", [HEAD, ["0", BASE64, "q"]], /row 1: a row must have 5 cells, as the header; got 3/],
    ["a quote without an end", [HEAD, ["0", BASE64, '"q', "Yes", ""]], /a quoted cell must end/],
    ["text behind a closing quote", [HEAD, ["0", BASE64, '"q" and', "Yes", ""]], /record 2: a quote inside a quoted cell must be doubled; got " and"/],
    ["a column twice", [[...HEAD, "index"], ["0", BASE64, "q", "Yes", "", "0"]], /got "index" twice/],
    ["no rows", [HEAD], /at least one row is required/],
  ])("refuses %s", async (_, rows, message) => {
    const failed = read(tsv(...rows));
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(EvalDataError);
  }); // prettier-ignore

  it("sets bad rows aside with their reason: answers, missing values, empty images", async () => {
    const { items, bad } = await read(
      tsv(HEAD, ["0", BASE64, "q", "Yes", ""], ["1", BASE64, "q", "Perhaps", ""], ["2", BASE64, "q", "NaN", ""], ["3", "", "q", "No", ""], ["4", BASE64, "", "No", ""]),
    ); // prettier-ignore
    expect(items.map(({ id }) => id)).toEqual(["0"]);
    expect(bad.map(({ at, reason }) => [at, reason])).toEqual([
      [2, 'the answer must be Yes or No; got "Perhaps"'],
      [3, "the answer is missing"],
      [4, "an image is required; got an empty cell"],
      [5, "the question is missing"],
    ]);
  });

  it("a letter that is not among the options is a bad row; None is no option, as in pandas", async () => {
    const head = ["index", "image", "question", "hint", "A", "B", "C", "D", "answer", "category"];
    const rows = [["0", BASE64, "q", "h", "red", "None", "blue", "", "C", ""], ["1", BASE64, "q", "nan", "red", "blue", "", "", "D", ""]]; // prettier-ignore
    const { items, bad } = await read(tsv(head, ...rows), "seed");
    expect([...items[0]!.options]).toEqual([["A", "red"], ["C", "blue"]]); // prettier-ignore
    expect(bad[0]!.reason).toBe('the answer must be one of the letters A, B; got "D"');
    const kept = await read(tsv(head, ...rows), "seed", undefined, "missing=empty");
    expect(kept.items[0]!.options.get("B")).toBe("None");
  });

  it("bad base64, a reference to nothing, an image that is cut off", async () => {
    const { bytes } = await read(tsv(HEAD, ["0", `${BASE64}*`, "q", "Yes", ""], ["1", "17", "q", "Yes", ""], ["2", BASE64.slice(0, 79), "q", "Yes", ""])); // prettier-ignore
    await expect(bytes("0")).rejects.toThrow(/its image must be base64/);
    await expect(bytes("1")).rejects.toThrow(/got "17", and no row or file of that name/);
    await expect(bytes("2")).rejects.toThrow(/its image must be base64/);
  });

  it("a record over the limit is refused; one of 70 MB is read", async () => {
    await expect(read(tsv(HEAD, ["0", "A".repeat(9 * 2 ** 20), "q", "Yes", ""]), "pope", 4 * 2 ** 20)).rejects.toThrow(/a record must have at most 4194304 bytes; got more/); // prettier-ignore
    if (!isLong) return;
    const { bytes } = await read(tsv(HEAD, ["0", "A".repeat(70_000_000), "q", "Yes", ""]));
    expect((await bytes("0"))[0]!.length).toBe(52_500_000);
  });

  it("MMBench: the index gives the group; --limit counts groups", async () => {
    const head = ["index", "image", "question", "A", "B", "answer"];
    const path = tsv(head, ["7", BASE64, "q", "x", "y", "A"], ["8", "7", "q", "x", "y", "B"], ["1000007", "7", "q", "y", "x", "B"]); // prettier-ignore
    const items = await read(path, "mmbench");
    expect(items.items.map(({ group }) => group)).toEqual(["7", "8", "7"]);
    expect(limited(items, 1).items.map(({ id }) => id)).toEqual(["7", "1000007"]);
    expect(withoutRotations(items)).toBe(1); // question 8
    const bad = (at: number) => ({ at, id: null, reason: "" });
    expect(limited({ ...items, bad: [bad(2), bad(9)] }, 1).bad).toEqual([bad(2)]);
    for (const strange of ["7.0", "07", "9".repeat(16)]) await expect(read(tsv(head, [strange, BASE64, "q", "x", "y", "A"]), "mmbench")).rejects.toThrow(/index must be a whole number/); // prettier-ignore
    await expect(read(tsv(head, ["x7", BASE64, "q", "x", "y", "A"]), "mmbench")).rejects.toThrow(/index must be a whole number/); // prettier-ignore
    await expect(read(tsv(head, ["", BASE64, "q", "x", "y", "A"]), "mmbench")).rejects.toThrow(/an index is required/);
  });
});

describe("JSONL and Parquet", () => {
  it("JSONL: paths beside the file, base64, data URLs, lists", async () => {
    writeFileSync(join(folder, "one.png"), "PNG");
    const line = (value: object): string => JSON.stringify({ question: "q", answer: "yes", ...value });
    const { bytes } = await read(
      file([line({ index: 0, image: "one.png" }), "", line({ index: 1, image: BASE64 }), line({ index: "2", image: [`data:image/png;base64,${BASE64}`, "one.png"] })].join("\n"), ".jsonl"),
    ); // prettier-ignore
    expect((await bytes("0"))[0]).toEqual(new Uint8Array(Buffer.from("PNG")));
    expect((await bytes("1"))[0]).toEqual(Buffer.alloc(60, 7));
    expect((await bytes("2")).map(({ length }) => length)).toEqual([60, 3]);
    await expect(read(file('{"index":0,\n', ".jsonl"))).rejects.toThrow(/:1: a JSON object is required/);
    await expect(read(file("[1]\n", ".jsonl"))).rejects.toThrow(/:1: a JSON object is required/);
  });

  it("Parquet: struct<bytes, path>, lists of them, several row groups", async () => {
    const { items, bad, bytes } = await read(file(Buffer.from(PARQUET, "base64"), ".parquet"), "mmmu", undefined, "columns.id=[question_id]", "columns.image=[image, image_2]", "split=null"); // prettier-ignore
    expect(items.map(({ id, question, answer }) => [id, question, answer])).toEqual([["0", "Is é there?", "yes"], ["1", "Is it?", "no"]]); // prettier-ignore
    expect(bad.map(({ at }) => at)).toEqual([3]);
    expect((await bytes("0")).map((one) => Buffer.from(one).toString("latin1"))).toEqual(["\x89PNG-one", "x", "y"]);
    expect((await bytes("1")).map((one) => Buffer.from(one).toString("latin1"))).toEqual(["\x89PNG-two"]);
    const failed = read(file("PAR1 and nothing else", ".parquet"));
    await expect(failed).rejects.toBeInstanceOf(EvalDataError);
  });

  it("structures are no texts, a list has at most 26 options; SEED as on the hub: videos are left out", async () => {
    const line = (value: object): string => JSON.stringify({ index: 0, image: BASE64, answer: "A", options: "['x']", ...value }); // prettier-ignore
    const struct = await read(file(line({ question: { text: "q" } }), ".jsonl"));
    expect(struct.bad.map(({ reason }) => reason)).toEqual(["the question is missing"]);
    const many = `[${Array.from({ length: 27 }, (_, i) => `'${i}'`).join()}]`;
    expect((await read(file(line({ question: "q", options: many }), ".jsonl"), "mmmu")).bad[0]!.reason).toMatch(/a list of at most 26/); // prettier-ignore
    const seed = ["image", "video"].map((type, i) => line({ index: i, question: "q", choice_a: "x", data_type: type }));
    const { items, otherSplits } = await read(file(seed.join("\n"), ".jsonl"), "seed");
    expect([items.map(({ id }) => id), otherSplits]).toEqual([["0"], 1]);
    expect((await read(file(seed.join("\n"), ".jsonl"), "seed", undefined, "split=")).items).toHaveLength(2);
  });

  it("MME as on the hub: no ids, question_id is the image", async () => {
    const line = (q: number): string => JSON.stringify({ question_id: "OCR/1.png", image: BASE64, question: "q", answer: q ? "No" : "Yes", category: "OCR" }); // prettier-ignore
    const { items } = await read(file([0, 1].map(line).join("\n"), ".jsonl"), "mme");
    expect(items.map(({ id, group }) => [id, group])).toEqual([["1", "OCR/1.png"], ["2", "OCR/1.png"]]); // prettier-ignore
  });

  it("refuses other files", async () => {
    await expect(openTable(file("", ".csv"), { images: [] })).rejects.toThrow(/must end in .tsv, .jsonl or .parquet/);
    await expect(read(file("<!doctype html>", ".tsv"))).rejects.toThrow(/is a web page/);
    await expect(read(file(Buffer.from([0x69, 0xff, 0x09, 0x0a]), ".tsv"))).rejects.toThrow(/must be UTF-8/);
  });
});

describe("prompts", () => {
  const item = { id: "0", at: 1, question: "Is it {hint}? Please answer yes or no.", hint: null, options: new Map<string, string>(), answer: "Yes", category: null, group: null, images: [] }; // prettier-ignore
  const options = new Map([["A", "red"], ["B", "blue"]]); // prettier-ignore
  const END = "Answer with the option's letter from the given choices directly.";
  it.each<[Benchmark, object, string]>([
    ["pope", {}, "\nIs it {hint}?\nAnswer the question using a single word or phrase."],
    ["mme", {}, "\nIs it {hint}? Please answer yes or no.\nAnswer the question using a single word or phrase."],
    ["mmbench", { question: "Q", options }, `\nQ\nA. red\nB. blue\n\n${END}`],
    ["seed", { question: "Q", options, hint: "H" }, `\nHint: H\nQ\nA. red\nB. blue\n\n${END}`],
    ["mmmu", { question: "<image 1> Q" }, "\n<image 1> Q\nAnswer the question directly. "],
    ["gqa", { question: "Q" }, "Q\nAnswer the question using a single word or phrase."],
    ["mmvet", { question: "Q" }, "\nQ"],
  ])("%s", (benchmark, changes, expected) => {
    expect(promptText({ ...item, ...changes }, recipe(benchmark))).toBe(expected);
  }); // prettier-ignore

  it("Python lists and runs of ids", () => {
    expect(pythonList(`['a', "it's", 'x\\'y', 3]`)).toEqual(["a", "it's", "x'y", "3"]);
    expect(pythonList("[]")).toEqual([]);
    expect(pythonList("['a' 'b'")).toBeNull();
    expect(packIds([5, 7, 7, 7, 8, 8])).toEqual([5, [7, 3], 8, 8]);
  });
});
