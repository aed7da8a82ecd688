/** The byte-level tokenizer made from nothing: what it learns, against merges found by hand and a slow reference, and that all text survives it. */
import { describe, expect, it } from "vitest";
import { ArgumentError } from "../../engine/errors.ts";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { deepseekSideFiles, hfSideFiles } from "../../model/janus/checkpoint/side_files.ts";
import type { FileSource } from "../../model/io/bytes.ts";
import { JANUS_TINY } from "../../model/janus/create.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import type { DrawingDefaults } from "../../model/janus/processor.ts";
import { PromptFormat } from "../../model/janus/prompt.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { fixtureJson, hasFixtures } from "../fixtures.ts";
import { slowTokenizer } from "../reference/bpe.ts";

interface Declared {
  added_tokens: { id: number; content: string; special: boolean }[];
  pre_tokenizer: { pretokenizers: { type: string; pattern?: { Regex: string } }[] };
  model: { vocab: Record<string, number>; merges: [string, string][] };
}

const textOf = (files: Map<string, Uint8Array>, name: string): string => new TextDecoder().decode(files.get(name));
const jsonOf = (files: Map<string, Uint8Array>, name: string): unknown => JSON.parse(textOf(files, name));
const declared = (options?: Parameters<typeof byteTokenizerFiles>[0]): Declared =>
  jsonOf(byteTokenizerFiles(options), "tokenizer.json") as Declared;
const tokenizerOf = (files: Map<string, Uint8Array>): Tokenizer =>
  new Tokenizer({
    tokenizer: textOf(files, "tokenizer.json"),
    config: textOf(files, "tokenizer_config.json"),
    specialTokensMap: textOf(files, "special_tokens_map.json"),
  });

const SPECIALS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<image_placeholder>", "<begin_of_image>", "<end_of_image>", "<|User|>", "<|Assistant|>"]; // prettier-ignore
const TEXTS = [
  "A small red square on a white ground. A large red circle on a black ground.",
  "What is in the picture? A circle. What colour is the circle? The circle is red.",
  "猜这是哪里？这是湖泊的里。 naïve café, 3½ 100 200\r\n\tzwölf Boxkämpfer 👩‍👩‍👧‍👦",
];

