/** The examples learn what they state, and the same seed gives the same bits twice. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device } from "../../index.ts";
import type { nn } from "../../index.ts";
import { readPicture } from "../../model/janus/node/index.ts";
import { KIND_NAMES } from "../../examples/shapes/captions.ts";
import { readLog } from "../../train/node/report/index.ts";
import type { LogLine } from "../../train/node/report/index.ts";
import { hasFixtures } from "../fixtures.ts";
import { isLong } from "../long.ts";
import { trainConvNet } from "../../examples/conv_net.ts";
import { trainTransformer } from "../../examples/transformer.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create();
});
afterAll(() => device.destroy());

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

async function weights(model: nn.Module<never, unknown>): Promise<ArrayLike<number>[]> {
  const data = [];
  for (const parameter of model.parameters()) data.push(await parameter.data());
  return data;
}

it("the transformer learns its rule: mean loss of the last 20 of 130 steps below 0.05 (long: of 300)", async () => {
  const live = device.pool.stats.liveBytes;
  const { losses, model } = await trainTransformer(isLong ? {} : { steps: 130 });
  expect(losses[0]).toBeGreaterThan(2);
  expect(mean(losses.slice(-20))).toBeLessThan(0.05);
  model.dispose();
  expect(device.pool.stats.liveBytes).toBe(live);
});

it("the convolutional net distinguishes the shapes: mean loss of the last 20 of 120 steps below 0.1 (long: of 160)", async () => {
  const { losses, model } = await trainConvNet(isLong ? {} : { steps: 120 });
  expect(losses[0]).toBeGreaterThan(0.8);
  expect(mean(losses.slice(-20))).toBeLessThan(0.1);
  model.dispose();
});

it.each([
  ["transformer", () => trainTransformer({ steps: 4, seed: 7 })],
  ["convolutional net", () => trainConvNet({ steps: 4, seed: 7 })],
])("the same seed gives bit-equal weights twice: %s", async (_, train) => {
  const first = await train();
  const second = await train();
  expect(second.losses).toEqual(first.losses);
  expect(await weights(second.model)).toEqual(await weights(first.model));
  const other = await (_ === "transformer"
    ? trainTransformer({ steps: 1, seed: 8 })
    : trainConvNet({ steps: 1, seed: 8 }));
  expect(other.losses[0]).not.toBe(first.losses[0]);
  for (const run of [first, second, other]) run.model.dispose();
});

describe.skipIf(!hasFixtures)("the programs that use a checkpoint run as they are written", () => {
  const fixture = (path: string): string =>
    fileURLToPath(new URL(`../../../shared/fixtures/tiny/${path}`, import.meta.url));
  const run = (name: string, ...args: string[]): string => {
    const program = fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));
    const { status, stdout, stderr } = spawnSync(process.execPath, ["--import", "tsx", program, ...args], {
      encoding: "utf8",
    });
    expect(status, stderr).toBe(0);
    return stdout;
  };

  it("ask", () => {
    expect(run("ask.ts", fixture("hf"), fixture("image1.png"), "What?").length).toBeGreaterThan(10);
  });

  it("draw", async () => {
    const folder = mkdtempSync(join(tmpdir(), "janus-draw-"));
    run("draw.ts", fixture("deepseek"), "a red circle", folder);
    expect(readdirSync(folder).sort()).toEqual([0, 1, 2, 3].map((k) => `picture-${k}.png`));
    expect(await readPicture(join(folder, "picture-3.png"))).toMatchObject({ prompt: "a red circle", seed: 4 });
    rmSync(folder, { recursive: true });
  });

  it("hidden_states", () => {
    const lines = run("hidden_states.ts", fixture("hf"), "hello").trimEnd().split("\n");
    expect(lines).toHaveLength(4);
    for (const line of lines) expect(line).toMatch(/^".+" +\d+\.\d\d nats, expected "/);
  });
});

/** Mean of the kept model's nine rows, of 4 prompts or 4 to 20 questions each; README has them of 100 prompts and 250 questions. */
const KEPT_PERCENT = 60;

/** The recipe of the demo's run: each of its stages learns in the short one too, in a third of the time. */
const LENGTH = isLong ? "quick" : "smoke";

describe("the demo", () => {
  const program = fileURLToPath(new URL("../../examples/demo.ts", import.meta.url));
  const tsx = fileURLToPath(import.meta.resolve("tsx"));
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "janus-demo-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  const run = (...args: string[]): string => {
    const { status, stdout, stderr } = spawnSync(process.execPath, ["--import", tsx, program, ...args], {
      encoding: "utf8",
      cwd: folder,
    });
    expect(status, stderr).toBe(0);
    return stdout;
  };

  it("learns from random weights through every stage, judges, and writes its page", async () => {
    const stdout = run(`--${LENGTH}`);
    for (const stage of [0, 1, 2, 3]) expect(stdout).toMatch(new RegExp(`stage ${stage}: \\d+ steps`));
    const rows = stdout
      .split("\n")
      .flatMap((line) => [/^(\w[\w -]*?) +\d+ % +(\d+) %$/.exec(line) ?? []].filter(({ length }) => length > 0));
    expect(rows.map(([, kind]) => kind)).toEqual([
      ...Object.values(KIND_NAMES),
      "questions",
      "left of or not",
      "held-out questions",
    ]);
    // The second column is the model that the full recipe left, which comes with the package: it can do what it is asked for.
    const kept = rows.map(([, , percent]) => Number(percent));
    expect(kept.reduce((a, b) => a + b, 0) / kept.length).toBeGreaterThan(KEPT_PERCENT);
    // What is learned in so few steps: the losses are below those of random weights, ln of the vocabulary and of the codebook.
    const logOf = async (stage: number): Promise<LogLine[]> => {
      const log = [];
      for await (const line of readLog(join(folder, `demo/${LENGTH}/stage${stage}`))) log.push(line);
      return log;
    };
    const last = (await logOf(3)).at(-1)!;
    // The long form also learns this much within stage 3.
    for (const first of [(await logOf(1))[0]!, ...(isLong ? [(await logOf(3))[0]!] : [])])
      expect(last.tasks!.und!.loss!).toBeLessThan(0.6 * first.tasks!.und!.loss!);
    expect(last.tasks!.gen!.loss!).toBeLessThan(0.95 * Math.log(128));
    const tokenizer = await logOf(0);
    expect(tokenizer.at(-1)!.reconstruction!).toBeLessThan(0.6 * tokenizer[0]!.reconstruction!);
    const page = readFileSync(join(folder, `demo/${LENGTH}/report.html`), "utf8");
    expect(page.match(/<svg/g)!.length).toBeGreaterThanOrEqual(3);
    expect(page.match(/src="data:image\/png/g)!.length).toBeGreaterThan(30);
  });

  it("shows a given model", () => {
    expect(run("--model", join(folder, `demo/${LENGTH}/stage0/step-000000${isLong ? 24 : "06"}`), "--n", "2")).toMatch(
      /drew 2 images/,
    );
    expect(readdirSync(join(folder, "demo"))).toEqual(
      expect.arrayContaining(["picture-0.png", "picture-1.png", "pictures.png", "reconstruction.png"]),
    );
  });
});
