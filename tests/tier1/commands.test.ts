/** `janus generate`, `ask`, `chat` and `reconstruct` as they are typed, on the tiny fixture: results, files, interruptions, refusals. */
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { addAsk } from "../../cli/ask.ts";
import { addReconstruct } from "../../cli/reconstruct.ts";
import { EXIT } from "../../cli/errors.ts";
import { addGenerate } from "../../cli/generate.ts";
import { writeNewFile } from "../../model/node/files.ts";
import { encodePng, readImage, readPicture } from "../../model/janus/node/index.ts";
import type { CliResult } from "../cli.ts";
import { runCli, runHere, startCli } from "../cli.ts";
import { hasFixtures } from "../fixtures.ts";

const fixture = (path: string): string =>
  fileURLToPath(new URL(`../../../shared/fixtures/tiny/${path}`, import.meta.url));
const temporary = mkdtempSync(join(tmpdir(), "janus-commands-"));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));
let folders = 0;
const newFolder = (): string => {
  const folder = join(temporary, String(folders++));
  mkdirSync(folder);
  return folder;
};
const json = <T>({ stdout }: CliResult): T => JSON.parse(stdout) as T;
const MODEL = ["--model", fixture("hf")];

interface Generated {
  readonly images: { path: string; seed: number; tokenIds: number[] }[];
  readonly timings: Record<string, number>;
  readonly check?: {
    pass: boolean;
    sameModel: boolean;
    firstDifference: { index: number; inFile: number; drawn: number } | null;
  };
}

