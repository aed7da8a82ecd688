/** The bench on a device: rows that are right are timed, wrong ones are reported instead. */
import { afterAll, beforeAll, expect, it } from "vitest";
import { benchKernels } from "../../bench/kernels.ts";
import type { Results } from "../../bench/results.ts";
import { exact } from "../../bench/rows/products.ts";
import type { Row } from "../../bench/rows/row.ts";
import { addBench } from "../../cli/bench.ts";
import { Device, F, setDevice } from "../../index.ts";
import { runHere } from "../cli.ts";

let device: Device;
beforeAll(async () => {
  device = await Device.create();
  setDevice(device);
});
afterAll(() => device.destroy());

const double = (name: string, factor: number): Row => ({
  name,
  op: "mul",
  set: "table",
  inputs: [{ shape: [33, 7] }, { shape: [33, 7] }],
  gradients: [0],
  run: ([x]) => [F.mul(x!, factor)],
  check: ([x, dy], [y, dx]) => [
    { name: "result", got: y!.data, expected: exact(x!).data.map((v) => 2 * v), terms: 1 },
    { name: "gradient", got: dx!.data, expected: exact(dy!).data.map((v) => 2 * v), terms: 1 },
  ],
});

it("times rows that are right, captured and cold too, and reports wrong ones", async () => {
  const live = device.pool.stats.liveBytes;
  const broken: Row = { ...double("throws", 2), run: () => { throw new Error("no kernel"); } }; // prettier-ignore
  const options = { rounds: 2, seconds: 0.02, seed: 1, coldBytes: 1e5 };
  const { rows, wrong } = await benchKernels(device, [double("right", 2), double("off", 2.01), broken], null, options);
  expect(rows.map(({ name }) => name)).toEqual(["right"]);
  expect(rows[0]).toMatchObject({ dtype: "f32", flags: expect.any(Array) as unknown });
  expect(rows[0]!.launches).toBeGreaterThan(1);
  for (const spread of [rows[0]!.eager, rows[0]!.captured!, rows[0]!.cold!]) expect(spread.medianMs).toBeGreaterThan(0);
  expect(wrong).toEqual([
    { kind: "wrong", name: "off", reasons: [expect.stringMatching(/^result: relative/), expect.stringMatching(/^gradient: relative/)] },
    { kind: "wrong", name: "throws", reasons: ["could not run: no kernel"] },
  ]); // prettier-ignore
  await device.sync();
  expect(device.pool.stats.liveBytes, "bytes left over").toBe(live);
});

it("janus bench kernels prints ceilings and rows as JSON", async () => {
  const args = ["bench", "kernels", "--filter", "sampleTokens", "--repeat", "1", "--seconds", "0.02", "--no-cold"];
  const { code, stdout } = await runHere(addBench, [...args, "--json"]);
  const { run, rows } = JSON.parse(stdout) as Results;
  expect([code, rows.map(({ name }) => name)]).toEqual([0, ["sampleTokens greedy 5×16384 f32"]]);
  for (const rate of [run.ceilings.gflops, run.ceilings.readGbs, run.ceilings.copyGbs]) expect(rate).toBeGreaterThan(0);
  expect(run.adapter.driver).not.toBe("");
});
