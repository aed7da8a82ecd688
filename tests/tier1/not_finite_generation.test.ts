/**
 * Models whose numbers are not finite, on the tiny fixture: every way to an answer, a picture or codes fails with `NotFiniteError` that names the
 * part and the step; nothing is written; loading names the tensors.
 */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device, NotFiniteError, setDevice, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { addAsk } from "../../cli/ask.ts";
import { EXIT } from "../../cli/errors.ts";
import { addGenerate } from "../../cli/generate.ts";
import { addReconstruct } from "../../cli/reconstruct.ts";
import { generateText } from "../../model/generate.ts";
import { encodePictures } from "../../model/janus/image_codes.ts";
import { Janus } from "../../model/janus/node/index.ts";
import { changedHf } from "../checkpoint/tiny.ts";
import { runCli, runHere } from "../cli.ts";
import { hasFixtures } from "../fixtures.ts";
import { errorOf } from "../gpu.ts";

const fixture = (path: string): string =>
  fileURLToPath(new URL(`../../../shared/fixtures/tiny/${path}`, import.meta.url));
const IMAGE = fixture("image1.png");
const NAN = 0x7fc0; // bf16
const INFINITY = 0x7f80;

describe.skipIf(!hasFixtures)("a damaged model", () => {
  let device: Device;
  beforeAll(async () => {
    device = await Device.create();
    setDevice(device);
  });
  afterAll(() => device.destroy());

  /** Runs `fn` with a model of which elements `from` … `from + count` of a weight are `bits`. */
  async function damaged<T>(
    weight: (janus: Janus) => Tensor,
    fn: (janus: Janus) => Promise<T>,
    { from = 0, count = 2, bits = NAN } = {},
  ): Promise<T> {
    const janus = await Janus.fromPretrained(fixture("hf"));
    try {
      const live = device.pool.stats.liveBytes;
      weight(janus).writeBytes(new Uint8Array(new Uint16Array(count).fill(bits).buffer), 2 * from);
      const result = await fn(janus);
      await device.sync();
      expect(device.pool.stats.liveBytes, device.pool.table()).toBe(live);
      return result;
    } finally {
      janus.dispose();
    }
  }

  async function expectNotFinite(run: () => unknown, part: RegExp, place: RegExp, step: number | null): Promise<void> {
    const error = await errorOf(run);
    expect(error).toBeInstanceOf(NotFiniteError);
    const { part: named, step: at } = error as NotFiniteError;
    expect([named, at]).toEqual([expect.stringMatching(part), step]);
    expect(error.message).toMatch(place);
    expect(error.message).toMatch(/not finite/);
  }

  const ways = [{}, { temperature: 1 }, { temperature: 1, topK: 5 }, { temperature: 1, topP: 0.95 }, { temperature: 1, topK: 5, topP: 0.5 }, { repetitionPenalty: 1.3, suppressTokens: [0, 1] }]; // prettier-ignore
  it.each([NAN, INFINITY])("in the language head (%i), however tokens are chosen", async (bits) => {
    await damaged(
      ({ model }) => model.lm_head.weight,
      async (janus) => {
        for (const way of ways) {
          const ask = (): Promise<unknown> => janus.ask("hi", { maxNewTokens: 6, seed: 1, ...way }).text();
          await expectNotFinite(ask, /^language head \(lm_head\)$/, /token 0 of the answer/, 0);
        }
        await expectNotFinite(() => janus.ask("hi").result(), /lm_head/, /token 0/, 0);
        const all = (): Promise<unknown> => janus.askAll([{ question: "hi" }, { question: "What?" }]);
        await expectNotFinite(all, /lm_head/, /token 0 of answer 0/, 0);
        const pieces: string[] = [];
        const watch = async (): Promise<void> => {
          for await (const piece of janus.ask("hi")) pieces.push(piece);
        };
        await expectNotFinite(watch, /lm_head/, /token 0/, 0);
        expect(pieces).toEqual([]);
      },
      { from: 7 * 128, count: 128, bits },
    );
  });

  it("at a later token: the step is the first one that is not finite", async () => {
    const janus = await Janus.fromPretrained(fixture("hf"));
    const { tokenIds, promptTokenIds } = await janus.ask("What?", { maxNewTokens: 12 }).result();
    janus.dispose();
    const before = (i: number): number[] => [...promptTokenIds, ...tokenIds.slice(0, i)];
    const at = tokenIds.findIndex((id, i) => i > 2 && !before(i).includes(id));
    await damaged(
      ({ model }) => model.model.language_model.embed_tokens.weight,
      async (model) => {
        const rows = [{ ids: [...promptTokenIds] }, { ids: [...promptTokenIds] }];
        const tokens: number[] = [];
        const run = async (isDone?: (row: number) => boolean): Promise<void> => {
          tokens.length = 0;
          const steps = generateText(model.model, rows, { maxNewTokens: at + 4 }, isDone);
          for await (const step of steps) tokens.push(step[0]!);
        };
        await expectNotFinite(run, /language model/, new RegExp(`token ${at + 1} of answer 0`), at + 1);
        expect(tokens).toEqual(tokenIds.slice(0, at + 1));
        await expectNotFinite(() => run((row) => row === 0), /language model/, /of answer 1/, at + 1);
        await run(() => true); // nobody waits for these
        expect(tokens.slice(0, at + 1)).toEqual(tokenIds.slice(0, at + 1));
        expect(Math.max(...tokens)).toBeLessThan(model.config.language.vocabulary);
      },
      { from: 128 * tokenIds[at]!, count: 128 },
    );
  });

  it.each(["q_proj", "k_proj", "v_proj"] as const)("in %s of a layer", async (name) => {
    await damaged(
      ({ model }) => model.model.language_model.layers[1]!.self_attn[name].weight,
      async (janus) => {
        await expectNotFinite(() => janus.ask("hi").text(), /language model/, /token 0/, 0);
        await expectNotFinite(() => janus.generate("hi").images(), /language model/, /code 0/, 0);
      },
    );
  });

  it("in the vision tower", async () => {
    await damaged(
      ({ model }) => model.model.vision_model.post_layernorm.weight,
      (janus) => expectNotFinite(() => janus.ask("What?", { images: [IMAGE] }).text(), /vision tower/, /token 0/, 0),
    );
  });

  it("in the image head: at the first code, and nothing is computed after it", async () => {
    await damaged(
      ({ model }) => model.model.generation_head.vision_head.weight,
      async (janus) => {
        let events = 0;
        const draw = async (options: object): Promise<void> => {
          for await (const event of janus.generate("a red circle", options))
            events += Number(event.type !== "progress");
        };
        for (const options of [{}, { temperature: 0 }, { topP: 0.9 }, { n: 3, guidance: 1, topK: 7 }])
          await expectNotFinite(() => draw(options), /^image head \(gen_head\)$/, /code 0 of image 0/, 0);
        expect(events).toBe(0);
      },
    );
  });

  it("at a later code: of the picture that it happens in", async () => {
    const options = { n: 2, seed: 3 };
    const janus = await Janus.fromPretrained(fixture("hf"));
    const drawn = (await janus.generate("a red circle", options).images()).map(({ tokenIds }) => tokenIds);
    janus.dispose();
    // A code that the second picture draws first.
    const step = drawn[1]!.findIndex(
      (code, i) => i > 10 && !drawn.some((row) => row.slice(0, i + 1 - Number(row === drawn[1])).includes(code)),
    );
    await damaged(
      ({ model }) => model.model.generation_embeddings.weight,
      (one) =>
        expectNotFinite(
          () => one.generate("a red circle", options).images(),
          /language model/,
          new RegExp(`code ${step + 1} of image 1`),
          step + 1,
        ),
      { from: 8 * drawn[1]![step]!, count: 8 },
    );
  });

  it("in the VQ decoder", async () => {
    await damaged(
      ({ model }) => model.model.vqmodel.decoder.conv_out.weight,
      async (janus) => {
        await expectNotFinite(() => janus.generate("hi").images(), /^VQ decoder$/, /image 0/, null);
        await expectNotFinite(
          () => janus.decodeImage(new Array<number>(64).fill(3)),
          /^VQ decoder$/,
          /the image/,
          null,
        );
        await expectNotFinite(() => janus.reconstruct(IMAGE), /^VQ decoder$/, /the image/, null);
      },
    );
  });

  it("in the VQ encoder", async () => {
    await damaged(
      ({ model }) => model.model.vqmodel.encoder.conv_in.weight,
      async (janus) => {
        await expectNotFinite(() => janus.reconstruct(IMAGE), /^VQ encoder$/, /the image/, null);
        using two = tensor(new Float32Array(2 * 3 * 64 * 64), { shape: [2, 3, 64, 64] });
        await expectNotFinite(
          () => encodePictures(janus.model.model.vqmodel, two),
          /^VQ encoder$/,
          /a batch of 2/,
          null,
        );
      },
    );
  });
});

