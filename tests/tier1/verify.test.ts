/**
 * `janus verify`: that every value of the fixtures is computed and passes, in both layouts, and that what is wrong in a golden folder fails
 * in its own rows, or before a device is opened. Wrong models, and models of other sizes, are verify_models.test.ts.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import type { Context } from "../../cli/context.ts";
import { EXIT } from "../../cli/errors.ts";
import type { Comparison } from "../../verify/compare.ts";
import { GoldenError } from "../../verify/file.ts";
import { verify } from "../../cli/verify.ts";
import { Device } from "../../index.ts";
import { JsonError, SafetensorsError } from "../../model/io/errors.ts";
import { ImageError } from "../../model/image/image.ts";
import { FileError } from "../../model/node/index.ts";
import { openOutput, runCli } from "../cli.ts";
import { tensorsOf } from "../checkpoint/tiny.ts";
import type { Whole } from "../checkpoint/tiny.ts";
import { hasFixtures } from "../fixtures.ts";
import { withoutTraining, writeGolden } from "../golden_folder.ts";
import type { GoldenChange, GoldenJson } from "../golden_folder.ts";
import { errorOf } from "../gpu.ts";
import { isLong } from "../long.ts";

const tiny = fileURLToPath(new URL("../../../shared/fixtures/tiny/", import.meta.url));
const temporary = mkdtempSync(join(tmpdir(), "janus-verify-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

/** What is computed of the fixtures: 37 rows. */
const COMPUTED = [
  ..."tokenizer.0 tokenizer.1 tokenizer.2 tokenizer.3 tokenizer.4 special_ids num_image_tokens".split(" "),
  ..."preprocess.pixels0 preprocess.pixels1 preprocess.pixels2 preprocess.pixels3".split(" "),
  ..."vision.pixels vision.last_hidden vision.aligned text.logits".split(" "),
  ..."und.input_ids und.attention_mask und.pixels und.last_logits und.logits_row1 und.greedy_ids und.greedy_text".split(
    " ",
  ),
  ..."gen0.input_ids gen0.first_logits gen0.cfg_logits_first8 gen0.tokens gen0.pixels gen0.top2_margin_min".split(" "),
  ..."gen1.input_ids gen1.cfg_logits_first8 gen1.tokens gen1.pixels gen1.top2_margin_min".split(" "),
  ..."vq.z vq.codes vq.margin vq.reconstruction".split(" "),
];

/** Rows of training: 24 numbers of three steps and 4 of the whole stage; 13, 13 and 80 gradients; 2, 3 and 3 parameters after the steps. */
const TRAINED = [28 + 13 + 2, 28 + 13 + 3, 28 + 80 + 3];
const CHECKED = COMPUTED.length + 43 + 44 + 111;
const isTrained = ({ entry }: Comparison): boolean => /^train\d/.test(entry);

interface Run {
  readonly rows: readonly Comparison[];
  readonly text: string;
  readonly exitCode: number;
}

/** The command in this process, on a device of its own. */
async function runVerify(
  model: string,
  golden: string,
  json: boolean,
  open = (): Promise<Device> => Device.create({ poison: true }),
): Promise<Run> {
  const { out, text } = openOutput({ json });
  const context: Context = { out, stdin: process.stdin, signal: new AbortController().signal, exitCode: EXIT.done };
  await verify({ model, golden }, context, open);
  await out.flush();
  return {
    rows: json ? (JSON.parse(text.stdout) as { entries: Comparison[] }).entries : [],
    text: text.stdout,
    exitCode: context.exitCode,
  };
}

type Json = GoldenJson;

/** A copy of the fixtures' golden folder with its files changed. In the short form only the deepseek layout is checked with the rows of training. */
async function changed(change: GoldenChange): Promise<string> {
  const folder = mkdtempSync(join(temporary, "golden-"));
  await writeGolden(tiny, folder, change);
  return folder;
}

