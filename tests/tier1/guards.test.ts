/** Kernels read and write nothing outside of their bindings, which `Device.create({ boundsChecks: false })` relies on. */
import "../quick_compile.ts";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Device, F, backward, isFloat, kernel, launch, loadKernels, scope, tensor } from "../../index.ts";
import type { Tensor } from "../../index.ts";
import { forceVariant } from "../../kernels/core/variants.ts";
import { cases } from "../cases.ts";
import { NAN_PATTERN, broken, guard, setPattern } from "../guards.ts";
import { caseName, makeInput } from "../harness.ts";
import type { Case } from "../harness.ts";
import { isLong } from "../long.ts";

let device: Device;

const outside = kernel(
  "guards_outside",
  `struct Params { read: u32, write: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(2) var<uniform> params: Params;
@compute @workgroup_size(1)
fn guards_outside() { y[params.write] = x[params.read]; }`,
  { x: "read", y: "write" },
  { read: "u32", write: "u32" },
);

beforeAll(async () => {
  await guard();
  await loadKernels();
  device = await Device.create({ poison: true });
});
afterAll(() => device.destroy());

/** What a row computes, forward and backward, in bits; buffers are new ones with `word` behind them. */
async function bitsOf(row: Case, word: number, force?: { family: string; name: string }): Promise<string[]> {
  device.pool.trim();
  setPattern(word);
  const inputs = row.inputs.map((input) => makeInput(input, device, 1));
  const made: Tensor[] = [];
  const run = (): void => {
    scope(() => {
      if (row.gradient !== false) for (const t of inputs) if (isFloat(t.dtype)) t.requiresGrad = true;
      const y = row.run(inputs);
      if (y.requiresGrad && y.size > 0) backward(y, F.ones(y.shape, { dtype: y.dtype, device }));
      made.push(y.escape());
    });
  };
  try {
    if (force) forceVariant(force.family, force.name, run);
    else run();
    const results = [...made, ...inputs.flatMap((t) => (t.grad ? [t.grad] : []))];
    const bits = [];
    for (const t of results) bits.push(Buffer.from((await t.data()).buffer as ArrayBuffer).toString("base64"));
    return [...bits, ...(await broken(device))];
  } finally {
    for (const t of made) t.dispose();
    for (const t of inputs) {
      t.grad?.dispose();
      t.dispose();
    }
  }
}

it.each([
  ["one vector", 4, 0],
  ["far", 1 << 20, 0],
  ["before the first vector", 2 ** 32 - 1, 0],
])("a read %s outside is seen", async (_, read) => {
  const results = [];
  for (const word of [NAN_PATTERN, 0]) {
    device.pool.trim();
    setPattern(word);
    using x = tensor(new Float32Array(16), { device });
    using y = F.full([16], 0, { device });
    launch(outside, { buffers: { x, y }, params: { read, write: 0 }, grid: [1, 1, 1] });
    results.push((await y.data())[0]!);
  }
  expect(results).toEqual([NaN, 0]);
});

it.each([4, 1 << 20, 2 ** 32 - 1])("a write to vector %s is seen", async (write) => {
  device.pool.trim();
  setPattern(0);
  using x = tensor(new Float32Array(16).fill(1), { device });
  using y = F.full([16], 0, { device });
  launch(outside, { buffers: { x, y }, params: { read: 0, write }, grid: [1, 1, 1] });
  await device.sync();
  expect(await broken(device)).toHaveLength(1);
});

/** Rows of the table, each with the variants it has: in the short form a spread of rows, with a variant each in turn. */
const STEP = isLong ? 1 : 131;
const rows = cases
  .filter((_, i) => i % STEP === 0)
  .flatMap((row, i) => {
    const variants = row.variants ?? [];
    const forced = isLong ? variants : variants.slice(i % Math.max(1, variants.length)).slice(0, 1);
    return [undefined, ...forced].map((force) => ({ row, force }));
  });

it("no row of the table of cases reads or writes outside of its bindings", async () => {
  const wrong: string[] = [];
  for (const { row, force } of rows) {
    const [nan, zero] = [await bitsOf(row, NAN_PATTERN, force), await bitsOf(row, 0, force)];
    const name = `${caseName(row)}${force ? ` (${force.family} ${force.name})` : ""}`;
    if (nan.some((bits, i) => bits !== zero[i])) wrong.push(`${name}: reads outside`);
    wrong.push(...[...nan, ...zero].filter((line) => line.startsWith("byte")).map((line) => `${name}: ${line}`));
  }
  expect(wrong).toEqual([]);
}, 3_600_000);
