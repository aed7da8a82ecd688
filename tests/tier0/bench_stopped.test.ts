/** A run of the bench that is stopped or fails keeps what it has measured. */
import { afterEach, beforeEach, expect, it } from "vitest";
import { runBench } from "../../bench/bench.ts";
import type { BenchOptions, Measurement } from "../../bench/bench.ts";
import { fromJsonLines, toJsonLines } from "../../bench/files.ts";
import { measureJobs } from "../../bench/measure.ts";
import type { Job } from "../../bench/measure.ts";
import { markdownReport, textReport } from "../../bench/reports.ts";
import type { Results } from "../../bench/results.ts";
import { Device } from "../../index.ts";

let device: Device;
beforeEach(async () => {
  device = await Device.create({ backend: "null" });
});
afterEach(() => device.destroy());

const job = (name: string, eager: () => unknown = () => undefined): Job => ({
  name,
  op: "none",
  set: "table",
  dtype: "f32",
  launches: 1,
  flops: 1,
  bytes: 1,
  eager,
  replay: null,
  [Symbol.dispose]: () => undefined,
});

/** Runs a measurement to its error; what was reported last, if anything. */
async function stopped(measurement: Measurement, rest: Partial<BenchOptions> = {}): Promise<[unknown, Results[]]> {
  const reported: Results[] = [];
  const options = { filter: {}, isCold: false, failAbove: null, rounds: 4, seconds: 0.01, seed: 1 };
  const error = await runBench("kernels", device, measurement, {
    ...options,
    ...rest,
    onResults: (results) => reported.push(structuredClone(results)),
  }).catch((thrown: unknown) => thrown);
  return [error, reported];
}

it("rows have the rounds so far", async () => {
  const controller = new AbortController();
  const error = new Error("stopped by SIGTERM");
  const measurement: Measurement = async (_, probes, options) => {
    const onProgress = (done: number): void => (done === 4 ? controller.abort(error) : undefined);
    const rows = await measureJobs(device, [job("a"), job("b")], probes, { ...options, onProgress });
    return { rows, wrong: [] };
  };
  const [thrown, reported] = await stopped(measurement, { signal: controller.signal });
  expect(thrown).toBe(error);
  const last = reported.at(-1)!;
  expect(last.run.incomplete).toBe("stopped by SIGTERM");
  // The abort comes while the third round of "a" is measured.
  expect(last.rows.map(({ name, eager }) => [name, eager.rounds.length])).toEqual([["a", 3], ["b", 2]]); // prettier-ignore
  const read = fromJsonLines(toJsonLines(last), "file");
  expect([read.run.incomplete, read.rows]).toEqual([last.run.incomplete, last.rows]);
  for (const text of [textReport(last), markdownReport(last)])
    expect(text).toContain("INCOMPLETE, rows or rounds are missing: stopped by SIGTERM");
});

it("rows that are done are reported at once, wrong ones too, and a later group may fail", async () => {
  const fail = (): never => {
    throw new Error("the device is lost\nat once");
  };
  const measurement: Measurement = async (_, probes, options) => {
    options.onRow?.({ kind: "wrong", name: "w", reasons: ["far off"] });
    await measureJobs(device, [job("a")], probes, options);
    const rows = await measureJobs(device, [job("b"), job("c", fail)], probes, options);
    return { rows, wrong: [] };
  };
  const [thrown, reported] = await stopped(measurement);
  expect(String(thrown)).toMatch(/device is lost/);
  expect(reported.map(({ rows, wrong }) => [rows.length, wrong.length])).toEqual([[0, 1], [1, 1], [1, 1]]); // prettier-ignore
  expect(reported.map(({ run }) => run.incomplete)).toEqual([
    "the run had not ended",
    "the run had not ended",
    "the device is lost",
  ]);
});

it("nothing is reported if nothing was measured", async () => {
  const [thrown, reported] = await stopped(() => Promise.reject(new Error("refused")));
  expect([String(thrown), reported]).toEqual(["Error: refused", []]);
});