/** The values of a tensor, to be changed in place. */
const floats = ({ data }: Whole): Float32Array => new Float32Array(data.buffer, data.byteOffset, data.length / 4);
const integers = ({ data }: Whole): Int32Array => new Int32Array(data.buffer, data.byteOffset, data.length / 4);
const failures = (rows: readonly Comparison[]): string[] =>
  rows.filter(({ pass }) => pass === false).map(({ entry }) => entry);

describe.skipIf(!hasFixtures)("the fixtures", () => {
  // The command line below takes the other layout.
  it.each(isLong ? ["hf", "deepseek"] : ["deepseek"])("%s layout: all 235 computed rows pass", async (layout) => {
    const { rows, exitCode } = await runVerify(join(tiny, layout), tiny, true);
    expect(failures(rows)).toEqual([]);
    expect(
      rows
        .filter((row) => row.pass && !isTrained(row))
        .map(({ entry }) => entry)
        .sort(),
    ).toEqual([...COMPUTED].sort());
    expect(COMPUTED.length).toBe(37);
    const trained = rows.filter(isTrained);
    expect(trained.every(({ pass }) => pass)).toBe(true);
    expect([1, 2, 3].map((s) => trained.filter(({ entry }) => entry.startsWith(`train${s}.`)).length)).toEqual(TRAINED);
    expect(exitCode).toBe(EXIT.done);
    const rest = rows.filter(({ pass }) => pass === null);
    expect(rest.map(({ entry, note }) => `${entry}: ${note}`)).toEqual([
      "text.input_ids: input",
      "kind: input",
      "train_rows: input",
    ]);
    const keys = new Set(
      rows.map((row) =>
        Object.keys(row)
          .filter((key) => key !== "note")
          .join(),
      ),
    );
    expect([...keys]).toEqual(["entry,shape,maxAbs,relativeL2,equalShare,pass"]);
    expect(rows.find(({ entry }) => entry === "preprocess.pixels1")).toMatchObject({
      shape: [3, 64, 64],
      maxAbs: 0,
      relativeL2: 0,
      equalShare: null,
    });
    expect(rows.map(({ entry }) => entry)).toContain("train2.loss.gen.step3");
    // Every tensor of the file has its row, and none has two.
    const names = [...(await tensorsOf(new Uint8Array(readFileSync(join(tiny, "golden.safetensors"))))).keys()];
    for (const name of names)
      expect(
        rows.filter(({ entry }) => entry === name),
        name,
      ).toHaveLength(1);
  });

  it("by the command line: one JSON object on stdout", async () => {
    // The short form leaves drawing and answering to the other tests, which do both layouts in this process.
    const isKept = (entry: string): boolean => !/^(gen\d|vq|und)/.test(entry);
    const few = (tensors: Map<string, Whole>, all: Json): void => {
      withoutTraining(tensors, all);
      for (const name of tensors.keys()) if (!isKept(name)) tensors.delete(name);
      for (const name of Object.keys(all)) if (!isKept(name)) delete all[name];
    };
    const golden = isLong ? tiny : await changed(few);
    const args = ["verify", "--model", join(tiny, "hf"), "--golden", golden, "--dtype", "f32", "--json"];
    const { code, stdout, stderr } = await runCli(args);
    expect(code, stderr).toBe(EXIT.done);
    const result = JSON.parse(stdout) as { entries: Comparison[] };
    expect(Object.keys(result)).toEqual(["entries"]);
    const count = isLong ? CHECKED : COMPUTED.filter(isKept).length;
    expect(result.entries.filter(({ pass }) => pass)).toHaveLength(count);
  });
});

