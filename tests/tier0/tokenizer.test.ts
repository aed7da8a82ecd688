/** The tokenizer against the Rust library's ids in the fixtures, a slow reference on random strings, and files that are wrong. */
import { describe, expect, it } from "vitest";
import { ArgumentError } from "../../engine/errors.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { TokenizerError } from "../../model/tokenizer.ts";
import { fixtureJson, fixtureText, golden, hasFixtures } from "../fixtures.ts";
import { slowTokenizer } from "../reference/bpe.ts";

interface Declared {
  added_tokens: { id: number; content: string; special: boolean; [key: string]: unknown }[];
  normalizer: unknown;
  pre_tokenizer: {
    type: string;
    pretokenizers: { type: string; pattern?: { Regex: string }; [key: string]: unknown }[];
  };
  decoder: unknown;
  model: { type: string; vocab: Record<string, number>; merges: [string, string][]; [key: string]: unknown };
}
interface Golden {
  special_ids: Record<string, number>;
  tokenizer: { text: string; ids: number[]; ids_no_special: number[]; decoded: string }[];
  und_greedy_text: string[];
}

// The classes of DeepSeek's own pre-tokenizer: cased letters, and everything ASCII that prints or looks like punctuation.
const CASED = (
  "0041-005A 0061-007A 00B5 00C0-00D6 00D8-00F6 00F8-01BA 01BC-01BF 01C4-0293 0295-02AF 0370-0373 0376 0377 037B-037D 037F 0386 " +
  "0388-038A 038C 038E-03A1 03A3-03F5 03F7-0481 048A-052F 0531-0556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B " +
  "1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE " +
  "1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 " +
  "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B " +
  "A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB " +
  "10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
  .split(" ")
  .map((range) =>
    range
      .split("-")
      .map((hex) => String.fromCodePoint(parseInt(hex, 16)))
      .join("-"),
  )
  .join("");
const DEEPSEEK_SPLITS = ["[\r\n]", `\\s?[${CASED}]+`, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$", "[一-龥ࠀ-一가-퟿]+"];

const tinyText = hasFixtures ? fixtureText("deepseek/tokenizer.json") : "";
const configText = hasFixtures ? fixtureText("deepseek/tokenizer_config.json") : "";
const tiny = (): Declared => JSON.parse(tinyText) as Declared;
/** The fixture's vocabulary behind the splits that the published checkpoints declare. */
function deepseekLike(): Declared {
  const declared = tiny();
  const [digits, bytes] = declared.pre_tokenizer.pretokenizers.slice(-2);
  const splits = DEEPSEEK_SPLITS.map((Regex) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  }));
  return {
    ...declared,
    normalizer: { type: "Sequence", normalizers: [] },
    pre_tokenizer: { type: "Sequence", pretokenizers: [...splits, digits!, bytes!] },
  };
}
const variants = { tiny, deepseekLike };

/** Text of every kind that has gone wrong somewhere. */
function randomText(next: (n: number) => number, words: string[], specials: string[]): string {
  const pools = [
    "abcdefghijklmnopqrstuvwxyzABC", "     \t\n\r\u000b\u000c", "0123456789", "ÀéüßøñçŁłαβγδЖщяԱև", "猜这是哪里湖泊的里一龥ࠀ가힣퟿あアー", "٠١٢३४५½²³ⅣⅫ①㊿〇৴௰𝟘",
    "שלוםمرحبا؟،", "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", "…—“”‘’。、！（）～\u3000\u00a0\u2003\u2028\u0085\u200b\ufeff\u180e", "👩‍👩‍👧‍👦🏳️‍🌈🐳é̀ﷺ𝕳\u0300\u0301", "\0\u0001\u0007\u001b\u001c\u001f\u007f\u0080\u009f\ufffd\uffff\u{10ffff}\ue000",
  ].map((pool) => Array.from(pool)); // prettier-ignore
  const pick = <T>(list: readonly T[]): T => list[next(list.length)]!;
  let text = "";
  for (let parts = 1 + next(10); parts > 0; parts--) {
    const kind = next(100);
    if (kind < 8) text += pick(specials);
    else if (kind < 12) text += pick(specials).slice(0, next(9));
    else if (kind < 30) text += (next(2) ? " " : "") + pick(words);
    else if (kind < 34) text += pick([" ", "\n", "1", "a", "ß", "里"]).repeat(1 + next(40));
    else if (kind < 40) text += String.fromCodePoint(next(2) ? next(0xd800) : 0xe000 + next(0x22000));
    else {
      const pool = pick(pools);
      for (let n = 1 + next(6); n > 0; n--) text += pick(pool);
    }
  }
  return text;
}

