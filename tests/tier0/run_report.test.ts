/** What a run writes down, and the page of a run folder: cut and damaged lines, empty and hostile folders, FLOPs on the null device. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { Device, backward, scope } from "../../engine/index.ts";
import type { Launch } from "../../engine/types.ts";
import { JANUS_TINY } from "../../model/janus/create.ts";
import { JanusForConditionalGeneration } from "../../model/janus/janus.ts";
import { FileError } from "../../model/node/files.ts";
import { encodePng } from "../../model/node/index.ts";
import { checkTokenizerConfig } from "../../train/config.ts";
import { CODES_LABEL } from "../../train/stage0/image_tokenizer.ts";
import { taskLosses, totalLoss } from "../../train/loss.ts";
import { RunCurves, readEvents, readLog, runReport } from "../../train/node/report/index.ts";
import type { LogLine } from "../../train/node/report/index.ts";
import { appendEvent, cutLog } from "../../train/node/report/log.ts";
import { Journal } from "../../train/node/report/journal.ts";
import { readSamples } from "../../train/node/report/samples.ts";
import { FlopMeter } from "../../train/node/report/speed.ts";
import { imageSample, layRows, textSample } from "../../train/samples.ts";
import { setStage } from "../../train/stages.ts";

const home = mkdtempSync(join(tmpdir(), "janus-report-"));
let run = "";
let runs = 0;
beforeEach(() => mkdirSync((run = join(home, `run${runs++}`))));
afterAll(() => rmSync(home, { recursive: true, force: true }));

const logOf = (text: string): void => writeFileSync(join(run, "log.jsonl"), text);
const line = (step: number): string => `{"step":${step},"loss":1.5}\n`;
const text = (): string => readFileSync(join(run, "log.jsonl"), "utf8");
const stepsOf = async (): Promise<number[]> => {
  const steps: number[] = [];
  for await (const { step } of readLog(run)) steps.push(step);
  return steps;
};

describe("the log", () => {
  it.each([
    ["nothing", "", 3, "", 0],
    ["fewer steps", line(0) + line(1), 3, line(0) + line(1), 0],
    ["later steps", line(0) + line(1) + line(2) + line(3), 2, line(0) + line(1), 2],
    ["steps out of order", line(0) + line(2) + line(1), 2, line(0), 2],
    ["all of them", line(0) + line(1), 0, "", 2],
    ["a line that is cut off", `${line(0)}{"step":1,"lo`, 3, line(0), 0],
    ["a cut line behind later steps", `${line(0)}${line(1)}{"st`, 1, line(0), 1],
    ["a damaged line", `${line(0)}\0\0{\n${line(1)}`, 3, `${line(0)}\0\0{\n${line(1)}`, 0],
    ["letters of several bytes", `{"step":0,"loss":1,"a":"äß€"}\n${line(1)}`, 1, `{"step":0,"loss":1,"a":"äß€"}\n`, 1],
  ])("of a run that goes on is cut: %s", async (_, before, steps, after, cut) => {
    logOf(before);
    const seen: number[] = [];
    expect(await cutLog(run, steps, ({ step }) => seen.push(step))).toBe(cut);
    expect(text()).toBe(after);
    expect(seen).toEqual(await stepsOf());
  });

  it("of 20,000 lines is read over the ends of its chunks", async () => {
    logOf(Array.from({ length: 20_000 }, (_, step) => line(step)).join(""));
    expect(await stepsOf()).toEqual(Array.from({ length: 20_000 }, (_, step) => step));
    expect(await cutLog(run, 15_000, () => undefined)).toBe(5000);
    expect((await stepsOf()).at(-1)).toBe(14_999);
  });

  it("is not there before the first step", async () => {
    expect(await cutLog(run, 0, () => undefined)).toBe(0);
    expect([await stepsOf(), await readEvents(run)]).toEqual([[], []]);
  });

  it("is named where it is no file", async () => {
    mkdirSync(join(run, "log.jsonl"));
    const cut = cutLog(run, 0, () => undefined);
    await expect(cut).rejects.toThrow(FileError);
    await expect(cut).rejects.toThrow(/log\.jsonl/);
  });

  it("keeps its events, without one that was cut off", async () => {
    const event = { time: "2000-01-01T00:00:00.000Z", step: 5, kind: "save", text: "a" } as const;
    appendEvent(run, event);
    writeFileSync(join(run, "events.jsonl"), '{"time":', { flag: "a" });
    await cutLog(run, 0, () => undefined);
    appendEvent(run, { ...event, text: "b" });
    expect((await readEvents(run)).map((one) => one.text)).toEqual(["a", "b"]);
  });
});

describe("the page of a run", () => {
  const page = async (): Promise<string> => readFileSync(await runReport(run), "utf8");

  it("of an empty folder says that there is nothing yet", async () => {
    expect(await page()).toMatch(/0 steps · .*Loss by task: no values yet/s);
  });

  it("ends no run where it cannot be written, nor where the disk takes no note of that", async () => {
    mkdirSync(join(run, "events.jsonl"));
    const notices: string[] = [];
    const config = checkTokenizerConfig({
      stage: 0,
      steps: 2,
      batch: 1,
      optimizer: { lr: 1e-3 },
      report: { every: 1, reconstructions: 0 },
    });
    const journal = new Journal({ run, config, onNotice: (message) => notices.push(message) }, 1);
    await journal.write([], { isEnd: true }); // no picture is asked for
    expect(notices).toEqual([expect.stringMatching(/^the report could not be written: .*events\.jsonl/)]);
  });

  it("leaves out what lines lack: NaN written as null, tasks, whole fields", async () => {
    logOf(
      `{"step":0,"loss":null,"gradNorm":null,"tasks":{"und":{"loss":null,"tokens":3}}}\n{"step":1,"loss":2}\n[1]\n{"step":2}\n`,
    );
    const html = await page();
    expect(html).toMatch(/3 steps/);
    expect(html).not.toMatch(/NaN|undefined|null|Norm of the gradients/);
  });

  it("escapes what the folder holds, and shows a gap where a step lacks a prompt", async () => {
    const bad = `<img src=x onerror="alert(1)">`;
    appendEvent(run, { time: bad, step: 1, kind: "notice", text: bad, config: { [bad]: { a: [bad] } } });
    const how = { seed: 1, guidance: 5, temperature: 1, model: "m", tokenIds: [1] };
    const picture = { width: 1, height: 1, data: Uint8Array.of(1, 2, 3) };
    for (const [step, prompts] of [
      [2, [bad]],
      [10, [bad, "b"]],
    ] as const) {
      const folder = join(run, "samples", `step-${String(step).padStart(8, "0")}`);
      mkdirSync(folder, { recursive: true });
      for (const [i, prompt] of prompts.entries())
        writeFileSync(join(folder, `00${i}.png`), await encodePng(picture, { "janus-webgpu": JSON.stringify({ ...how, prompt }) })); // prettier-ignore
    }
    const html = await page();
    expect(html).not.toContain("<img src=x");
    expect(html.match(/<img\s+src="data:image\/png/g)).toHaveLength(3);
    expect(html.match(/alt="&lt;img src=x[^"]*, step 2, seed 1"/)).not.toBeNull();
  });

  it("shows samples of steps spread over the run, the first and the last of them included", async () => {
    for (let step = 1; step <= 30; step++) {
      const folder = join(run, "samples", `step-${String(step).padStart(8, "0")}`);
      mkdirSync(folder, { recursive: true });
      for (const name of ["000.png", "001.png"])
        writeFileSync(join(folder, name), await encodePng({ width: 1, height: 1, data: Uint8Array.of(1, 2, 3) }, { "janus-webgpu": '{"prompt":"a","seed":1,"guidance":5,"temperature":1,"model":"m","tokenIds":[]}' })); // prettier-ignore
    }
    const samples = await readSamples(run, 10);
    expect(samples.map(({ step }) => step)).toEqual([1, 8, 16, 23, 30]);
    expect(samples.every(({ pictures }) => pictures.length === 2)).toBe(true);
    expect((await readSamples(run, 1)).map(({ step }) => step)).toEqual([1, 30]);
  });

  it("has runs one after the other on one axis", async () => {
    const curves = new RunCurves();
    const add = (loss: number): void => {
      for (let step = 0; step < 10; step++) curves.add({ step, loss, tasks: { gen: { loss, tokens: 5 } } } as LogLine);
    };
    curves.begin("stage 1");
    add(9);
    curves.begin("stage 2");
    add(4);
    const [chart] = await curves.charts();
    expect(chart!.text).toContain("stage 1");
    expect(chart!.text).toContain("stage 2");
    const [wide] = chart!.text.split("</svg>");
    const rules = [...wide!.matchAll(/"rule mark" transform="translate\(([\d.]+),0\)"/g)];
    expect(rules.map(([, x]) => Math.round((Number(x) / 1120) * 19) + 1)).toEqual([1, 11]); // steps 1 and 11 of 20
    expect(curves.trained.gen).toBe(100);
  });
});

describe("the FLOPs of a step", () => {
  const flopsOf = async (stage: 1 | 2 | 3, recompute: boolean): Promise<{ counted: number; spent: number }> => {
    const device = await Device.create({ backend: "null" });
    try {
      const model = new JanusForConditionalGeneration(JANUS_TINY, { device, init: false });
      model.model.language_model.recompute = recompute;
      model.model.vision_model.encoder.recompute = recompute;
      setStage(model, stage);
      const ids = Array.from({ length: 100 }, (_, i) => i);
      const text = textSample("text", ids, ids);
      const side = JANUS_TINY.vision.imageSize;
      const placeholders = Array.from({ length: 64 }, () => 101);
      const und = textSample("und", [...placeholders, 1, 2], [...placeholders.map(() => -100), 1, 2], [new Float32Array(3 * side * side)], 101); // prettier-ignore
      const batch = layRows([[text, imageSample([1, 2, 3], ids.slice(0, 64)), und]], 300, 0, 64);
      const meter = new FlopMeter(device);
      let spent = 0;
      device.onLaunch(({ cost }) => (spent += cost?.flops ?? 0));
      meter.start();
      scope(() => backward(totalLoss(taskLosses(model, batch, side), 160)!));
      return { counted: meter.stop(), spent };
    } finally {
      device.destroy();
    }
  };

  it.each([1, 2, 3] as const)("of stage %i are the same where layers are computed twice", async (stage) => {
    const { counted, spent } = await flopsOf(stage, false);
    expect(spent).toBe(counted);
    const anew = await flopsOf(stage, true);
    expect(anew.counted).toBe(counted);
    expect(anew.spent).toBeGreaterThan(1.2 * counted);
  });

  it("are about 6 for each weight and token of what trains whole", async () => {
    const { hidden, intermediate, layers, heads, kvHeads, headDim } = JANUS_TINY.language;
    const weights = layers * (hidden * headDim * (2 * heads + 2 * kvHeads) + 3 * hidden * intermediate);
    const share = (await flopsOf(2, false)).counted / (6 * weights * 300);
    expect(share).toBeGreaterThan(1);
    expect(share).toBeLessThan(2); // attention, heads, the vision tower
  });

  it("leave out the codes of pictures, and what comes behind stop", () => {
    const listeners = new Set<(launch: Launch) => void>();
    const meter = new FlopMeter({
      onLaunch: (fn: (launch: Launch) => void) => listeners.add(fn),
      offLaunch: (fn: (launch: Launch) => void) => listeners.delete(fn),
    } as unknown as Device);
    const launch = (label: string): void => {
      for (const listener of listeners) listener({ label, cost: { flops: 5, bytes: 0 } } as Launch);
    };
    meter.start();
    for (const label of ["layers.0", "backward:layers.0/linear", `${CODES_LABEL}.encoder.conv_in`]) launch(label);
    expect(meter.stop()).toBe(10);
    launch("layers.0");
    expect([meter.stop(), listeners.size]).toEqual([10, 0]);
  });
});
