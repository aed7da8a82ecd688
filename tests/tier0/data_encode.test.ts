/** Samples: what of a conversation, text and picture is trained, against the fixtures' training rows and by hand; and what cannot be one. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import { ImageError } from "../../model/image/image.ts";
import { folderSource } from "../../model/node/files.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import type { Processor } from "../../model/janus/processor.ts";
import { DEFAULT_SYSTEM_PROMPT } from "../../model/janus/prompt.ts";
import type { Message } from "../../model/janus/prompt.ts";
import { RecordEncoder } from "../../train/node/data/encode.ts";
import { isDropped } from "../../train/data/encode.ts";
import type { EncoderOptions } from "../../train/node/data/encode.ts";
import { SampleError } from "../../train/data/errors.ts";
import { encodeText } from "../../train/data/long_text.ts";
import type { RawSample } from "../../train/data/raw_sample.ts";
import { IGNORE, trainedTokens } from "../../train/samples.ts";
import type { Sample } from "../../train/samples.ts";
import { fixtureJson, golden, hasFixtures } from "../fixtures.ts";

const root = fileURLToPath(new URL("../../../shared/fixtures/tiny/", import.meta.url));
const picture = (i: number): string => `${root}image${i}.png`;
const of = { id: "0:0", epoch: 0, name: "data.jsonl:1" };
const image = { type: "image" } as const;
const words = (text: string) => ({ type: "text", text }) as const;

interface Row {
  readonly task: string;
  readonly input_ids: number[];
  readonly labels: number[];
}

describe.skipIf(!hasFixtures).each(["deepseek", "hf"])("samples of the %s layout", (layout) => {
  let processor: Processor;
  beforeAll(async () => {
    const checkpoint = await openCheckpoint(folderSource(root + layout));
    processor = await readProcessor(folderSource(root + layout), checkpoint.config);
    await checkpoint.close();
  });
  const encode = (raw: RawSample, options: Partial<EncoderOptions> = {}, which = of): Promise<Sample> =>
    new RecordEncoder(processor, { seed: 1, system: "", ...options }).encode(raw, which);
  const rows = (): Row[] => (fixtureJson("golden.json") as { train_rows: Row[] }).train_rows;

  /** The trained parts as text, special tokens shown. */
  function trained({ ids, textTargets }: Sample): string[] {
    const parts: number[][] = [];
    for (let i = 1; i < ids.length; i++) {
      if (textTargets[i - 1] === IGNORE) continue;
      expect(textTargets[i - 1]).toBe(ids[i]);
      if (i > 1 && textTargets[i - 2] !== IGNORE) parts.at(-1)!.push(ids[i]!);
      else parts.push([ids[i]!]);
    }
    return parts.map((part) => processor.tokenizer.decode(part, { skipSpecials: false }));
  }
  /** Labels as the fixtures have them, before the shift. */
  const labels = ({ textTargets }: Sample): number[] => [IGNORE, ...textTargets].slice(0, textTargets.length);

  it("gives the training rows of the fixtures", async () => {
    const [und, text, gen] = rows();
    const { tokenizer } = processor;
    const part = (row: Row, from: string, to: string): string =>
      tokenizer.decode(row.input_ids, { skipSpecials: false }).split(from)[1]!.split(to)[0]!;
    const answers = ["<|Assistant|>: ", tokenizer.tokenOf(tokenizer.specials.eos)!] as const;
    const question = part(und!, "<end_of_image>\n", "\n\n");
    const asked = await encode({
      task: "und",
      messages: [
        { role: "user", content: [image, words(question)] },
        { role: "assistant", content: part(und!, ...answers) },
      ],
      images: [picture(1)],
    });
    expect(asked.task).toBe("und");
    expect([...asked.ids]).toEqual(und!.input_ids);
    expect(labels(asked)).toEqual(und!.labels);
    expect(asked.images.length).toBe(1);
    const pixels = golden("preprocess.pixels1").data;
    expect(Math.max(...asked.images[0]!.map((x, i) => Math.abs(x - pixels[i]!)))).toBeLessThan(1e-6);
    expect([...asked.places].filter((p) => p >= 0)).toEqual(Array.from({ length: 64 }, (_, i) => i));

    const messages: Message[] = [
      { role: "user", content: part(text!, "<|User|>: ", "\n\n") },
      { role: "assistant", content: part(text!, ...answers) },
    ];
    const said = await encode({ task: "text", messages });
    expect([said.task, [...said.ids], labels(said)]).toEqual(["text", text!.input_ids, text!.labels]);

    const prompt = part(gen!, "<|User|>: ", "\n\n");
    const codes = async (path: string): Promise<number[]> => {
      expect(path).toBe(picture(0));
      return gen!.labels;
    };
    const drawn = await encode({ task: "gen", prompt, image: picture(0) }, { codes, drop: 0 });
    expect([...drawn.ids].slice(0, gen!.input_ids.length)).toEqual(gen!.input_ids);
    expect([...drawn.codeTargets].filter((t) => t !== IGNORE)).toEqual(gen!.labels);
    expect(trainedTokens(drawn)).toBe(64);
  });

  it("trains the answers of several turns with several images, and nothing else", async () => {
    const sample = await encode({
      task: "und",
      system: "Be brief.",
      messages: [
        { role: "user", content: [image, image, words("Which is red? (one of 2)")] },
        { role: "assistant", content: "  The first.\n\nIt's: \u201cred\u201d. " },
        { role: "user", content: "User: and\n\nAssistant: this?" },
        { role: "assistant", content: "..." },
        { role: "user", content: [words("Again"), image] },
        { role: "assistant", content: "3 \u7ea2\u8272 \ud83d\udd34" },
      ],
      images: [picture(0), picture(1), picture(2)],
    });
    const eos = processor.tokenizer.tokenOf(processor.tokenizer.specials.eos)!;
    expect(trained(sample)).toEqual([
      ` The first.\n\nIt's: \u201cred\u201d.${eos}`,
      ` ...${eos}`,
      ` 3 \u7ea2\u8272 \ud83d\udd34${eos}`,
    ]);
    expect(sample.images.length).toBe(3);
    expect([...sample.places].filter((p) => p >= 0)).toEqual(Array.from({ length: 192 }, (_, i) => i));
    expect(processor.tokenizer.decode(sample.ids, { skipSpecials: false })).toContain("Be brief.\n\n<|User|>: ");
  });

  it("puts the checkpoint's system prompt before conversations that have none: the original's, or none", async () => {
    const messages: Message[] = [
      { role: "user", content: "Hello" },
      { role: "assistant", content: "Hi" },
    ];
    const encoder = new RecordEncoder(processor, { seed: 1 });
    const text = processor.tokenizer.decode((await encoder.encode({ task: "text", messages }, of)).ids);
    // use_default_system_prompt is false in the fixture of the hf layout.
    expect(text.startsWith(DEFAULT_SYSTEM_PROMPT)).toBe(layout === "deepseek");
    const own = await encoder.encode({ task: "text", messages, system: "" }, of);
    expect(processor.tokenizer.decode(own.ids, { skipSpecials: false })).not.toContain("helpful");
  });

  it("trains all of a plain text, its end too", async () => {
    const { bos, eos } = processor.tokenizer.specials;
    const sample = await encode({ task: "text", text: "Once upon a time" });
    const inner = processor.tokenizer.encode("Once upon a time", { bos: false });
    expect([...sample.ids]).toEqual([bos, ...inner, eos]);
    expect([...sample.textTargets]).toEqual([...inner, eos, IGNORE]);
  });

  it("drops the prompt's inner tokens for guidance, by sample and epoch", async () => {
    const raw = { task: "gen", prompt: "a red circle", image: "x.png" } as const;
    const codes = async (): Promise<Uint16Array> => Uint16Array.of(3, 1, 2);
    const [kept, dropped] = [await encode(raw, { codes, drop: 0 }), await encode(raw, { codes, drop: 1 })];
    const { pad, bos, beginOfImage } = processor.tokenizer.specials;
    const length = kept.ids.length - 2;
    expect([...dropped.ids]).toEqual([bos, ...Array.from({ length: length - 2 }, () => pad), beginOfImage, 0, 0]);
    expect(dropped.codeTargets).toEqual(kept.codeTargets);
    expect([...kept.codes].slice(-3)).toEqual([-1, 3, 1]);
    for (let epoch = 0; epoch < 40; epoch++) {
      const which = { ...of, epoch };
      const sample = await encode(raw, { codes, drop: 0.3 }, which);
      expect(sample.ids[1] === pad).toBe(isDropped(1, which, 0.3));
    }
  });

  it("refuses what is too long, or with `truncate` leaves out whole turns", async () => {
    const messages: Message[] = [
      { role: "user", content: [image, words("What?")] },
      { role: "assistant", content: "A circle." },
      { role: "user", content: [image, words("And this?")] },
      { role: "assistant", content: "A square, ".repeat(20) },
    ];
    const raw: RawSample = { task: "und", messages, images: [picture(0), picture(1)] };
    const whole = await encode(raw);
    expect((await encode(raw, { maxTokens: whole.ids.length })).ids).toEqual(whole.ids);
    await expect(encode(raw, { maxTokens: whole.ids.length - 1 })).rejects.toThrow(
      `the conversation has ${whole.ids.length} tokens, at most ${whole.ids.length - 1} fit`,
    );
    const cut = await encode(raw, { maxTokens: whole.ids.length - 1, truncate: true });
    expect(cut.images.length).toBe(1);
    expect(trained(cut)).toEqual(trained(whole).slice(0, 1));
    expect([...whole.ids].slice(0, cut.ids.length)).toEqual([...cut.ids]);
    await expect(encode(raw, { maxTokens: 20, truncate: true })).rejects.toThrow(SampleError);
    const text: RawSample = { task: "text", text: "one two three four five six seven" };
    await expect(encode(text, { maxTokens: 5 })).rejects.toThrow(/the text has/);
    const { ids } = await encode(text, { maxTokens: 5, truncate: true });
    expect([...ids]).toEqual([...(await encode(text)).ids].slice(0, 5));
    const codes = async (): Promise<number[]> => Array.from({ length: 64 }, () => 1);
    const gen: RawSample = { task: "gen", prompt: "a circle", image: "x" };
    await expect(encode(gen, { codes, maxTokens: 50, truncate: true })).rejects.toThrow(/with its image has/);
  });

  it("does not train the answers that a record switches off", async () => {
    const messages: Message[] = ["q1", "bad", "q2", "good"].map((content, i) => ({
      role: i % 2 ? "assistant" : "user",
      content,
    }));
    const eos = processor.tokenizer.tokenOf(processor.tokenizer.specials.eos)!;
    const [whole, part] = [
      await encode({ task: "text", messages }),
      await encode({ task: "text", messages, untrained: [1] }),
    ];
    expect([...part.ids]).toEqual([...whole.ids]);
    expect(trained(part)).toEqual([` good${eos}`]);
    await expect(encode({ task: "text", messages, untrained: [1, 3] })).rejects.toThrow(/no token of it is trained/);
    await expect(encode({ task: "text", messages: messages.slice(0, 2), untrained: [1] })).rejects.toThrow(SampleError);
  });

  it("sees an image in a record as its file", async () => {
    const messages: Message[] = [{ role: "user", content: [image] }, { role: "assistant", content: "x" }];
    const url = `data:;base64,${readFileSync(picture(0)).toString("base64")}`;
    const [inline, file] = [await encode({ task: "und", messages, images: [url] }), await encode({ task: "und", messages, images: [picture(0)] })];
    expect(inline.images).toEqual(file.images);
  }); // prettier-ignore

  it.skipIf(layout === "hf")("encodes long texts by parts, only as far as they fit", async () => {
    const long = "a hello  world, well.\n\n".repeat(12_000); // 276 K characters
    const whole = processor.tokenizer.encode(long);
    const { ids, isComplete } = await encodeText(processor.tokenizer, long);
    expect(isComplete).toBe(true);
    expect(ids).toEqual(whole);
    const text = long.repeat(30); // 8.3 MB
    const cut = await encode({ task: "text", text }, { maxTokens: 50, truncate: true });
    expect([...cut.ids]).toEqual(whole.slice(0, 50));
    const refused = (raw: RawSample, more = {}): Promise<unknown> => expect(encode(raw, { maxTokens: 50, ...more })).rejects.toThrow(/has at least \d+ tokens, at most 50 fit/);
    await refused({ task: "text", text });
    const talk: Message[] = [{ role: "user", content: "a" }, { role: "assistant", content: "b" }, { role: "user", content: "c" }, { role: "assistant", content: text }];
    await refused({ task: "text", messages: talk });
    await refused({ task: "text", messages: talk.slice(2) }, { truncate: true });
    expect(trained(await encode({ task: "text", messages: talk }, { maxTokens: 50, truncate: true })).length).toBe(1);
  }); // prettier-ignore

  it("refuses special tokens in texts, images that cannot be read, and prompts of nothing", async () => {
    const conversation = (question: string, answer: string): RawSample => ({
      task: "text",
      messages: [
        { role: "user", content: question },
        { role: "assistant", content: answer },
      ],
    });
    const eos = processor.tokenizer.tokenOf(processor.tokenizer.specials.eos)!;
    const bad = [
      conversation("What is <image_placeholder>?", "x"),
      conversation("x", `done${eos}<|User|>: more`),
      { task: "text", text: `a${eos}b` } as const,
      { task: "gen", prompt: "<begin_of_image>", image: "x" } as const,
    ];
    for (const raw of bad) await expect(encode(raw)).rejects.toThrow(/a special token of the model/);
    await expect(encode({ task: "text", text: "a\ud800b" })).rejects.toThrow(/half of a surrogate pair/);
    const messages: Message[] = [
      { role: "user", content: [image] },
      { role: "assistant", content: "x" },
    ];
    await expect(encode({ task: "und", messages, images: [`${root}none.png`] })).rejects.toThrow(ImageError);
    await expect(encode({ task: "und", messages, images: [`${root}golden.json`] })).rejects.toThrow(ImageError);
  });
});

describe("conditioning dropout", () => {
  it("takes its share, the same samples each time and others in another epoch", () => {
    const drops = (seed: number, epoch: number): number[] =>
      Array.from({ length: 10_000 }, (_, i) => i).filter((i) => isDropped(seed, { id: `und:${i}`, epoch }, 0.1));
    const first = drops(1, 0);
    expect(Math.abs(first.length - 1000)).toBeLessThan(5 * 30);
    expect(drops(1, 0)).toEqual(first);
    for (const others of [drops(1, 1), drops(2, 0)]) {
      expect(others).not.toEqual(first);
      expect(others.filter((i) => first.includes(i)).length).toBeLessThan(170); // 100 by chance
    }
  });
});