describe.skipIf(!hasFixtures)("generate", () => {
  it("writes pictures that say how they were made; --from decodes and --check draws them again", async () => {
    const out = newFolder();
    const result = await runHere(addGenerate, [
      "generate",
      "A red circle!",
      ...MODEL,
      "--n",
      "2",
      "--seed",
      "3",
      "--out",
      out,
      "--json",
    ]);
    expect(result.code, result.stderr).toBe(EXIT.done);
    const { images, timings } = json<Generated>(result);
    expect(images.map(({ path, seed }) => [path, seed])).toEqual(
      [3, 4].map((seed) => [join(out, `a-red-circle-${seed}.png`), seed]),
    );
    expect(Object.keys(timings)).toEqual(["loadMs", "sampleMs", "msPerToken", "decodeMs"]);
    expect(readdirSync(out).sort()).toEqual(["a-red-circle-3.png", "a-red-circle-4.png"]);
    const how = await readPicture(images[1]!.path);
    expect(how).toMatchObject({
      prompt: "A red circle!",
      seed: 4,
      guidance: 5,
      temperature: 1,
      tokenIds: images[1]!.tokenIds,
    });

    const again = await runHere(addGenerate, [
      "generate",
      "--from",
      images[1]!.path,
      "--check",
      "--model",
      fixture("deepseek"),
      "--out",
      out,
      "--json",
    ]);
    expect(again.code, again.stderr).toBe(EXIT.done);
    const checked = json<Generated>(again);
    expect(checked.check).toEqual({ pass: true, sameModel: true, firstDifference: null });
    expect(checked.images[0]!.path).toBe(join(out, "a-red-circle-4-decoded.png"));
    expect(await readImage(checked.images[0]!.path)).toEqual(await readImage(images[1]!.path));

    // One token changed: the check says which.
    const wrong = [...how.tokenIds];
    wrong[17] = (wrong[17]! + 1) % 256;
    const forged = join(out, "forged.png");
    writeFileSync(
      forged,
      await encodePng(await readImage(images[1]!.path), {
        "janus-webgpu": JSON.stringify({ ...how, model: "other", tokenIds: wrong }),
      }),
    );
    const failed = await runHere(addGenerate, [
      "generate",
      "--from",
      forged,
      "--check",
      ...MODEL,
      "--out",
      out,
      "--json",
    ]);
    expect(failed.code).toBe(EXIT.checkFailed);
    expect(json<Generated>(failed).check).toEqual({
      pass: false,
      sameModel: false,
      firstDifference: { index: 17, inFile: wrong[17], drawn: how.tokenIds[17] },
    });
    expect(failed.stderr).toMatch(/other weights/);
  });

  it("takes prompts from standard input and from a file, a line each", async () => {
    const out = newFolder();
    const list = join(out, "prompts.txt");
    writeFileSync(list, "\ufeffa circle\r\n\r\ntwo squares\n");
    const args = ["generate", ...MODEL, "--seed", "2", "--out", out, "--temperature", "0"];
    const result = await runHere(addGenerate, [...args, "--prompts", list, "--json"]);
    expect(result.code, result.stderr).toBe(EXIT.done);
    const { images } = json<{ images: { prompt: string; path: string; seed: number }[] }>(result);
    expect(images).toMatchObject([
      { prompt: "a circle", path: join(out, "a-circle-2.png"), seed: 2 },
      { prompt: "two squares", path: join(out, "two-squares-2.png"), seed: 2 },
    ]);
    const piped = await runCli([...args, "-"], { input: "a circle\n" });
    expect(piped.stdout).toBe(`${join(out, "a-circle-2-2.png")}\n`);
    expect(readFileSync(join(out, "a-circle-2-2.png"))).toEqual(readFileSync(join(out, "a-circle-2.png")));
  });

  it("--preview leaves no preview behind; options reach the sampler; a name that is taken is left alone", async () => {
    const out = newFolder();
    const args = [
      "generate",
      "x",
      ...MODEL,
      "--seed",
      "0",
      "--temperature",
      "0",
      "--cfg",
      "2",
      "--out",
      out,
      "--preview",
    ];
    const first = await runHere(addGenerate, args);
    expect([first.code, first.stdout]).toEqual([EXIT.done, `${join(out, "x-0.png")}\n`]);
    await runHere(addGenerate, args);
    expect(readdirSync(out).sort()).toEqual(["x-0-2.png", "x-0.png"]);
    expect(readFileSync(join(out, "x-0-2.png"))).toEqual(readFileSync(join(out, "x-0.png")));
    expect(await readPicture(join(out, "x-0.png"))).toMatchObject({ temperature: 0, guidance: 2 });
  });

  it("two runs in one folder take names of their own", async () => {
    const out = newFolder();
    const args = ["generate", "x", ...MODEL, "--seed", "0", "--out", out, "--json"];
    const paths = (await Promise.all([runCli(args), runCli(args)])).map(
      (result) => json<Generated>(result).images[0]!.path,
    );
    expect(paths.sort()).toEqual([join(out, "x-0-2.png"), join(out, "x-0.png")]);
    const contents = await Promise.all([1, 2, 3, 4].map((n) => writeNewFile(join(out, "one"), Uint8Array.of(n))));
    expect(contents.filter(Boolean)).toHaveLength(1);
    expect(readdirSync(out).sort()).toEqual(["one", "x-0-2.png", "x-0.png"]);
  });

  it("Ctrl-C ends it with 130 and leaves no file", async () => {
    const out = newFolder();
    const { child, result } = startCli(["generate", "a red circle", ...MODEL, "--n", "16", "--preview", "--out", out]);
    const watch = setInterval(() => {
      if (!readdirSync(out).some((name) => name.includes("preview"))) return;
      clearInterval(watch); // a second signal ends the process at once
      child.kill("SIGINT");
    }, 10);
    const { code, stdout, stderr } = await result;
    clearInterval(watch);
    expect([code, stdout]).toEqual([EXIT.interrupted, ""]);
    expect(stderr).toMatch(/interrupted/);
    expect(readdirSync(out)).toEqual([]);
  });

  const refused: [string, () => string[], number, RegExp][] = [
    ["no prompt", () => [], EXIT.usage, /janus generate "a red circle"/],
    ["an empty prompt", () => [" "], EXIT.input, /the prompt is empty/],
    ["an empty list of prompts", () => ["-"], EXIT.input, /standard input: at least one prompt/],
    [
      "a list of prompts that is not there",
      () => ["--prompts", "nowhere.txt"],
      EXIT.input,
      /nowhere\.txt does not exist/,
    ],
    ["two sources of prompts", () => ["x", "--prompts", "nowhere.txt"], EXIT.usage, /give one of the two/],
    ["--check without --from", () => ["x", "--check"], EXIT.usage, /--check needs --from/],
    ["a prompt beside --from", () => ["x", "--from", fixture("image0.png")], EXIT.usage, /give one of the two/],
    ["settings beside --from", () => ["--from", fixture("image0.png"), "--seed", "3"], EXIT.usage, /leave --seed out/],
    ["a prompt that names a picture", () => ["a <image_placeholder>"], EXIT.input, /names 1 image/],
    ["seeds beyond 32 bits", () => ["x", "--n", "2", "--seed", "4294967295"], EXIT.usage, /seed 4294967295 for 2 rows/],
    ["a file as folder", () => ["x", "--out", fixture("image0.png")], EXIT.input, /is a file, not a folder/],
    ["a picture of another maker", () => ["--from", fixture("image0.png")], EXIT.input, /does not say how it was made/],
    ["a folder that cannot be made", () => ["x", "--out", join(fixture("image0.png"), "y")], EXIT.input, /image0\.png/],
    ["--n 0", () => ["x", "--n", "0"], EXIT.usage, /--n.*whole number from 1 to 1024/],
    ["--top-p 0", () => ["x", "--top-p", "0"], EXIT.usage, /leaves no token/],
    ["an option nearly right", () => ["x", "--temprature", "1"], EXIT.usage, /did you mean --temperature/],
  ];
  it.each(refused)("refuses %s before it loads a model", async (_, args, code, message) => {
    const result = await runHere(addGenerate, ["generate", ...args(), ...MODEL]);
    expect(result.stderr).toMatch(message);
    expect([result.code, result.stdout]).toEqual([code, ""]);
    expect(result.stderr).not.toMatch(/software/); // the device was not opened
  });

  it("a folder that is something else is refused without opening the device", async () => {
    const result = await runHere(addAsk, ["ask", "hi", "--model", newFolder(), "--json"]);
    expect(result.code).toBe(EXIT.input);
    expect(json<{ error: { message: string } }>(result).error.message).toMatch(/no config\.json/);
    expect(result.stderr).not.toMatch(/software/);
  });
});

