/** Samples as a person reads them, and the parts of `janus data` that need no device. */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { addData } from "../../cli/data.ts";
import { EXIT } from "../../cli/errors.ts";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { folderSource } from "../../model/node/files.ts";
import { encodePng, readImage } from "../../model/node/image_file.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import { DEFAULT_SYSTEM_PROMPT } from "../../model/janus/prompt.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { samplePieces } from "../../train/data/preview.ts";
import { IGNORE, imageSample, textSample } from "../../train/samples.ts";
import { runCli, runHere } from "../cli.ts";
import { hasFixtures } from "../fixtures.ts";

const temporary = mkdtempSync(join(tmpdir(), "janus-preview-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
const fixture = (path: string): string =>
  fileURLToPath(new URL(`../../../shared/fixtures/tiny/${path}`, import.meta.url));
const write = (name: string, records: unknown[]): string => {
  const path = join(temporary, name);
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
  return path;
};

describe("pieces of a sample", () => {
  const files = byteTokenizerFiles({});
  const text = (name: string): string => new TextDecoder().decode(files.get(name));
  const tokenizer = new Tokenizer({ tokenizer: text("tokenizer.json"), config: text("tokenizer_config.json") });
  const { bos, eos, pad, imagePlaceholder, beginOfImage } = tokenizer.specials;
  const ids = (words: string): number[] => tokenizer.encode(words, { bos: false });

  it("tell what is trained, special tokens and characters of several bytes too", () => {
    const [question, answer] = [
      [bos, ...ids("Hö?"), ...Array.from({ length: 64 }, () => imagePlaceholder)],
      ids(" 红."),
    ];
    const all = [...question, ...answer, eos, ...ids("x"), ...ids("y"), eos];
    const labels = all.map((id, i) =>
      (i >= question.length && i <= question.length + answer.length) || i >= all.length - 2 ? id : IGNORE,
    );
    expect(samplePieces(textSample("text", all, labels), tokenizer)).toEqual([
      { text: "<｜begin▁of▁sentence｜>Hö?<image_placeholder>×64", isTrained: false },
      { text: " 红.<｜end▁of▁sentence｜>", isTrained: true },
      { text: "x", isTrained: false },
      { text: "y<｜end▁of▁sentence｜>", isTrained: true },
    ]);
  });

  it("show codes, and prompts that were dropped", () => {
    const codes = Array.from({ length: 20 }, (_, i) => i + 100);
    const prompt = [bos, ...ids("a cat"), beginOfImage];
    const shown = { text: "20 codes: 100 101 102 103 104 105 106 107 108 109 110 111 …", isTrained: true };
    expect(samplePieces(imageSample(prompt, codes), tokenizer)).toEqual([
      { text: "<｜begin▁of▁sentence｜>a cat<begin_of_image>", isTrained: false },
      shown,
    ]);
    expect(samplePieces(imageSample(prompt, codes, pad), tokenizer)).toEqual([
      { text: "<｜begin▁of▁sentence｜><｜▁pad▁｜>×5<begin_of_image>", isTrained: false },
      shown,
    ]);
    expect(samplePieces(imageSample(prompt, [7]), tokenizer)[1]).toEqual({ text: "1 codes: 7", isTrained: true });
  });
});

describe("janus data", () => {
  it("indexes sources", async () => {
    const [text, pairs] = [
      write("t.jsonl", [{ text: "a" }, { text: "b" }]),
      write("p.jsonl", [{ prompt: "p", image: "i" }]),
    ];
    const result = await runCli(["data", "index", text, pairs, "--cache", join(temporary, "cache"), "--json"]);
    expect(result.code, result.stderr).toBe(EXIT.done);
    expect(JSON.parse(result.stdout)).toMatchObject({
      sources: [
        { path: text, kind: "text", task: "text", records: 2 },
        { path: pairs, kind: "pairs", task: "gen", records: 1 },
      ],
    });
  });

  it("lists the fields that it saw, used, ignored and refused, and the files of a folder", async () => {
    const text = write("fields.jsonl", [{ text: "a", url: "u", score: 1 }, { text: "b", score: 2 }, { text: "c" }]);
    const classes = join(temporary, "classes");
    mkdirSync(join(classes, "cat"), { recursive: true });
    for (const name of ["1.png", "2.bmp"]) writeFileSync(join(classes, "cat", name), name);
    const args = ["data", "index", text, classes, "--cache", join(temporary, "cache")];
    const shown = await runHere(addData, args);
    expect(shown.code, shown.stderr).toBe(EXIT.done);
    expect(shown.stdout.split("\n").map((line) => line.trim().replace(/ {2,}/g, " | "))).toEqual(
      expect.arrayContaining([
        "text | 3 records | used",
        "url | 1 records | ignored",
        'score | 2 records | refused; allow with --ignore-field "score"',
        "an image of a format that is not read | 1 files | ignored, e.g. cat/2.bmp",
      ]),
    );
    const allowed = await runHere(addData, [...args, "--json", "--ignore-field", "score"]);
    expect(JSON.parse(allowed.stdout)).toMatchObject({
      sources: [{ fields: [{ use: "used" }, { use: "ignored" }, { field: "score", records: 2, use: "ignored" }] }, {}],
    });
    const absent = await runHere(addData, [...args, "--ignore-field", "scores"]);
    expect([absent.code === EXIT.done, absent.stderr]).toEqual([
      false,
      expect.stringMatching(/"scores": no record has this field/),
    ]);
  });

  it.skipIf(!hasFixtures)("counts tokens as samples have them, once for each tokenizer", async () => {
    const talk = write("count.jsonl", [
      {
        image: fixture("image0.png"),
        conversations: [{ from: "human", value: "<image>\nWhat?" }, { from: "gpt", value: "A circle." }], // prettier-ignore
      },
      { conversations: [{ from: "human", value: "What?" }] },
      { conversations: [{ from: "human", value: "What?" }, { from: "gpt", value: "That." }] }, // prettier-ignore
    ]);
    const pairs = write("drawn.jsonl", [{ prompt: "a red circle", image: "gone.png" }]);
    const cache = join(temporary, "counts");
    const index = async (...more: string[]): Promise<{ tokens: number; longest: number; bad: number }[]> => {
      const args = ["data", "index", talk, pairs, "--cache", cache, "--model", fixture("hf"), "--json", ...more];
      const result = await runHere(addData, args);
      expect(result.code, result.stderr).toBe(EXIT.done);
      return (JSON.parse(result.stdout) as { sources: { tokens: number; longest: number; bad: number }[] }).sources;
    };
    const shown = await runHere(addData, ["data", "preview", talk, "--model", fixture("hf"), "--system", "", "--json"]);
    const { samples } = JSON.parse(shown.stdout) as { samples: { tokens?: number }[] };
    const lengths = samples.map(({ tokens = 0 }) => tokens);
    const [talked, drawn] = await index("--system", "");
    expect(talked).toMatchObject({ tokens: lengths[0]! + lengths[2]!, longest: lengths[0], bad: 1 });
    expect(lengths.map((n) => n > 0)).toEqual([true, false, true]);
    // A prompt, begin-of-image among its tokens, and all codes but the last.
    const source = folderSource(fixture("hf"));
    const checkpoint = await openCheckpoint(source);
    const { prompts } = await readProcessor(source, checkpoint.config);
    await checkpoint.close();
    expect(drawn).toMatchObject({ tokens: prompts.encode(prompts.generation("a red circle")).length + 63, bad: 0 });
    const [longer] = await index("--system", DEFAULT_SYSTEM_PROMPT);
    expect(longer!.tokens).toBeGreaterThan(talked!.tokens);
    const files = readdirSync(join(cache, "index")).filter((name) => name.endsWith(".tokens"));
    expect(files).toHaveLength(4);
    // What is there is taken: a count that was changed comes back.
    for (const name of files) writeFileSync(join(cache, "index", name), new Uint8Array(statSync(join(cache, "index", name)).size).fill(1)); // prettier-ignore
    expect((await index("--system", ""))[1]!.tokens).toBe(0x01010101);
  });

  it.skipIf(!hasFixtures)("shows what is trained between brackets, and what is bad", async () => {
    const path = write("talk.jsonl", [
      {
        image: fixture("image0.png"),
        conversations: [
          { from: "human", value: "<image>\nWhat?" },
          { from: "gpt", value: "A red\u001b[31m circle." },
        ],
      },
      { conversations: [{ from: "human", value: "What?" }] },
    ]);
    const result = await runCli(["data", "preview", path, "--model", fixture("hf"), "--system", ""]);
    expect(result.code, result.stderr).toBe(EXIT.done);
    expect(result.stdout).toContain(`${path}:1: und, `);
    expect(result.stdout).toContain(
      "<|User|>: <begin_of_image><image_placeholder>×64<end_of_image>\nWhat?\n\n<|Assistant|>:⟦ A red\ufffd[31m circle.<｜end▁of▁sentence｜>⟧",
    );
    expect(result.stdout).toContain(`${path}:2: bad: ${path}:2: the conversation does not end with an answer`);
  });
});

describe("pages of janus data", () => {
  const decoded = (html: string): string =>
    html.replace(/<[^>]+>/g, "").replace(/&quot;/g, '"').replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&"); // prettier-ignore

  it.skipIf(!hasFixtures)(
    "preview --html: images as the model gets them, trained and cut tokens, bad records",
    async () => {
      const turn = (question: string, answer: string): object[] => [{ from: "human", value: question }, { from: "gpt", value: answer }]; // prettier-ignore
      const path = write("page.jsonl", [
        { image: fixture("image0.png"), conversations: [...turn("<image>What?", "A <b>circle</b>."), ...turn("And?", "No more.")] }, // prettier-ignore
        { conversations: [{ from: "human", value: "What?" }] },
      ]);
      const page = join(temporary, "page.html");
      const args = [
        "data",
        "preview",
        path,
        "--model",
        fixture("hf"),
        "--system",
        "",
        "--length",
        "100",
        "--html",
        page,
      ];
      const cut = await runHere(addData, [...args, "--truncate", "--json"]);
      expect(cut.code, cut.stderr).toBe(EXIT.done);
      const [first, second] = (JSON.parse(cut.stdout) as { samples: { kept?: number; tokens?: number; bad?: string }[] }).samples; // prettier-ignore
      expect(first).toMatchObject({ images: 1, task: "und" });
      expect(first!.kept).toBeLessThan(first!.tokens!);
      expect(second!.bad).toMatch(/does not end with an answer/);
      const html = readFileSync(page, "utf8");
      expect(html).toMatch(/<span class="trained"[^>]*> A &lt;b&gt;circle&lt;\/b&gt;\.<｜end▁of▁sentence｜><\/span>|<span class="trained"[^>]*> A &lt;b&gt;circle/); // prettier-ignore
      expect(html).toMatch(/<span class="cut"[^>]*>[^]*And\?[^]*<\/span><span class="cut"[^>]*>[^]*No more/);
      expect(decoded(html)).toContain(`und · ${first!.tokens} tokens · `);
      expect(decoded(html)).toContain("Goes into quarantine:");
      const [, base64] = /src="data:image\/png;base64,([^"]+)"/.exec(html)!;
      const shown = await readImage(Buffer.from(base64!, "base64"));
      const wanted = await readImage(fixture("image0.png"));
      const checkpoint = await openCheckpoint(folderSource(fixture("hf")));
      const { images } = await readProcessor(folderSource(fixture("hf")), checkpoint.config);
      await checkpoint.close();
      expect([shown.width, shown.height]).toEqual([images.imageSize, images.imageSize]);
      if (wanted.width === images.imageSize && wanted.height === images.imageSize)
        expect(shown.data).toEqual(wanted.data);
      const refused = await runHere(addData, args);
      expect(refused.stdout).toMatch(/page\.jsonl:1: bad: the conversation has \d+ tokens, at most 100 fit/);
      const alone = await runHere(addData, ["data", "preview", path, "--model", fixture("hf"), "--truncate"]);
      expect(alone.stderr).toMatch(/--truncate needs --length/);
    },
  );

  it("stats: counts, lengths, sizes, duplicates, bad records and a run's quarantine, as text and as a page", async () => {
    const png = (side: number): Promise<Uint8Array> => encodePng({ width: side, height: 2, data: new Uint8Array(6 * side) }); // prettier-ignore
    for (const side of [2, 3]) writeFileSync(join(temporary, `s${side}.png`), await png(side));
    writeFileSync(join(temporary, "s4.png"), await png(3));
    const pairs = write("stats.jsonl", [
      { prompt: "a", image: "s2.png" },
      { prompt: "bb", image: "s3.png" },
      { prompt: "bb", image: "s4.png" }, // the same content in another file
      { prompt: "c", image: "gone.png" },
      { prompt: "", image: "s2.png" },
    ]);
    const texts = write("stats_texts.jsonl", [{ text: "12345678" }, { text: "1234" }]);
    const run = join(temporary, "run");
    mkdirSync(run);
    writeFileSync(join(run, "quarantine.jsonl"), `${JSON.stringify({ source: "a.jsonl", record: 3, reason: "a.jsonl:4: the text is empty" })}\n{"cut off`); // prettier-ignore
    const page = join(temporary, "stats.html");
    const args = ["data", "stats", pairs, texts, "--run", run, "--html", page];
    const json = await runHere(addData, [...args, "--json"]);
    expect(json.code, json.stderr).toBe(EXIT.done);
    expect(JSON.parse(json.stdout)).toMatchObject({
      records: 7,
      seen: 7,
      bad: 2,
      unit: "characters",
      tasks: { gen: { records: 3, length: 5, longest: 2 }, text: { records: 2, length: 12, longest: 8 } },
      images: 3,
      sizes: [{ width: 2, height: 2, count: 1 }, { width: 3, height: 2, count: 2 }], // prettier-ignore
      sameRecords: { count: 1, examples: [[`${pairs}:2`, `${pairs}:3`]] },
      sameImages: { count: 1, examples: [[join(temporary, "s3.png"), join(temporary, "s4.png")]] },
      reasons: [{ count: 1, reason: expect.stringContaining("cannot read the image") as string }, { count: 1, reason: expect.stringContaining("is empty") as string }], // prettier-ignore
      quarantine: [{ reason: "the text is empty", count: 1, example: "a.jsonl:4: the text is empty" }],
    });
    const html = readFileSync(page, "utf8");
    for (const title of ["Records by task", "Characters by task", "Length of samples, characters", "Images by size"])
      expect(html).toMatch(new RegExp(`<svg[^]*${title}`));
    expect(decoded(html)).toContain("1 of 5 records equal an earlier one");
    const text = await runHere(addData, args);
    expect(text.stdout).toMatch(/7 of 7 records; 2 bad \(28\.6 %\)/);
    const some = await runHere(addData, ["data", "stats", pairs, texts, "--most", "2", "--json"]);
    expect(JSON.parse(some.stdout)).toMatchObject({ seen: 2, records: 7 });
    const none = await runHere(addData, ["data", "stats", texts, "--run", temporary]);
    expect(none.stderr).toMatch(/there is no .*quarantine\.jsonl/);
  });
});