describe.skipIf(!hasFixtures)("a checkpoint with values that are not finite", () => {
  const temporary = mkdtempSync(join(tmpdir(), "janus-not-finite-"));
  afterAll(() => rmSync(temporary, { recursive: true, force: true }));
  let folders = 0;
  const newFolder = (): string => {
    const folder = join(temporary, String(folders++));
    mkdirSync(folder);
    return folder;
  };

  /** A copy of the tiny checkpoint with NaN in the first `count` elements of tensors. */
  async function copyWith(names: Readonly<Record<string, number>>): Promise<string> {
    const folder = newFolder();
    const files = await changedHf((tensors) => {
      for (const [name, count] of Object.entries(names)) {
        const { data, dtype } = tensors.get(name)!;
        expect(dtype).toBe("bf16");
        new DataView(data.buffer, data.byteOffset).setUint16(0, NAN, true);
        for (let i = 1; i < count; i++) new DataView(data.buffer, data.byteOffset).setUint16(2 * i, INFINITY, true);
      }
    });
    for (const [name, bytes] of files) writeFileSync(join(folder, name), bytes);
    return folder;
  }

  it("is loaded, and its tensors are named once, with how many values", async () => {
    const device = await Device.create();
    const folder = await copyWith({ "lm_head.weight": 3, "model.language_model.norm.weight": 1 });
    for (const dtype of ["bf16", "f32", "f16"] as const) {
      const notices: string[] = [];
      const janus = await Janus.fromPretrained(folder, { device, dtype, onNotice: (text) => notices.push(text) });
      expect(notices).toEqual([expect.stringMatching(/^2 tensors have values that are not finite/)]);
      expect(notices[0]).toMatch(/language_model\.norm\.weight \(1 of 128\)/);
      expect(notices[0]).toMatch(/lm_head\.weight \(3 of 163840\)/);
      janus.dispose();
      expect(device.pool.stats.liveBytes).toBe(0);
    }
    const whole = await Janus.fromPretrained(fixture("hf"), { device, onNotice: expect.unreachable });
    whole.dispose();
    device.destroy();
  });

  it("gives no answer and no file: exit code 6, which the help names", async () => {
    expect((await runCli(["--help"])).stdout).toMatch(/^ +6 +the model computes values that are not finite/m);
    const [head, decoder, out] = [await copyWith({ "lm_head.weight": 64 }), await copyWith({ "model.vqmodel.decoder.conv_out.weight": 1 }), newFolder()]; // prettier-ignore
    const asked = await runCli(["ask", "hi", "--model", head]);
    expect([asked.code, asked.stdout]).toEqual([EXIT.notFinite, ""]);
    expect(asked.stderr).toMatch(
      /warning: a tensor has values that are not finite \(NaN or infinity\): lm_head\.weight \(64 of 163840\)/,
    );
    expect(asked.stderr).toMatch(/error: generateText: .* language head \(lm_head\), token 0 of the answer/);
    const structured = await runHere(addAsk, ["ask", "hi", "--top-p", "0.9", "--temperature", "1", "--model", head, "--json"]); // prettier-ignore
    expect(structured.code).toBe(EXIT.notFinite);
    expect(JSON.parse(structured.stdout)).toMatchObject({
      error: { name: "NotFiniteError", exitCode: EXIT.notFinite },
    });
    const chat = await runCli(["chat", "--model", head, "--out", out], { input: "hi\n/help\n" });
    expect([chat.code, chat.stdout.trim()]).toEqual([EXIT.notFinite, ""]);
    for (const [add, ...args] of [
      [addReconstruct, "reconstruct", IMAGE],
      [addGenerate, "generate", "hi", "--n", "2", "--preview"],
    ] as const) {
      const result = await runHere(add, [...args, "--model", decoder, "--out", out]);
      expect([result.code, result.stdout]).toEqual([EXIT.notFinite, ""]);
      expect(result.stderr).toMatch(/VQ decoder/);
    }
    expect(readdirSync(out)).toEqual([]);
  });
});