describe.skipIf(!hasFixtures)("the fixtures' tokenizer", () => {
  const reference = fixtureOrEmpty();
  const tokenizer = new Tokenizer({ tokenizer: tinyText || "{}", config: configText || "{}" });

  it.each(reference.tokenizer)(
    "encodes and decodes $text like the Rust library",
    ({ text, ids, ids_no_special, decoded }) => {
      expect(tokenizer.encode(text)).toEqual(ids);
      expect(tokenizer.encode(text, { bos: false })).toEqual(ids_no_special);
      expect(tokenizer.decode(ids)).toBe(decoded);
    },
  );

  it("decodes the greedy answers, in which characters break off", () => {
    const { shape, data } = golden("und.greedy_ids");
    reference.und_greedy_text.forEach((text, row) => {
      const ids = Array.from(data.subarray(row * shape[1]!, (row + 1) * shape[1]!));
      expect(tokenizer.decode(ids)).toBe(text);
    });
  });

  it("finds the special tokens by their strings", () => {
    const ids = reference.special_ids;
    expect(tokenizer.specials).toEqual({
      bos: ids["<｜begin▁of▁sentence｜>"],
      eos: ids["<｜end▁of▁sentence｜>"],
      pad: ids["<｜▁pad▁｜>"],
      beginOfImage: ids["<begin_of_image>"],
      endOfImage: ids["<end_of_image>"],
      imagePlaceholder: ids["<image_placeholder>"],
      user: ids["<|User|>"],
      assistant: ids["<|Assistant|>"],
    });
    expect(tokenizer.size).toBe(702);
    expect(tokenizer.maxLength).toBe(16384);
    expect([
      tokenizer.tokenOf(700),
      tokenizer.tokenOf(702),
      tokenizer.idOf("<|User|>"),
      tokenizer.idOf("nothing"),
    ]).toEqual(["<|User|>", undefined, 700, undefined]);
    const fromHf = new Tokenizer({
      tokenizer: fixtureJson("hf/tokenizer.json"),
      config: fixtureJson("hf/tokenizer_config.json"),
    });
    expect(fromHf.specials).toEqual(tokenizer.specials);
  });

  const seed = Math.floor(Math.random() * 2 ** 31);
  it.each(Object.entries(variants))(
    `equals the slow reference on random strings with the %s splits (seed ${seed})`,
    (_, make) => {
      const declared = make();
      const fast = new Tokenizer({ tokenizer: declared, config: configText });
      const slow = slowTokenizer(declared);
      let state = seed;
      const next = (n: number): number => ((state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 8) % n;
      const words = Object.keys(declared.model.vocab).filter((word) => /^[a-z]{3,}$/.test(word));
      const specials = declared.added_tokens.map(({ content }) => content);
      for (let i = 0; i < 1500; i++) {
        const text = randomText(next, words, specials);
        const ids = fast.encode(text, { bos: false });
        if (JSON.stringify(ids) !== JSON.stringify(slow(text))) expect(ids, JSON.stringify(text)).toEqual(slow(text));
        // All bytes of a text are in its tokens.
        if (fast.decode(ids, { skipSpecials: false }) !== text)
          expect(fast.decode(ids, { skipSpecials: false })).toBe(text);
        const stream = fast.stream();
        let streamed = "";
        for (const id of ids) {
          const piece = stream.push(id);
          if (/\p{Surrogate}|\ufffd/u.test(piece) && !text.includes("\ufffd"))
            expect.fail(`half a character in ${JSON.stringify(piece)}`);
          streamed += piece;
        }
        if (streamed + stream.flush() !== fast.decode(ids)) expect(streamed).toBe(fast.decode(ids));
      }
    },
  );

  it.each(Object.entries(variants))(
    `equals the slow reference on blocks of code points, with the %s splits (seed ${seed})`,
    (_, make) => {
      const declared = make();
      const fast = new Tokenizer({ tokenizer: declared, config: configText });
      const slow = slowTokenizer(declared);
      for (let start = 0; start < 0x20000; start += 64) {
        if (start >= 0x800 && (Math.imul(start + seed, 2654435761) >>> 8) % 12 !== 0) continue; // all took seconds, and agreed
        let text = "";
        for (let point = start; point < start + 64; point++) {
          if (point < 0xd800 || point > 0xdfff) text += `${String.fromCodePoint(point)}${point % 3 ? "a " : "1里"}`;
        }
        const ids = fast.encode(text, { bos: false });
        if (JSON.stringify(ids) !== JSON.stringify(slow(text))) expect(ids, JSON.stringify(text)).toEqual(slow(text));
      }
    },
  );

  it("takes lone surrogates as U+FFFD", () => {
    for (const text of ["\ud83d", "a\udc00b", "\udc00\ud83d", "\ud83d\ud83d\udc33"]) {
      expect(tokenizer.encode(text)).toEqual(
        tokenizer.encode(new TextDecoder().decode(new TextEncoder().encode(text))),
      );
    }
  });

  it.each(Object.entries(variants))("takes long runs in time that grows with their length (%s splits)", (_, make) => {
    const fast = new Tokenizer({ tokenizer: make(), config: configText });
    for (const text of [
      `${" ".repeat(50_000)}1`,
      "\n".repeat(20_000),
      "a".repeat(20_000),
      "里".repeat(5000),
      " 1".repeat(10_000),
    ]) {
      expect(fast.decode(fast.encode(text))).toBe(text);
    }
  });
});

/** The Rust library's results; nothing if there are no fixtures (then the tests are skipped, but still collected). */
function fixtureOrEmpty(): Golden {
  return hasFixtures ? (fixtureJson("golden.json") as Golden) : { special_ids: {}, tokenizer: [], und_greedy_text: [] };
}

describe.skipIf(!hasFixtures)("decoding", () => {
  const tokenizer = new Tokenizer({ tokenizer: tinyText || "{}", config: configText || "{}" });
  it("gives nothing for no ids, special tokens and rows without a token", () => {
    expect(tokenizer.decode([])).toBe("");
    expect(tokenizer.decode([688, 691, 1279, 689])).toBe("");
    expect(tokenizer.decode([688, 1279, 700], { skipSpecials: false })).toBe("<｜begin▁of▁sentence｜><|User|>");
    expect(() => tokenizer.decode([-1])).toThrow(ArgumentError);
    expect(() => tokenizer.decode([1.5])).toThrow(ArgumentError);
  });
  it("joins a character over several tokens, over special ones too, and shows a broken one at the end", () => {
    const whale = tokenizer.encode("🐳", { bos: false });
    expect(whale.length).toBeGreaterThan(2);
    const stream = tokenizer.stream();
    const pieces = [...whale.slice(0, 2), 691, ...whale.slice(2)].map((id) => stream.push(id));
    expect(pieces.slice(0, -1).join("")).toBe("");
    expect(pieces.at(-1)).toBe("🐳");
    expect(stream.push(whale[0]!)).toBe("");
    expect(stream.flush()).toBe("\ufffd");
  });
  it("keeps a byte order mark", () => {
    const stream = tokenizer.stream();
    expect(tokenizer.decode(tokenizer.encode("\ufeffa"))).toBe("\ufeffa");
    expect(tokenizer.encode("\ufeffa").map((id) => stream.push(id)).join("")).toBe("\ufeffa"); // prettier-ignore
  });
  it("shows tokens that were added as text as that text", () => {
    // The 7B checkpoint has 13 of these; as bytes they would be no UTF-8.
    const declared = tiny();
    declared.added_tokens.push({
      id: 702,
      content: "ø",
      special: false,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: true,
    });
    const danish = new Tokenizer({ tokenizer: declared, config: configText });
    expect(danish.encode("søn", { bos: false })).toContain(702);
    expect(danish.decode(danish.encode("søn"))).toBe("søn");
    expect(danish.size).toBe(703);
  });
});

describe.skipIf(!hasFixtures)("tokenizer files", () => {
  it("takes the pad token by its published string, whatever a file says, then the declared one", () => {
    const config = { bos_token: { content: "<｜begin▁of▁sentence｜>" }, pad_token: null };
    expect(new Tokenizer({ tokenizer: tinyText, config }).specials.pad).toBe(690);
    expect(new Tokenizer({ tokenizer: tinyText, config: { pad_token: "<｜end▁of▁sentence｜>" } }).specials.pad).toBe(
      690,
    );
    const without = tiny();
    without.added_tokens[2]!.content = "<pad>";
    expect(
      new Tokenizer({ tokenizer: without, specialTokensMap: { pad_token: { content: "<pad>" } } }).specials.pad,
    ).toBe(690);
    expect(() => new Tokenizer({ tokenizer: without })).toThrow(
      /lacks 1 of the tokens that Janus needs: "<｜▁pad▁｜>"/,
    );
  });
  it("has no role tags where the vocabulary has none", () => {
    const declared = tiny();
    declared.added_tokens = declared.added_tokens.filter(({ content }) => !content.startsWith("<|"));
    const { user, assistant } = new Tokenizer({ tokenizer: declared }).specials;
    expect([user, assistant]).toEqual([undefined, undefined]);
  });
  it("names all that is missing", () => {
    const declared = tiny();
    declared.added_tokens = [];
    expect(() => new Tokenizer({ tokenizer: declared, config: configText })).toThrow(
      /lacks 6 .*"<｜begin▁of▁sentence｜>", .*"<begin_of_image>", "<end_of_image>", "<image_placeholder>"/,
    );
  });
  it("takes no limit from a length that means none", () => {
    expect(
      new Tokenizer({ tokenizer: tinyText, config: '{"model_max_length": 1000000000000000019884624838656}' }).maxLength,
    ).toBeUndefined();
  });
  it("reads merges as text, as older files have them", () => {
    const declared = tiny();
    const older = {
      ...declared,
      model: { ...declared.model, merges: declared.model.merges.map((pair) => pair.join(" ")) },
    };
    const text = "Describe this scene in detail.";
    expect(new Tokenizer({ tokenizer: older }).encode(text)).toEqual(
      new Tokenizer({ tokenizer: declared }).encode(text),
    );
  });

  const change = (edit: (declared: Declared) => unknown): unknown => {
    const declared = tiny();
    return edit(declared) ?? declared;
  };
  const wrong: [string, () => unknown, RegExp][] = [
    ["no JSON", () => "{", /tokenizer\.json is not JSON/],
    ["a list", () => [], /the top must be an object/],
    ["an empty object", () => ({}), /the model is missing/],
    ["another model", () => change((d) => ({ ...d, model: { ...d.model, type: "Unigram" } })), /"Unigram"; only byte-level BPE/],
    ["another decoder", () => change((d) => ({ ...d, decoder: { type: "Metaspace" } })), /decoder is not ByteLevel/],
    ["Metaspace", () => change((d) => ({ ...d, pre_tokenizer: { type: "Metaspace" } })), /pre-tokenizer of type "Metaspace"/],
    ["another split", () => change((d) => void (d.pre_tokenizer.pretokenizers[0]!.behavior = "MergedWithNext")), /"MergedWithNext"/],
    ["a split without pattern", () => change((d) => void delete d.pre_tokenizer.pretokenizers[0]!.pattern), /Split/],
    ["a pattern that is none", () => change((d) => void (d.pre_tokenizer.pretokenizers[0]!.pattern = { Regex: "(" })), /has a group without an end/],
    ["a circle of steps", () => change((d) => { for (let i = 0; i < 99; i++) d.pre_tokenizer = { type: "Sequence", pretokenizers: [d.pre_tokenizer] }; }), /malformed/],
    ["an id of text", () => change((d) => void (d.model.vocab.x = "1" as unknown as number)), /the id of "x" is "1"/],
    ["a negative id", () => change((d) => void (d.model.vocab.x = -1)), /the id of "x" is -1/],
    ["a huge id", () => change((d) => void (d.added_tokens[0]!.id = 2 ** 30)), /not an added token/],
    ["dropout", () => change((d) => void Object.assign(d.model, { dropout: 0.1 })), /dropout must be 0 or absent.*got 0\.1/],
    ["a merge of three", () => change((d) => void d.model.merges.push(["a", "b", "c"] as unknown as [string, string])), /is not a merge/],
    ["merges of two kinds", () => change((d) => void d.model.merges.push("a b" as unknown as [string, string])), /is not a merge/],
    ["an added token without text", () => change((d) => void (d.added_tokens[0]!.content = "")), /not an added token/],
  ]; // prettier-ignore
  it.each(wrong)("refuses %s", (_, make, message) => {
    const tokenizer = make();
    expect(() => new Tokenizer({ tokenizer, config: configText })).toThrow(TokenizerError);
    expect(() => new Tokenizer({ tokenizer, config: configText })).toThrow(message);
  });
});
