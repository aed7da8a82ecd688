/**
 * Generation in both directions on the tiny fixture: captured steps against eager ones, rows against their neighbours, sampling options
 * against a slow loop on the host, cancelling, and what is refused. That the numbers are Janus-Pro's is tested in verify.test.ts.
 */
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { ArgumentError, DTypeError, Device, F, Generator, noGrad, scope, tensor } from "../../index.ts";
import { ImageGeneration } from "../../model/janus/generate_images.ts";
import { generateText, textDecoder } from "../../model/generate.ts";
import type { TextOptions } from "../../model/generate.ts";
import { Janus, encodePicture, readImage, readPicture } from "../../model/janus/node/index.ts";
import { stepsAhead } from "../../model/decoding.ts";
import { PromptError } from "../../model/request.ts";
import { hasFixtures } from "../fixtures.ts";
import { useTinyJanus } from "../tiny_janus.ts";
import { created, errorOf } from "../gpu.ts";
import { isLong } from "../long.ts";

const fixture = (path: string): string =>
  fileURLToPath(new URL(`../../../shared/fixtures/tiny/${path}`, import.meta.url));
const IMAGES = [0, 1, 2, 3].map((i) => fixture(`image${i}.png`));

describe.skipIf(!hasFixtures)("generation", () => {
  let device: Device;
  let janus: Janus;
  let expectClean: () => Promise<void>;
  useTinyJanus((tiny) => ({ device, janus, expectClean } = tiny));

  const textIds = (text: string): number[] =>
    janus.processor.prompts.encode(
      janus.processor.prompts.conversation([{ role: "user", content: text }], { system: "" }),
    );

  async function tokensOf(ids: readonly (readonly number[])[], options: TextOptions): Promise<number[][]> {
    const rows: number[][] = ids.map(() => []);
    for await (const step of generateText(
      janus.model,
      ids.map((row) => ({ ids: row })),
      options,
    ))
      for (const [i, row] of rows.entries()) row.push(step[i]!);
    return rows;
  }

  async function codesOf(
    prompt: string | string[],
    options: ConstructorParameters<typeof ImageGeneration>[4],
  ): Promise<number[][]> {
    const pictures = await janus.generate(prompt, options).images();
    return pictures.map(({ tokenIds }) => [...tokenIds]);
  }

  describe("a captured step", () => {
    it("gives the bits of eager steps: text", async () => {
      const ids = [textIds("What is this?"), textIds("Describe this scene in detail, please.")];
      const options = { maxNewTokens: 12, temperature: 1, topK: 200, topP: 0.95, repetitionPenalty: 1.3, seed: 5 };
      const captured = await tokensOf(ids, { ...options, verify: true });
      expect(captured).toEqual(await tokensOf(ids, { ...options, eager: true }));
      expect(captured).toEqual(await tokensOf(ids, options));
      await expectClean();
    });

    it("gives the bits of eager steps: images", async () => {
      const options = { n: 2, seed: 7 };
      const captured = await codesOf("a red circle", { ...options, verify: true });
      expect(captured[0]).toHaveLength(64);
      expect(captured).toEqual(await codesOf("a red circle", { ...options, eager: true }));
      await expectClean();
    });

    it("creates nothing once it is warm", async () => {
      const decoders = [
        textDecoder(janus.model, [{ ids: textIds("hello") }], {
          maxNewTokens: 16,
          temperature: 1,
          topK: 50,
          topP: 0.9,
        }),
        new ImageGeneration(janus.model, janus.config, [textIds("a cat")], 690).decoder,
      ];
      for (const decoder of decoders) {
        decoder.begin();
        await decoder.next();
        await decoder.next();
        await decoder.tokens.data();
        const made = await created(device, async () => {
          for (let i = 0; i < 5; i++) await decoder.next();
          await decoder.tokens.data();
        });
        expect(made).toEqual({ buffers: 0, bindGroups: 0, pipelines: 0 });
        decoder.dispose();
      }
      await expectClean();
    });
  });

  describe("a row does not depend on its neighbours", () => {
    it("linear gives a row the same bits in any number of rows", async () => {
      const [k, n] = [96, 52];
      for (const dtype of ["f32", "bf16"] as const) {
        using x = F.randn([24, k]);
        using w = F.randn([n, k], { dtype });
        const bits = async (rows: number): Promise<Uint32Array> => {
          using y = scope(() => F.linear(x.slice(0, 0, rows), w));
          const data = (await y.data()) as Float32Array;
          return new Uint32Array(data.slice(0, n).buffer);
        };
        const alone = await bits(1);
        for (const rows of [2, 3, 4, 5, 8, 9, 16, 17, 24])
          expect(await bits(rows), `${rows} rows, ${dtype}`).toEqual(alone);
      }
    });

    it("picture k of a batch with seed s is the single picture with seed s + k, whatever the prompts of the others", async () => {
      const prompts = ["a red circle", "An ancient stone bridge arching over a stream"];
      const n = isLong ? 3 : 2;
      const together = await codesOf(prompts, { n, seed: 10 });
      expect(together).toHaveLength(2 * n);
      const alone: number[][] = [];
      for (const [p, prompt] of prompts.entries())
        for (let k = 0; k < n; k++) alone.push((await codesOf(prompt, { seed: 10 + n * p + k }))[0]!);
      expect(together).toEqual(alone);
      expect(new Set(together.map(String)).size).toBe(2 * n);
      await expectClean();
    });

    it("holds without guidance", async () => {
      const n = isLong ? 3 : 2;
      const together = await codesOf("a red circle", { n, seed: 2, guidance: 1, topK: 50 });
      for (let k = 0; k < n; k++)
        expect((await codesOf("a red circle", { seed: 2 + k, guidance: 1, topK: 50 }))[0]).toEqual(together[k]);
    });

    it("questions with images, without and with several, together and alone", async () => {
      const questions = [
        { question: "What?", images: [IMAGES[1]!] },
        { question: "Tell me a story about a dog." },
        { question: "<image_placeholder> and <image_placeholder>: which is larger?", images: [IMAGES[2]!, IMAGES[3]!] },
        {
          question: [
            { role: "user", content: "Hi" },
            { role: "assistant", content: "Hello." },
            { role: "user", content: "And now?" },
          ] as const,
        },
      ];
      const options = { maxNewTokens: 10, temperature: 0.9, seed: 20 };
      const together = await janus.askAll(questions, options);
      for (const [k, { question, images = [] }] of questions.entries()) {
        const alone = await janus.ask(question, { ...options, images, seed: 20 + k }).result();
        expect({ ...together[k], timings: null }).toEqual({ ...alone, timings: null });
      }
      await expectClean();
    });
  });

  describe("sampling", () => {
    /** Text by whole forward passes, penalties on the host and the sampling op alone, a token at a time. */
    async function slow(ids: readonly number[], count: number, options: TextOptions = {}): Promise<number[]> {
      const { temperature = 0, topK, topP, seed = 0, repetitionPenalty: penalty = 1, suppressTokens = [] } = options;
      const all = [...ids];
      const generator = new Generator(seed);
      for (let i = 0; i < count; i++) {
        using y = noGrad(() =>
          scope(() => {
            const positions = F.arange(all.length);
            const embeddings = janus.model.embedText(tensor(Int32Array.from(all), { shape: [1, all.length] }));
            return janus.model.call(embeddings, { positions }).select(1, -1);
          }),
        );
        const logits = (await y.data()) as Float32Array;
        for (const id of new Set(all)) logits[id] = logits[id]! > 0 ? logits[id]! / penalty : logits[id]! * penalty;
        for (const id of suppressTokens) logits[id] = -1e30;
        generator.setStep(i);
        using token = scope(() =>
          F.sampleTokens(tensor(logits, { shape: [1, logits.length] }), {
            temperature,
            ...(topK && { topK }),
            ...(topP && { topP }),
            generator,
            site: 0,
          }),
        );
        all.push(await token.item());
      }
      generator.dispose();
      return all.slice(ids.length);
    }

    it("equals a loop of whole forward passes: greedy, temperature, top-k, top-p, seeds, penalties, suppressed tokens", async () => {
      const ids = textIds("What's written on the board?");
      const plain = await slow(ids, 10);
      expect(await tokensOf([ids], { maxNewTokens: 10 })).toEqual([plain]);
      expect(await tokensOf([ids], { maxNewTokens: 10, temperature: 1, topK: 1, seed: 9 })).toEqual([plain]);
      const few = [...plain.slice(0, 3), 300, 301, 302];
      const onlyFew = Array.from({ length: janus.config.language.vocabulary }, (_, id) => id).filter(
        (id) => !few.includes(id),
      );
      const kinds: TextOptions[] = [
        { temperature: 1, seed: 3 },
        { temperature: 0.4, seed: 4 },
        { temperature: 1, topP: 0.3, seed: 5 },
        { temperature: 1.5, topK: 7, seed: 6 },
        { repetitionPenalty: 1.8, suppressTokens: [plain[0]!] },
        { repetitionPenalty: 1.3, suppressTokens: onlyFew }, // tokens must come again
        { temperature: 1, repetitionPenalty: 2.5, suppressTokens: onlyFew, seed: 7 },
      ];
      const found = new Set<string>([String(plain)]);
      for (const options of kinds) {
        const expected = await slow(ids, 10, options);
        expect(await tokensOf([ids], { ...options, maxNewTokens: 10 }), JSON.stringify(options).slice(0, 60)).toEqual([
          expected,
        ]);
        found.add(String(expected));
      }
      expect(found.size).toBe(kinds.length + 1);
      expect(new Set(await slow(ids, 10, kinds[5])).size).toBeLessThan(10);
      await expectClean();
    });

    it("a context that is exactly full is filled to its last token; one more is refused", async () => {
      const { maxPositions } = janus.config.language;
      const base = textIds("word");
      const ids = [...base, ...Array.from({ length: maxPositions - 4 - base.length }, (_, i) => 300 + (i % 50))];
      expect(await tokensOf([ids], { maxNewTokens: 4 })).toEqual([await slow(ids, 4)]);
      expect(await errorOf(() => tokensOf([ids], { maxNewTokens: 5 }))).toBeInstanceOf(PromptError);
    });

    it("the system prompt is the checkpoint's (none in this one) or the given one, and stands before the question", async () => {
      const promptOf = async (options: { system?: string }): Promise<string> => {
        const { promptTokenIds } = await janus.ask("Hi", { maxNewTokens: 1, ...options }).result();
        return janus.processor.tokenizer.decode(promptTokenIds);
      };
      expect(await promptOf({})).toMatch(/^: Hi/);
      expect(await promptOf({ system: "" })).toMatch(/^: Hi/);
      expect(await promptOf({ system: "Be brief." })).toMatch(/^Be brief\.\n\n: Hi/);
    });

    it("ends at the end token, before a stop string, or at the limit; pieces add up to the text", async () => {
      const whole = await janus.ask("What?", { images: [IMAGES[1]!], system: "", maxNewTokens: 24 }).result();
      expect(whole).toMatchObject({
        finish: "length",
        text: "bleX triangledu by triangle\ufffd\x14elpfu cirrch\ufffd是\ufffdfu",
      });
      const pieces: string[] = [];
      const answer = janus.ask("What?", {
        images: [IMAGES[1]!],
        system: "",
        maxNewTokens: 24,
        stop: ["never", "fu cirr", "fu"],
      });
      for await (const piece of answer) pieces.push(piece);
      const stopped = await answer.result();
      expect(stopped).toMatchObject({ finish: "stop", text: whole.text.slice(0, whole.text.indexOf("fu")) });
      expect(pieces.join("")).toBe(stopped.text);
      expect(pieces.length).toBeGreaterThan(3);
      // The end token: a model that always says it.
      const { eos } = janus.processor.tokenizer.specials;
      const { vocabulary } = janus.config.language;
      const others = Array.from({ length: vocabulary }, (_, id) => id).filter((id) => id !== eos);
      expect(await janus.ask("What?", { suppressTokens: others }).result()).toMatchObject({
        finish: "end",
        text: "",
        tokenIds: [],
      });
      await expectClean();
    });
  });

  it("a run that is aborted or left stops, and leaves nothing behind", async () => {
    const controller = new AbortController();
    const run = async (): Promise<void> => {
      for await (const event of janus.generate("a red circle", { signal: controller.signal }))
        if (event.type === "progress" && event.done >= 3) controller.abort();
    };
    expect((await errorOf(run)).name).toBe("AbortError");
    await expectClean();
    const launches = device.stats.launches;
    const aborted = AbortSignal.abort();
    expect((await errorOf(() => janus.ask("hello", { images: [IMAGES[0]!], signal: aborted }).text())).name).toBe(
      "AbortError",
    );
    expect(device.stats.launches).toBe(launches);
    const midway = new AbortController();
    const text = async (): Promise<void> => {
      for await (const piece of janus.ask("hello", { maxNewTokens: 50, signal: midway.signal }))
        if (piece) midway.abort();
    };
    expect((await errorOf(text)).name).toBe("AbortError");
    await expectClean();
  });

  it("a stream runs once: who iterates has it, who waits gets what it comes to", async () => {
    const left = janus.ask("hello", { maxNewTokens: 50 });
    for await (const piece of left) if (piece) break;
    expect((await errorOf(() => left.result())).message).toMatch(/closed before its end/);
    expect(await errorOf(() => left[Symbol.asyncIterator]())).toBeInstanceOf(ArgumentError);
    const whole = janus.ask("hello", { maxNewTokens: 9 });
    const text = whole.text();
    expect((await errorOf(() => whole[Symbol.asyncIterator]())).message).toMatch(/runs once/);
    const again = janus.ask("hello", { maxNewTokens: 9 });
    let pieces = "";
    let waiting: Promise<unknown> | undefined;
    for await (const piece of again) {
      waiting ??= again.result();
      pieces += piece;
    }
    expect((await again.result()).text).toBe(pieces);
    expect(await waiting).toBe(await again.result());
    expect(pieces.trim()).toBe(await text);
    const failing = janus.ask("");
    expect(await errorOf(() => failing.text())).toBeInstanceOf(PromptError);
    expect(await errorOf(() => failing.text())).toBeInstanceOf(PromptError);
    await expectClean();
  });

  it("previews show the rows so far, and agree with the picture where it is done", async () => {
    const run = janus.generate("a red circle", { n: 2, seed: 1 });
    const ahead = stepsAhead(device, 16); // tokens that a GPU may have made beyond those that were reported
    const rows = (tokens: number): number => 8 * Math.floor(Math.min(64, tokens) / 8); // 8 tokens a row, of 8 pixels each
    const previews: number[] = [];
    for await (const event of run) {
      const wanted = 20 * (previews.length + 1);
      if (event.type !== "progress" || event.done < wanted) continue; // a GPU reports some tokens at once
      const [first, second] = await run.preview();
      previews.push(wanted);
      expect(first!.height % 8).toBe(0);
      expect(first!.height).toBeGreaterThanOrEqual(rows(event.done));
      expect(first!.height).toBeLessThanOrEqual(rows(event.done + ahead));
      expect([second!.width, second!.height]).toEqual([64, first!.height]);
    }
    expect(previews).toEqual([20, 40, 60]);
    await run.images();
    await expectClean();
  });

  it("a picture file says how it was made, in full", async () => {
    const [picture] = await janus
      .generate("a 红 circle\nin two lines", { seed: 3, guidance: 2.5, temperature: 0.7, topP: 0.9 })
      .images();
    const png = await encodePicture(picture!);
    const { image, ...how } = picture!;
    expect(await readPicture(png)).toEqual(how);
    expect(how).toMatchObject({
      prompt: "a 红 circle\nin two lines",
      seed: 3,
      guidance: 2.5,
      temperature: 0.7,
      topK: undefined,
      topP: 0.9,
      model: janus.fingerprint,
    });
    expect(await readImage(png)).toEqual(image);
    expect(await janus.decodeImage(how.tokenIds)).toEqual(image);
    const plain = { seed: 4, temperature: undefined, topK: undefined, guidance: undefined, n: undefined };
    const [asDefault] = await janus.generate("a cat", plain as object).images();
    expect(asDefault).toMatchObject({
      temperature: 1,
      guidance: 5,
      tokenIds: (await codesOf("a cat", { seed: 4 }))[0],
    });
    // A model that says how it draws is drawn with so.
    const drawing = { guidance: 2, temperature: 0.5 };
    const own = new Janus(janus.name, janus.config, janus.model, { ...janus.processor, drawing }, janus.fingerprint);
    const [asItSays] = await own.generate("a cat", { seed: 4 }).images();
    expect(asItSays).toMatchObject({ ...drawing, tokenIds: (await codesOf("a cat", { seed: 4, ...drawing }))[0] });
    const both = await janus.generate(["a cat", "a dog"], { n: 2 }).images();
    expect(both.map(({ prompt, seed }) => [prompt, seed])).toEqual([
      ["a cat", 0],
      ["a cat", 1],
      ["a dog", 2],
      ["a dog", 3],
    ]);
    const deepseek = await Janus.fromPretrained(fixture("deepseek"));
    expect(deepseek.fingerprint).toBe(janus.fingerprint);
    deepseek.dispose();
  });

  it("reconstruct gives the codes of what the tokenizer sees and the distance to it", async () => {
    const { tokenIds, original, image, psnr } = await janus.reconstruct(IMAGES[1]!);
    expect(tokenIds).toHaveLength(64);
    expect(await janus.decodeImage(tokenIds)).toEqual(image);
    let squares = 0;
    for (let i = 0; i < original.data.length; i++) squares += (original.data[i]! - image.data[i]!) ** 2;
    expect(psnr).toBeCloseTo(10 * Math.log10(255 ** 2 / (squares / original.data.length)), 9);
    const same = await janus.reconstruct(original);
    expect(same.original).toEqual(original);
  });

  describe("what is refused, before any work", () => {
    const refused: [string, () => unknown, new (...args: never[]) => Error, RegExp][] = [
      ["an empty prompt", () => janus.ask("  ").text(), PromptError, /empty/],
      ["an empty picture prompt", () => janus.generate("").images(), PromptError, /empty/],
      [
        "more placeholders than images",
        () => janus.ask("<image_placeholder> what?").text(),
        PromptError,
        /names 1 image and 0 came/,
      ],
      [
        "fewer placeholders than images",
        () => janus.ask("<image_placeholder> what?", { images: IMAGES.slice(0, 2) }).text(),
        PromptError,
        /names 1 image and 2 came/,
      ],
      [
        "a placeholder in a picture prompt",
        () => janus.generate("a <image_placeholder>").images(),
        PromptError,
        /names 1 image/,
      ],
      [
        "a prompt beyond the context",
        () => janus.ask("word ".repeat(3000)).text(),
        PromptError,
        /the context is limited to 1024/,
      ],
      ["too many new tokens", () => janus.ask("hi", { maxNewTokens: 1e6 }).text(), PromptError, /the context has/],
      [
        "no new tokens",
        () => janus.ask("hi", { maxNewTokens: 0 }).text(),
        ArgumentError,
        /maxNewTokens must .*; got 0/,
      ],
      [
        "a negative temperature",
        () => janus.ask("hi", { temperature: -1 }).text(),
        ArgumentError,
        /temperature must .*; got -1/,
      ],
      ["topP 0", () => janus.generate("hi", { topP: 0 }).images(), ArgumentError, /topP must .*; got 0/],
      ["topK 1.5", () => janus.generate("hi", { topK: 1.5 }).images(), ArgumentError, /topK must .*; got 1.5/],
      ["half a picture", () => janus.generate("hi", { n: 0.5 }).images(), ArgumentError, /n must .*; got 0.5/],
      ["an infinite guidance", () => janus.generate("hi", { guidance: Infinity }).images(), ArgumentError, /guidance/],
      [
        "a seed beyond 32 bits",
        () => janus.generate("hi", { n: 2, seed: 0xffffffff }).images(),
        ArgumentError,
        /seed 4294967295 for 2 rows/,
      ],
      ["an empty stop string", () => janus.ask("hi", { stop: [""] }).text(), ArgumentError, /empty string/],
      [
        "a suppressed token that is none",
        () => janus.ask("hi", { suppressTokens: [9999] }).text(),
        ArgumentError,
        /9999/,
      ],
      ["too few codes", () => janus.decodeImage([1, 2, 3]), ArgumentError, /must have 64 codes; got 3/],
      [
        "an answer of no tokens about a picture",
        () => janus.ask("hi", { images: [IMAGES[0]!], maxNewTokens: 0 }).text(),
        ArgumentError,
        /maxNewTokens must .*; got 0/,
      ],
      [
        "an empty stop string about a picture",
        () => janus.ask("hi", { images: [IMAGES[0]!], stop: [""] }).text(),
        ArgumentError,
        /empty string/,
      ],
      ["a guidance beyond f32", () => janus.generate("hi", { guidance: 1e39 }).images(), ArgumentError, /guidance/],
      [
        "more pictures than any device holds",
        () => janus.generate("hi", { n: 3e8 }).images(),
        ArgumentError,
        /n must .*; got 300000000/,
      ],
      [
        "a cache of integers",
        () => janus.ask("hi", { cacheDType: "u8" as never }).text(),
        DTypeError,
        /cacheDType must .*; got u8/,
      ],
      [
        "no token left to sample",
        () => janus.ask("hi", { suppressTokens: Array.from({ length: 1280 }, (_, i) => i) }).text(),
        ArgumentError,
        /suppressTokens must leave a token/,
      ],
      [
        "something else than a picture",
        () => janus.ask("hi", { images: [null as never] }).text(),
        ArgumentError,
        /image: it must be/,
      ],
      ["codes that are holes", () => janus.decodeImage(new Array<number>(64)), ArgumentError, /code undefined/],
      ["a code that is none", () => janus.decodeImage(new Array<number>(64).fill(256)), ArgumentError, /code 256/],
    ];
    it.each(refused)("%s", async (_, run, kind, message) => {
      const launches = device.stats.launches;
      const error = await errorOf(run);
      expect(error).toBeInstanceOf(kind);
      expect(error.message).toMatch(message);
      expect(device.stats.launches).toBe(launches);
      await expectClean();
    });

    it("weights that are no numbers: no answer and no picture comes of them", async () => {
      const broken = await Janus.fromPretrained(fixture("hf"));
      broken.model.model.language_model.norm.weight.writeBytes(Uint8Array.of(0xc0, 0x7f, 0xc0, 0x7f)); // bf16 NaN
      for (const run of [(): unknown => broken.ask("hi").text(), (): unknown => broken.generate("hi").images()]) {
        const error = await errorOf(run);
        expect([error.name, error.message]).toEqual(["NotFiniteError", expect.stringMatching(/not finite/)]);
      }
      broken.dispose();
      await expectClean();
    });

    it("what memory does not suffice for, half-way too, and the device still works", async () => {
      const small = await Device.create({ memoryBudget: 12e6 });
      const held = await Janus.fromPretrained(fixture("hf"), { device: small });
      const before = small.pool.stats.liveBytes;
      for (const n of [20, 30, 40, 200]) {
        expect((await errorOf(() => held.generate("a red circle", { n }).images())).name).toBe("OutOfMemoryError");
        expect(small.pool.stats.liveBytes, `n ${n}:\n${small.pool.table()}`).toBe(before);
      }
      expect((await held.ask("hi", { maxNewTokens: 3 }).result()).tokenIds).toHaveLength(3);
      small.destroy();
      for (const memoryBudget of [1e5, 1e6, 3e6, 5e6]) {
        const tight = await Device.create({ memoryBudget });
        expect((await errorOf(() => Janus.fromPretrained(fixture("hf"), { device: tight }))).name).toBe(
          "OutOfMemoryError",
        );
        expect(tight.pool.stats.liveBytes, tight.pool.table()).toBe(0);
        tight.destroy();
      }
    });
  });
});