describe.skipIf(!hasFixtures)("ask", () => {
  it("streams the answer to stdout; --json gives one object", async () => {
    const args = ["ask", fixture("image1.png"), "What?", ...MODEL, "--system", "", "--max-new-tokens", "24"];
    const [plain, structured] = [await runCli(args), await runHere(addAsk, [...args, "--json"])];
    expect([plain.code, plain.stdout]).toEqual([
      EXIT.done,
      "bleX triangledu by triangle\ufffd\x14elpfu cirrch\ufffd是\ufffdfu\n",
    ]);
    const result = json<{
      text: string;
      tokenIds: number[];
      promptTokenIds: number[];
      timings: object;
      finish: string;
    }>(structured);
    expect(Object.keys(result)).toEqual(["text", "tokenIds", "promptTokenIds", "finish", "timings"]);
    expect([result.text, result.tokenIds.length, result.promptTokenIds.length]).toEqual([
      plain.stdout.slice(0, -1),
      24,
      78,
    ]);
    const stopped = json<{ text: string; finish: string }>(
      await runHere(addAsk, [...args, "--json", "--stop", "fu", "--stop", "never"]),
    );
    expect(stopped).toMatchObject({ text: "bleX triangledu by triangle\ufffd\x14elp", finish: "stop" });
  });

  const refused: [string, string[], number, RegExp][] = [
    ["an image without a question", [fixture("image1.png")], EXIT.usage, /The question comes after the images/],
    ["images alone", [fixture("image1.png"), fixture("image0.png")], EXIT.usage, /what about .*image0\.png\?/],
    [
      "a file that is no image as the question",
      [fixture("hf/config.json")],
      EXIT.input,
      /not an image of a known format/,
    ],
    ["a picture that is not there", ["nowhere.png", "What?"], EXIT.input, /nowhere\.png/],
    ["a file that is no picture", [fixture("hf/config.json"), "What?"], EXIT.input, /not an image of a known format/],
    [
      "a question without quotes",
      ["what", "is", "this"],
      EXIT.input,
      /there is no image what; images come first, then the question as one quoted argument/,
    ],
    [
      "the question first",
      ["What is it?", fixture("image1.png")],
      EXIT.input,
      /janus ask \S+image1\.png "What is it\?"/,
    ],
    ["an empty question", [""], EXIT.input, /the prompt is empty/],
    ["a temperature below 0", ["hi", "--temperature", "-1"], EXIT.usage, /--temperature/],
    [
      "drafts of sampled tokens",
      ["hi", "--prompt-lookup", "4", "--temperature", "1"],
      EXIT.usage,
      /--prompt-lookup needs --temperature 0/,
    ],
    [
      "a cache of another dtype",
      ["hi", "--kv-cache", "int4"],
      EXIT.usage,
      /'--kv-cache <dtype>' argument 'int4' is invalid/,
    ],
    ["a prompt beyond the context", ["word ".repeat(3000)], EXIT.input, /the context is limited to 1024/],
  ];
  it.each(refused)("refuses %s", async (_, args, code, message) => {
    const result = await runHere(addAsk, ["ask", ...args, ...MODEL]);
    expect(result.stderr).toMatch(message);
    expect([result.code, result.stdout.trim()]).toEqual([code, ""]);
  });
});