const seed = Math.floor(Math.random() * 2 ** 31);
let state = seed;
const next = (n: number): number => ((state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 8) % n;

/** Text of all kinds, with special tokens and words of `TEXTS` in it. */
function randomText(): string {
  let text = "";
  for (let parts = 1 + next(12); parts > 0; parts--) {
    const kind = next(5);
    if (kind === 0) text += SPECIALS[next(SPECIALS.length)]!;
    else if (kind === 1)
      text += TEXTS[next(TEXTS.length)]!.slice(next(40), 40 + next(40)).replace(/\p{Surrogate}/gu, "");
    else if (kind === 2) text += [" ", "\n", "  \t", "١", "aa", "。"][next(6)]!.repeat(1 + next(5));
    else text += String.fromCodePoint(next(3) ? next(0x3000) : next(2) ? next(0xd800) : 0xe000 + next(0x102000));
  }
  return text;
}

describe("the files", () => {
  it("hold the bytes, the merges and the special tokens, in this order of ids", () => {
    const bare = declared();
    expect(Object.values(bare.model.vocab).sort((a, b) => a - b)).toEqual(Array.from({ length: 256 }, (_, i) => i));
    expect(bare.model.merges).toEqual([]);
    expect(bare.added_tokens.map(({ content, id, special }) => [content, id, special])).toEqual(
      SPECIALS.map((content, i) => [content, 256 + i, true]),
    );
    const { model, added_tokens } = declared({ texts: TEXTS, merges: 20 });
    expect(model.merges.length).toBe(20);
    expect(model.merges.map(([a, b]) => model.vocab[a + b])).toEqual(Array.from({ length: 20 }, (_, i) => 256 + i));
    expect(added_tokens.map(({ id }) => id)).toEqual(SPECIALS.map((_, i) => 276 + i));
  });
  it.skipIf(!hasFixtures)("are of the fixtures' form: the same keys, bytes and splits", () => {
    const published = fixtureJson("hf/tokenizer.json") as Declared & Record<string, unknown>;
    const own = declared() as Declared & Record<string, unknown>;
    const keys = (value: object): string[] => Object.keys(value).sort();
    expect(keys(own)).toEqual(keys(published));
    expect(keys(own.model)).toEqual(keys(published.model));
    expect(keys(own.added_tokens[0]!)).toEqual(keys(published.added_tokens[0]!));
    expect(own.pre_tokenizer).toEqual(published.pre_tokenizer);
    expect(own.decoder).toEqual(published.decoder);
    expect(JSON.stringify(own.post_processor)).toBe(JSON.stringify(published.post_processor).replace("[688]", "[256]"));
    const bytes = Object.entries(published.model.vocab).filter(([, id]) => id < 256);
    expect(own.model.vocab).toEqual(Object.fromEntries(bytes));
  });
  it("are read by the tokenizer, which finds every token of Janus", () => {
    const tokenizer = tokenizerOf(byteTokenizerFiles({ texts: TEXTS, merges: 20 }));
    expect(tokenizer.size).toBe(256 + 20 + 8);
    expect(tokenizer.specials).toEqual({
      bos: 276,
      eos: 277,
      pad: 278,
      imagePlaceholder: 279,
      beginOfImage: 280,
      endOfImage: 281,
      user: 282,
      assistant: 283,
    });
    const prompt = new PromptFormat(tokenizer, { imageTokens: 4 });
    const ids = prompt.encode(prompt.conversation([{ role: "user", content: "<image_placeholder>\nred?" }]), 1);
    expect(ids.filter((id) => id >= 276)).toEqual([276, 282, 280, 279, 279, 279, 279, 281, 283]);
  });
  it("give a model's configs their ids", () => {
    const files = hfSideFiles(JANUS_TINY, "bf16", byteTokenizerFiles(), "x");
    expect(jsonOf(files, "config.json")).toMatchObject({
      image_token_id: 259,
      text_config: { bos_token_id: 256, eos_token_id: 257, pad_token_id: 258 },
    });
    expect(jsonOf(files, "generation_config.json")).toMatchObject({ generation_kwargs: { boi_token_id: 260 } });
  });
  it("how pictures are drawn is kept, and read back by the processor", async () => {
    const drawn = (json: object): Map<string, Uint8Array> =>
      new Map([...byteTokenizerFiles(), ["generation_config.json", new TextEncoder().encode(JSON.stringify(json))]]);
    const drawingOf = async (files: Map<string, Uint8Array>): Promise<DrawingDefaults> => {
      const source: FileSource = {
        name: "x",
        list: async () => [...files.keys()],
        open: async (name) => {
          const file = files.get(name)!;
          return { name, size: file.length, read: async (at, n) => file.subarray(at, at + n) };
        },
      };
      return (await readProcessor(source, JANUS_TINY)).drawing;
    };
    const saved = hfSideFiles(JANUS_TINY, "bf16", drawn({ guidance_scale: 2, temperature: 0.7, top_k: 3 }), "x");
    expect(jsonOf(saved, "generation_config.json")).toMatchObject({ guidance_scale: 2, temperature: 0.7 });
    expect(await drawingOf(saved)).toEqual({ guidance: 2, temperature: 0.7 });
    const over = deepseekSideFiles(JANUS_TINY, "bf16", saved, "x");
    expect(await drawingOf(over)).toEqual({ guidance: 2, temperature: 0.7 });
    expect(deepseekSideFiles(JANUS_TINY, "bf16", drawn({ guidance_scale: 5 }), "x").has("generation_config.json")).toBe(false); // prettier-ignore
    expect(await drawingOf(hfSideFiles(JANUS_TINY, "bf16", byteTokenizerFiles(), "x"))).toEqual({
      guidance: 5,
      temperature: 1,
    });
    expect(await drawingOf(byteTokenizerFiles())).toEqual({ guidance: 5, temperature: 1 });
    for (const bad of [{ guidance_scale: "5" }, { temperature: -1 }, []])
      await expect(drawingOf(drawn(bad))).rejects.toThrow(/^x\/generation_config\.json/);
  });
  it("are the same for the same texts, in any order", () => {
    const [a, b] = [byteTokenizerFiles({ texts: TEXTS }), byteTokenizerFiles({ texts: [...TEXTS].reverse() })];
    expect([...b]).toEqual([...a]);
    expect(textOf(byteTokenizerFiles({ texts: TEXTS.slice(1) }), "tokenizer.json")).not.toBe(
      textOf(a, "tokenizer.json"),
    );
  });
  it("refuse a number of merges that is none", () => {
    for (const merges of [-1, 1.5, NaN, 1e9]) expect(() => byteTokenizerFiles({ merges })).toThrow(ArgumentError);
  });
});

describe("learning", () => {
  it.each([
    // ab is there 5 times; then " ab" 3 times; "abc" and " abc" once each are not worth a token.
    [
      ["ab ab ab abc", "ab"],
      [
        ["a", "b"],
        ["Ġ", "ab"],
      ],
    ],
    // Equal counts go by the lowest ids: x y before z w, both before the space (id 220) in front.
    [
      ["xy zw xy zw"],
      [
        ["x", "y"],
        ["z", "w"],
        ["Ġ", "zw"],
      ],
    ],
    // Not over lines, digits, punctuation; only the apostrophes stay together.
    [["1212 1212", "a\nb", "a\nb", "(a)", "(a)", "''", "''"], [["'", "'"]]],
    // Overlapping pairs count, as usual; the replacement goes from the left.
    [
      ["aaaa aaaa"],
      [
        ["a", "a"],
        ["aa", "aa"],
      ],
    ],
    [["é é"], [["Ã", "©"]]],
    [[], []],
  ] as [string[], [string, string][]][])("from %j: %j", (texts, merges) => {
    expect(declared({ texts }).model.merges).toEqual(merges);
  });
  it(`makes no token twice, whatever the texts (seed ${seed})`, () => {
    for (let round = 0; round < 60; round++) {
      const words = Array.from({ length: 200 }, () =>
        Array.from({ length: 1 + next(12) }, () => "ab"[next(2)]!).join(""),
      );
      const { model } = declared({ texts: [words.join(" ")], merges: 400 });
      expect(new Set(model.merges.map((pair) => pair.join(" "))).size).toBe(model.merges.length);
      expect(Object.keys(model.vocab).length).toBe(256 + model.merges.length);
      expect(Object.values(model.vocab).sort((a, b) => a - b)).toEqual(Object.keys(model.vocab).map((_, i) => i));
    }
  });
  it("makes texts of its kind shorter", () => {
    const tokenizer = tokenizerOf(byteTokenizerFiles({ texts: TEXTS }));
    for (const text of TEXTS.slice(0, 2)) expect(tokenizer.encode(text).length).toBeLessThan(0.7 * text.length);
  });
});

describe("text", () => {
  const learned = byteTokenizerFiles({ texts: TEXTS });
  it.each([
    ["bytes alone", byteTokenizerFiles()],
    ["merges", learned],
  ])(`comes back from its ids, which are those of the slow reference: %s (seed ${seed})`, (_, files) => {
    const tokenizer = tokenizerOf(files);
    const slow = slowTokenizer(jsonOf(files, "tokenizer.json") as Parameters<typeof slowTokenizer>[0]);
    for (let i = 0; i < 600; i++) {
      const text = randomText();
      const ids = tokenizer.encode(text, { bos: false });
      if (tokenizer.decode(ids, { skipSpecials: false }) !== text)
        expect(tokenizer.decode(ids, { skipSpecials: false })).toBe(text);
      if (JSON.stringify(ids) !== JSON.stringify(slow(text))) expect(ids, JSON.stringify(text)).toEqual(slow(text));
    }
  });
  it("of every code point of the first plane, and of some of the others", () => {
    const tokenizer = tokenizerOf(learned);
    for (let start = 0; start < 0x110000; start += 256) {
      if ((start >= 0xd800 && start < 0xe000) || (start >= 0x10000 && start % 0x1000)) continue; // all took seconds
      const text = String.fromCodePoint(...Array.from({ length: 256 }, (_, i) => start + i));
      if (tokenizer.decode(tokenizer.encode(text)) !== text)
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    }
  });
});
