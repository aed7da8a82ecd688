/** Programs out of a checkpoint, chat templates and tokenizer patterns: they run under a budget, or are not run. */
import { describe, expect, it } from "vitest";
import { byteTokenizerFiles } from "../../model/byte_tokenizer.ts";
import { ChatTemplate } from "../../model/chat_template.ts";
import { ConfigError } from "../../model/io/errors.ts";
import { PromptFormat } from "../../model/janus/prompt.ts";
import { Tokenizer } from "../../model/janus/tokenizer.ts";
import { TokenizerError } from "../../model/tokenizer.ts";
import { slowness } from "../../model/tokenizer_patterns.ts";

const text = new TextDecoder().decode(byteTokenizerFiles().get("tokenizer.json"));
const tokenizer = new Tokenizer({ tokenizer: text });
type Json = Record<string, Record<string, unknown>>;
const render = (chatTemplate: string, content = "hi"): string =>
  new PromptFormat(tokenizer, { imageTokens: 4, chatTemplate }).conversation([{ role: "user", content }], {
    system: "",
  });

function errorOf(run: () => unknown): Error {
  try {
    run();
  } catch (error) {
    return error as Error;
  }
  return expect.fail("no error was thrown");
}

describe("chat templates", () => {
  it.each([
    ["doubling a text", `{% set x = "a b" %}${'{% set x = x ~ " " ~ x %}'.repeat(40)}{{ x }}`],
    ["nested loops", `{% set x = "a b" %}${'{% set x = x ~ " " ~ x %}'.repeat(9)}{% for a in x.split(" ") %}{% for b in x.split(" ") %}{% for c in x.split(" ") %}{% endfor %}{% endfor %}{% endfor %}ok`],
    ["doubling by replace", `{% set x = "a" %}${'{% set x = x | replace("a", "aa") %}'.repeat(40)}{{ x }}`],
    ["doubling a list", `{% set x = [1] %}${"{% set x = x + x %}".repeat(40)}{{ x | length }}`],
    ["lists of the same list", `{% set x = [1] %}${"{% set x = [x, x] %}".repeat(40)}{{ x | tojson }}`],
    ["mappings of the same mapping", `{% set x = {"a": 1} %}${'{% set x = {"a": x, "b": x} %}'.repeat(40)}{{ x | tojson }}`],
    ["namespaces of the same namespace", `{% set n0 = namespace(a=1) %}${Array.from({ length: 40 }, (_, i) => `{% set n${i + 1} = namespace(a=n${i}, b=n${i}) %}`).join("")}{{ n40 | tojson }}`],
    ["a macro that calls itself", "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}"],
    ["a huge range", "{{ range(1000000000) | join('a') }}"],
    ["an empty step", "{{ range(0, 5, 0) | length }}"],
    ["a huge indent", `{{ "a\nb" | indent(400000000) }}`],
    ["a huge indent by name", `{{ "a\nb" | indent(width=400000000) }}`],
    ["a long needle", `{% set x = "a" %}${"{% set x = x ~ x %}".repeat(19)}{% if ("b" ~ x) in x %}{% endif %}`],
    ["a long needle to split by", `{% set x = "a" %}${"{% set x = x ~ x %}".repeat(19)}{{ x.split("b" ~ x) | length }}`],
    ["a method under another name", `{% set f = "a b".split %}{{ f(" ") | length }}`],
    ["a needle out of a list", `{{ "a b".split(*[" "]) | length }}`],
    ["nesting that overflows the stack", `{{ ${"(".repeat(20_000)}1${")".repeat(20_000)} }}`],
    ["a source that is too long", "x".repeat(70_000)],
  ])("are stopped: %s", (_, template) => {
    const error = errorOf(() => render(template));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(/the checkpoint's chat template (takes more work|fails|must have at most)/);
  }); // prettier-ignore

  it("do what a conversation takes, with texts as long as prompts may be", () => {
    const loop = "{% for m in messages %}{% for c in m.content %}{{ c.text | trim }}{% endfor %}{% endfor %}";
    expect(render(loop)).toBe("hi");
    const long = "a b ".repeat(100_000).trim();
    expect(render(loop, long)).toBe(long);
    expect(render(`{% set t = messages[0].content[0].text %}{{ t.split(" ") | length }} {{ "<x>" in t }}`, long)).toBe("200000 false"); // prettier-ignore
    expect(render("{% for i in range(3) %}{{ i }}{% endfor %}{{ strftime_now('%Y') | length }}")).toBe("0124");
    expect(render("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('a') ~ m('b') }}")).toBe("[a][b]");
    expect(render("{% set ns = namespace(a=1) %}{% set ns.a = 'b' %}{{ ns.a }}{{ {'k': 1}.get('k') }}")).toBe("b1");
    expect(() => render("{{ raise_exception('not so') }}")).toThrow(/fails: not so/);
  });
  it("take the same work however often they run", () => {
    const template = new ChatTemplate("{% for m in messages %}{{ m }}{% endfor %}");
    for (let i = 0; i < 3; i++) expect(template.render({ messages: ["a", "b"] })).toBe("ab");
  });
});

describe("patterns of a tokenizer", () => {
  const withPattern = (Regex: string): object => {
    const json = JSON.parse(text) as { pre_tokenizer: { pretokenizers: object[] } };
    const split = { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
    json.pre_tokenizer = { ...json.pre_tokenizer, pretokenizers: [split, json.pre_tokenizer.pretokenizers.at(-1)!] };
    return json;
  };
  const withNormalizer = (normalizer: object): object => ({ ...(JSON.parse(text) as object), normalizer });

  it.each([
    "(a+)+$", "(a|a)*b", "(a|aa)+$", "(\\w+\\s?)*$", "([a-z]+)*\\d", "\\s*$", "a*a*a*b", ".*.*x", "(?:a?){30}a{30}", "(?=(a+))a*b", "(a)\\1",
    "a?a?a?a?a?a?a?a?a?a?aaaaaaaaaa", "\\p{L}*\\p{N}", "(?<x>a)+", "\\s+(?!\\S)", "a{0,100000}", "(?:\\p{L}+|\\p{N})?x", "[^]]+b", "^a",
  ])("are not run if their form may take more than linear time: %s", (pattern) => {
    expect(() => new Tokenizer({ tokenizer: withPattern(pattern) })).toThrow(TokenizerError);
    expect(() => new Tokenizer({ tokenizer: withPattern(pattern) })).toThrow(/only patterns that take linear time are run/);
    const replace = { type: "Sequence", normalizers: [{ type: "Replace", pattern: { Regex: pattern }, content: "" }] };
    expect(() => new Tokenizer({ tokenizer: withNormalizer(replace) })).toThrow(/only patterns that take linear time/);
  }); // prettier-ignore

  it.each([
    ["DeepSeek's", "\\s?[A-Za-zµÀ-ÖØ-ö]+"],
    ["DeepSeek's numbers and punctuation", "\\s?[!-/:-~！-／：-～‘-‟　-。]+"],
    ["DeepSeek-V3's", "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"],
    ["GPT-2's", "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"],
    ["Llama 3's", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"],
    ["numbers by three", "\\p{N}{1,3}"],
  ])("are run if they are %s", (_, pattern) => {
    expect(slowness(pattern)).toBeNull();
    const own = new Tokenizer({ tokenizer: withPattern(pattern) });
    for (const long of [" ".repeat(10_000), "a".repeat(10_000), `${" ".repeat(10_000)}x`, "\n ".repeat(5_000)])
      expect(own.decode(own.encode(long))).toBe(long);
  }); // prettier-ignore

  it("may not let a text grow beyond all measure", () => {
    const double = { type: "Replace", pattern: { String: "a" }, content: "aa" };
    expect(() => new Tokenizer({ tokenizer: withNormalizer({ type: "Sequence", normalizers: Array(40).fill(double) }) })).toThrow(/makes more than 64 characters of one/); // prettier-ignore
    const empty = { type: "Replace", pattern: { String: "" }, content: "a" };
    expect(() => new Tokenizer({ tokenizer: withNormalizer(empty) })).toThrow(/not empty; got/);
    const plain = { type: "Replace", pattern: { String: " " }, content: "▁" };
    expect(() => new Tokenizer({ tokenizer: withNormalizer(plain) })).not.toThrow();
  });
});

it.each<[string, (json: Json, value: unknown) => void]>([
  ["the model's type", (json, value) => (json["model"]!["type"] = value)],
  ["a merge", (json, value) => (json["model"]!["merges"] = [value])],
  ["an id", (json, value) => (json["model"]!["vocab"] = { a: value })],
  ["an added token", (json, value) => (json["added_tokens"] = [value] as never)],
  ["a pre-tokenizer", (json, value) => (json["pre_tokenizer"] = { type: value })],
])("%s of tokenizer.json that no message can show is refused", (_, change) => {
  for (const value of [JSON.parse("[".repeat(20_000) + "]".repeat(20_000)), { toString: 1, valueOf: 1 }]) {
    const json = JSON.parse(text) as Json;
    change(json, value);
    expect(errorOf(() => new Tokenizer({ tokenizer: json }))).toBeInstanceOf(TokenizerError);
  }
});