describe.skipIf(!hasFixtures)("a golden folder that is wrong", () => {
  it("fails in the rows that are wrong, and in what is computed from them", async () => {
    const folder = await changed((tensors, json) => {
      if (!isLong) withoutTraining(tensors, json);
      const at = (name: string): Whole => tensors.get(name)!;
      floats(at("text.logits"))[5]! += 0.01;
      floats(at("preprocess.pixels2"))[77]! -= 0.01;
      floats(at("vq.z"))[9] = NaN;
      const answer = integers(at("und.greedy_ids"));
      answer[23]! = (answer[23]! + 1) % 680;
      const drawing = integers(at("gen1.tokens"));
      drawing[40]! = (drawing[40]! + 1) % 256;
      at("vision.aligned").shape = [4, 128, 64];
      tensors.set("und.logits_row7", { ...at("und.logits_row1"), name: "und.logits_row7" });
      tensors.set("mystery", { ...at("text.input_ids"), name: "mystery" });
      json.riddle = 1;
      (json.tokenizer as { ids: number[] }[])[1]!.ids.push(1);
      (json.und_greedy_text as string[])[0] += "!";
    });
    const { rows, exitCode } = await runVerify(join(tiny, "hf"), folder, true);
    const row = (entry: string): Comparison => rows.find((one) => one.entry === entry)!;
    // gen1's picture and smallest margin are computed from its tokens.
    expect(failures(rows).sort()).toEqual(
      [
        "gen1.pixels",
        "gen1.tokens",
        "preprocess.pixels2",
        "text.logits",
        "tokenizer.1",
        "und.greedy_ids",
        "und.greedy_text",
        "und.logits_row7",
        "vision.aligned",
        "vq.z",
      ].sort(),
    );
    expect(exitCode).toBe(EXIT.checkFailed);
    expect(row("text.logits").maxAbs).toBeCloseTo(0.01, 4);
    expect(row("vision.aligned").note).toBe("the shape is [4, 128, 64], computed is [4, 64, 128]");
    expect(row("vq.z").note).toBe("1 of 2048 values are not finite");
    expect(row("und.greedy_ids").equalShare).toBeCloseTo(47 / 48, 6);
    expect(row("und.greedy_ids").note).toBe("row 0 would take others at 23");
    expect(row("gen1.tokens").note).toMatch(/^would take others at 40/);
    expect(row("und.logits_row7").note).toBe("there are 2 questions; rows count from 0");
    for (const entry of ["mystery", 'golden.json "riddle"'])
      expect(row(entry)).toMatchObject({ pass: null, note: "not known" });
    expect(rows.filter(({ pass }) => pass)).toHaveLength((isLong ? CHECKED : COMPUTED.length) - 9);
  });

  it("inputs that cannot be used fail the rows that need them; the table says which", async () => {
    const folder = await changed((tensors, json) => {
      integers(tensors.get("und.attention_mask")!)[5] = 0; // a hole
      integers(tensors.get("gen0.input_ids")!)[3] = 5000;
      integers(tensors.get("text.input_ids")!)[0] = -1;
      for (const name of tensors.keys())
        if (name.startsWith("train") || /^(vq|vision|gen1)\./.test(name)) tensors.delete(name);
      json.train = {
        1: { lr: 1, betas: [0.9, 0.95], eps: 1e-8, clip: 1, steps: [{ loss: 1 }], final_loss: 1 },
        2: { lr: 0, betas: [0.9, 0.95], eps: 1e-8, clip: 1, note: "none" },
      };
      delete json.gen1_top2_margin_min;
    });
    const { text, exitCode } = await runVerify(join(tiny, "hf"), folder, false);
    expect(exitCode).toBe(EXIT.checkFailed);
    expect(text).toMatch(
      /^text\.logits .* FAIL {2}cannot be computed: text\.input_ids holds -1; whole numbers from 0 to 1279$/m,
    );
    expect(text).toMatch(/^gen0\.tokens .* FAIL {2}cannot be computed: gen0\.input_ids holds 5000/m);
    expect(text).toMatch(/^gen0\.pixels .* pass$/m);
    expect(text).toMatch(/^train1\.\* +3 values +FAIL +2 fail, which follow$/m);
    expect(text).toMatch(/^train1\.final_loss .* FAIL$/m);
    expect(text).toMatch(/^train1\.loss\.step1 .* FAIL$/m);
    expect(text).not.toMatch(/^train1\.frozen/m);
    expect(text).toMatch(/^train2\.\* +1 values +pass$/m);
    expect(text).toMatch(/^train2\.note +- +not known$/m);
    expect(text).toMatch(/^und\.pixels .* pass {2}of image 0, 1$/m);
    expect(text).toMatch(/\nFAIL: \d+ values checked, \d+ pass, \d+ fail; \d+ not computed\n$/);
  });

  const never = (): Promise<Device> => expect.fail("the device was opened");
  it.each<
    [
      string,
      (tensors: Map<string, Whole>, json: Json) => void,
      ((folder: string) => void) | null,
      abstract new (...args: never[]) => Error,
      RegExp,
    ]
  >([
    ["no such folder", () => undefined, (f) => rmSync(f, { recursive: true }), FileError, /does not exist/],
    ["no golden.json", () => undefined, (f) => rmSync(join(f, "golden.json")), GoldenError, /there is no golden\.json/],
    [
      "no golden.safetensors",
      () => undefined,
      (f) => rmSync(join(f, "golden.safetensors")),
      GoldenError,
      /there is no golden\.safetensors/,
    ],
    [
      "a picture is missing",
      () => undefined,
      (f) => rmSync(join(f, "image2.png")),
      GoldenError,
      /no image2\.png, of which .* preprocess\.pixels2/,
    ],
    [
      "a picture is damaged",
      () => undefined,
      (f) => writeFileSync(join(f, "image1.png"), "no picture"),
      ImageError,
      /image1\.png is not an image/,
    ],
    [
      "JSON cut off",
      () => undefined,
      (f) => writeFileSync(join(f, "golden.json"), '{"kind":'),
      JsonError,
      /ends early/,
    ],
    [
      "tensors cut off",
      () => undefined,
      (f) =>
        writeFileSync(join(f, "golden.safetensors"), readFileSync(join(f, "golden.safetensors")).subarray(0, 5000000)),
      SafetensorsError,
      /the tensors end at byte/,
    ],
    [
      "an id that is a text",
      (_, json) => ((json.tokenizer as Json[])[2]!.ids = [1, "2"]),
      null,
      GoldenError,
      /tokenizer\[2\]\.ids\[1\] is not a whole number/,
    ],
    [
      "prompts that are no list",
      (_, json) => (json.generate_prompts = "red"),
      null,
      GoldenError,
      /generate_prompts is not a list/,
    ],
    [
      "of another model",
      (_, json) => (json.num_image_tokens = 576),
      null,
      GoldenError,
      /num_image_tokens is 576, but images of this model have 64/,
    ],
    [
      "a learning rate that is a text",
      (_, json) => ((json.train as Record<string, Json>)["2"]!.lr = "1e-4"),
      null,
      GoldenError,
      /train\.2\.lr is not a number/,
    ],
    [
      "no bound of the gradients' norm",
      (_, json) => delete (json.train as Record<string, Json>)["1"]!.clip,
      null,
      GoldenError,
      /train\.1\.clip is not a number/,
    ],
    [
      "one beta",
      (_, json) => ((json.train as Record<string, Json>)["1"]!.betas = [0.9]),
      null,
      GoldenError,
      /train\.1\.betas is not a pair/,
    ],
    [
      "a row of another task",
      (_, json) => ((json.train_rows as Json[])[1]!.task = "audio"),
      null,
      GoldenError,
      /train_rows\[1\]\.task is not one of und, text, gen/,
    ],
    [
      "nothing to compute",
      (tensors, json) => {
        tensors.clear();
        delete json.tokenizer;
        delete json.train;
      },
      null,
      GoldenError,
      /no entry that is computed/,
    ],
  ])("%s: a clear error before the device is opened", async (_, change, after, kind, message) => {
    const folder = await changed(change);
    after?.(folder);
    const error = await errorOf(() => runVerify(join(tiny, "hf"), folder, true, never));
    expect(error).toBeInstanceOf(kind);
    expect(error.message).toMatch(message);
  });
});