it.skipIf(!hasFixtures)(
  "ask drafts tokens and keeps a cache of int8, if told to; a command without a cache refuses that",
  async () => {
    const args = ["ask", "hi", "--max-new-tokens", "8", "--kv-cache", "int8", ...MODEL, "--json"];
    const [plain, drafted] = [await runHere(addAsk, args), await runHere(addAsk, [...args, "--prompt-lookup", "4"])];
    interface Printed {
      readonly tokenIds: readonly number[];
      readonly lookup?: { readonly steps: number; readonly accepted: number };
    }
    const [own, other] = [plain, drafted].map(({ stdout }) => JSON.parse(stdout) as Printed) as [Printed, Printed];
    expect([own.lookup, other.tokenIds]).toEqual([undefined, own.tokenIds]);
    expect(other.lookup!.steps + other.lookup!.accepted).toBeGreaterThanOrEqual(own.tokenIds.length - 1);
    expect(drafted.stderr).toMatch(/prompt lookup: \d+ of \d+ drafted tokens were right, in \d+ steps/);
    const refused = await runHere(addReconstruct, [
      "reconstruct",
      fixture("image1.png"),
      "--kv-cache",
      "int8",
      ...MODEL,
    ]);
    expect([refused.code, refused.stderr]).toEqual([EXIT.usage, expect.stringMatching(/unknown option '--kv-cache'/)]);
  },
);

it.skipIf(!hasFixtures)(
  "chat takes questions, pictures and commands from a pipe; a mistake does not end it",
  async () => {
    const out = newFolder();
    const lines = [
      `/image ${fixture("image1.png")}`,
      "What?",
      "/seed 7",
      "/imagine a red circle",
      "/seed x",
      "/imagine",
      "/image nowhere.png",
      "What is on it?",
      "/help",
      "/reset",
      "And now?",
      "/quit",
      "never read",
    ];
    const result = await runCli(["chat", ...MODEL, "--system", "", "--max-new-tokens", "6", "--out", out], {
      input: `${lines.join("\n")}\n`,
    });
    expect(result.code, result.stderr).toBe(EXIT.usage); // of the first mistake: a pipe has no reader for messages
    const said = result.stdout.trimEnd().split("\n");
    expect(said).toHaveLength(3);
    expect(said[0]).toMatch(/^bleX triangle/);
    expect(said[1]).toBe(join(out, "a-red-circle-7.png"));
    expect(readdirSync(out)).toEqual(["a-red-circle-7.png"]);
    for (const note of [
      /133 × 71; ask about it/,
      /seed 7,/,
      /\/seed: a whole number/,
      /not answered without the image nowhere\.png/,
      /the prompt is empty/,
      /nowhere\.png/,
      /\/imagine PROMPT/,
      /forgotten/,
    ])
      expect(result.stderr).toMatch(note);
  },
);

it.skipIf(!hasFixtures)("reconstruct gives tokens, PSNR and the picture", async () => {
  const out = newFolder();
  const result = await runCli(["reconstruct", fixture("image1.png"), ...MODEL, "--out", out, "--json"]);
  expect(result.code, result.stderr).toBe(EXIT.done);
  const { path, psnr, tokenIds } = json<{ path: string; psnr: number; tokenIds: number[] }>(result);
  expect([path, tokenIds.length]).toEqual([join(out, "image1-reconstructed.png"), 64]);
  expect(psnr).toBeGreaterThan(5);
  expect(await readImage(path)).toMatchObject({ width: 64, height: 64 });
});
