/** Checkpoints whose text head is the text embedding: what says so, what is written, what is refused. */
import { describe, expect, it } from "vitest";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { Checkpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { convertCheckpoint } from "../../model/janus/checkpoint/convert.ts";
import { ConfigError, TensorMismatchError } from "../../model/io/errors.ts";
import { expectedTensors } from "../../model/janus/checkpoint/expected.ts";
import { countParts } from "../../model/janus/checkpoint/inspect.ts";
import type { Layout } from "../../model/janus/checkpoint/names.ts";
import { encodeSafetensors } from "../../model/io/safetensors.ts";
import { parseConfig } from "../../model/janus/config.ts";
import { parseJsonObject } from "../../model/io/json.ts";
import { fingerprint } from "../../model/janus/load.ts";
import { memorySink, sourceOfFiles, tensorsOf, tinyFiles } from "../checkpoint/tiny.ts";
import type { Files, Whole } from "../checkpoint/tiny.ts";
import { errorOf } from "../gpu.ts";

const EMBEDDING = "model.language_model.embed_tokens.weight";
const HEAD = "lm_head.weight";

type Json = Record<string, unknown>;

/** The tiny checkpoint with its tensors and its config changed. `ties`: at the top and in the language model's section; undefined for no key. */
async function changed(change: (tensors: Map<string, Whole>) => void, [top, own]: readonly unknown[]): Promise<Files> {
  const files = tinyFiles("hf");
  const tensors = await tensorsOf(files.get("model.safetensors")!);
  change(tensors);
  const json = JSON.parse(new TextDecoder().decode(files.get("config.json"))) as Json & { text_config: Json };
  json["tie_word_embeddings"] = top;
  json.text_config["tie_word_embeddings"] = own;
  return files
    .set("config.json", new TextEncoder().encode(JSON.stringify(json)))
    .set("model.safetensors", encodeSafetensors([...tensors.values()]));
}
const open = (files: Files): Promise<Checkpoint> => openCheckpoint(sourceOfFiles(files));
const headless = (tensors: Map<string, Whole>): void => void tensors.delete(HEAD);
const same = (tensors: Map<string, Whole>): void => void tensors.set(HEAD, { ...tensors.get(EMBEDDING)!, name: HEAD });
const headOnly = (tensors: Map<string, Whole>): void => {
  same(tensors);
  tensors.delete(EMBEDDING);
};
const converted = async (files: Files, layout: Layout): Promise<Files> => {
  const checkpoint = await open(files);
  const sink = memorySink();
  await convertCheckpoint(checkpoint, sink, { layout, sideFiles: files });
  await checkpoint.close();
  return sink.files;
};

describe("is it tied", () => {
  it.each([
    ["the language model says so, and there is no head", headless, [true, true], true],
    ["it alone says so", headless, [undefined, true], true],
    ["it says so against the top", headless, [false, true], true],
    ["it says so, and the head is there too", same, [true, true], true],
    ["it says so, and the head alone is there", headOnly, [true, true], true],
    ["only the top says so, and there is no head", headless, [true, undefined], true],
    ["nothing says anything, and there is no head", headless, [undefined, undefined], true],
    [
      "only the top says so, and there is a head: transformers takes that head",
      () => undefined,
      [true, undefined],
      undefined,
    ],
    ["it says no", () => undefined, [true, false], undefined],
    ["nothing says anything, and there is a head", () => undefined, [undefined, undefined], undefined],
  ] as const)("%s", async (_, change, ties, expected) => {
    const checkpoint = await open(await changed(change, ties));
    expect(checkpoint.config.language.tied).toBe(expected);
    expect(checkpoint.parameters.has(HEAD)).toBe(!expected);
    expect(checkpoint.parameters.has(EMBEDDING)).toBe(true);
    expect([...checkpoint.parameters.keys()].sort()).toEqual(
      [...expectedTensors(checkpoint.config, "hf").keys()].sort(),
    );
    await checkpoint.requireTied();
  });

  it.each([
    ["the language model says no", [true, false]],
    ["the top says no", [false, undefined]],
  ] as const)("%s, and there is no head: an error that names it", async (_, ties) => {
    const error = await errorOf(async () => open(await changed(headless, ties)));
    expect(error).toBeInstanceOf(TensorMismatchError);
    expect(error.message).toMatch(/missing: lm_head\.weight, expected \[/);
  });

  it("the key is true or false, and a config alone is not tied", async () => {
    const error = await errorOf(async () => open(await changed(headless, [true, "yes"])));
    expect(error).toBeInstanceOf(ConfigError);
    expect(error.message).toMatch(/text_config\.tie_word_embeddings must be true or false.*; got "yes"/);
    const json = (await changed(headless, [undefined, undefined])).get("config.json")!;
    expect(parseConfig(parseJsonObject(json, "config.json")).language.tied).toBe(undefined);
  });
});

describe("a tied checkpoint", () => {
  it("of two heads is refused when bytes are read, before anything is written", async () => {
    const files = await changed(() => undefined, [true, true]);
    const checkpoint = await open(files);
    const error = await errorOf(() => checkpoint.requireTied());
    expect(error).toBeInstanceOf(TensorMismatchError);
    expect(error.message).toMatch(
      /"lm_head\.weight" must be absent, or equal to "model\.language_model\.embed_tokens\.weight"/,
    );
    const sink = memorySink();
    expect(await errorOf(() => convertCheckpoint(checkpoint, sink, { layout: "hf", sideFiles: files }))).toBeInstanceOf(
      TensorMismatchError,
    );
    expect(sink.files.size).toBe(0);
    await checkpoint.close();
    const misshapen = await changed(
      (tensors) =>
        void tensors.set(HEAD, {
          ...tensors.get(EMBEDDING)!,
          name: HEAD,
          shape: [...tensors.get(EMBEDDING)!.shape].reverse(),
        }),
      [true, true],
    );
    expect((await errorOf(() => open(misshapen))).message).toMatch(/misshapen: lm_head\.weight/);
    const neither = await changed((tensors) => [HEAD, EMBEDDING].forEach((name) => tensors.delete(name)), [true, true]);
    expect((await errorOf(() => open(neither))).message).toMatch(
      /missing: model\.language_model\.embed_tokens\.weight/,
    );
  });

  it("is the same with the head once or twice, in either layout, and is written with it once", async () => {
    const [once, twice, other] = [
      await changed(headless, [true, true]),
      await changed(same, [true, true]),
      await changed(
        (tensors) => {
          tensors.set(EMBEDDING, { ...tensors.get(HEAD)!, name: EMBEDDING });
          headOnly(tensors);
        },
        [true, true],
      ),
    ];
    const prints: string[] = [];
    for (const files of [
      once,
      twice,
      await converted(twice, "deepseek"),
      await converted(await converted(once, "deepseek"), "hf"),
    ]) {
      const checkpoint = await open(files);
      prints.push(await fingerprint(checkpoint));
      expect(checkpoint.config.language.tied).toBe(true);
      await checkpoint.close();
    }
    expect(new Set(prints).size).toBe(1);
    expect(await fingerprint(await open(other))).not.toBe(prints[0]);
    for (const files of [twice, other])
      for (const layout of ["hf", "deepseek"] as const) {
        const written = await converted(files, layout);
        const names = [...(await tensorsOf(written.get("model.safetensors")!)).keys()];
        expect(names.filter((name) => /lm_head|embed_tokens/.test(name))).toEqual([
          layout === "hf" ? EMBEDDING : "language_model.model.embed_tokens.weight",
        ]);
        const json = JSON.parse(new TextDecoder().decode(written.get("config.json"))) as Record<string, Json>;
        expect(json[layout === "hf" ? "text_config" : "language_config"]!["tie_word_embeddings"]).toBe(true);
        if (layout === "hf") expect(json["tie_word_embeddings"]).toBe(true);
      }
  });

  it("in DeepSeek's layout without a head says which is missing", async () => {
    const files = await converted(await changed(headless, [true, true]), "deepseek");
    const json = JSON.parse(new TextDecoder().decode(files.get("config.json"))) as { language_config: Json };
    json.language_config["tie_word_embeddings"] = false;
    files.set("config.json", new TextEncoder().encode(JSON.stringify(json)));
    expect((await errorOf(() => open(files))).message).toMatch(/missing: language_model\.lm_head\.weight/);
    delete json.language_config["tie_word_embeddings"];
    files.set("config.json", new TextEncoder().encode(JSON.stringify(json)));
    expect((await open(files)).config.language.tied).toBe(true);
  });

  it("counts its head once", async () => {
    const [tied, free] = [
      (await open(await changed(headless, [true, true]))).config,
      (await open(tinyFiles("hf"))).config,
    ];
    const { "text head": head, ...parts } = countParts(free);
    expect(countParts(tied)).toEqual({ ...parts, "text head": 0 });
    expect(head).toBe(parts["text embedding"]);
  });
});
