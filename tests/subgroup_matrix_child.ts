/**
 * Run by scripts/test_subgroup_matrix.mjs, once a subgroup size: forces the kernels on subgroup matrices on the rows of the table of cases that
 * they compute, with operands in f16, and prints what it found as one line of JSON. `--probe` multiplies two matrices and nothing
 * else: a driver whose subgroup matrices crash is not our kernels' failure. Other arguments: a regular expression that names of rows must match.
 */
import "./quick_compile.ts";
import { Device, F, tensor } from "../index.ts";
import type { HostArray, Launch, Tensor } from "../index.ts";
import { isFloat } from "../engine/index.ts";
import { forceVariant } from "../kernels/core/variants.ts";
import { families } from "./cases.ts";
import { row as attentionRow } from "./cases/attention.ts";
import { caseName, runCase } from "./harness.ts";
import type { Case } from "./harness.ts";
import { conv2dRef } from "./reference/image.ts";
import { runOnNull } from "./null_runs.ts";
import { bareProduct } from "./subgroup_matrix_probe.ts";
import { randomFrom } from "./random.ts";

type Force = NonNullable<Case["variants"]>[number];

/** The variants that are forced on the rows of an op. */
const FORCED: Readonly<Record<string, readonly Force[]>> = {
  matmul: ["subgroup-matrix", "subgroup-matrix-128", "subgroup-matrix-turned"].map((name) => ({
    family: "matmul",
    name,
  })),
  linear: [{ family: "matmul", name: "subgroup-matrix" }],
  gemm: [{ family: "matmul", name: "subgroup-matrix" }],
  attention: ["subgroup-matrix", "subgroup-matrix-held"].map((name) => ({ family: "attention", name })),
  conv2d: [
    { family: "conv2d", name: "subgroup-matrix" },
    { family: "matmul", name: "subgroup-matrix" },
  ],
};

/** Rows for what the table has no other use for: maxima of scores that grow from tile to tile, heads in two slices, a wide convolution. */
const MORE: readonly Case[] = [
  attentionRow({ sizes: [1, 2, 1, 40, 130, 32], range: 6 }),
  attentionRow({ sizes: [1, 2, 1, 70, 70, 96], causal: true }),
  {
    op: "conv2d",
    note: "many channels",
    inputs: [{ shape: [2, 5, 9, 10] }, { shape: [100, 5, 3, 3] }, { shape: [100] }],
    run: ([x, weight, bias]) => F.conv2d(x!, weight!, bias!, { padding: 1 }),
    reference: ([x, weight, bias]) => conv2dRef(x!, weight!, bias!, 1, [1, 1, 1, 1]),
    terms: 180,
  },
];

const seed = Number(process.env["JANUS_TEST_SEED"] ?? 1);

/** The row with the operands of its products in f16: q, k and v, or the first two. Words of quantised weights stay. */
const inHalf = (row: Case): Case => ({
  ...row,
  inputs: row.inputs.map((input, i) =>
    i < (row.op === "attention" ? 3 : 2) && isFloat(input.dtype ?? "f32") ? { ...input, dtype: "f16" } : input,
  ),
});

/** Names of the kernels on subgroup matrices among a row's launches. */
function matrixKernels(row: Case, paper: Device, force: Force): string[] {
  const names = new Set<string>();
  const listener = ({ pipeline: { kernel } }: Launch): void => {
    if (kernel.name.includes("subgroup_matrix")) names.add(kernel.name);
  };
  paper.onLaunch(listener);
  try {
    runOnNull(row, paper, force);
  } finally {
    paper.offLaunch(listener);
  }
  return [...names];
}

const matmulForced = (a: Tensor, b: Tensor, name = "subgroup-matrix"): Tensor =>
  forceVariant("matmul", name, () => F.matmul(a, b, { dtype: "f32" }));
const attentionForced = (q: Tensor): Tensor =>
  forceVariant("attention", "subgroup-matrix", () => F.attention(q, q, q, { causal: true }));

/** What holds beside the values: the same bits twice and for a row in any number of rows, and NaN in the rows that it goes into. */
async function brokenProperties(device: Device): Promise<string[]> {
  const [rows, terms, columns] = [100, 68, 72];
  const random = randomFrom(seed);
  const values = (n: number): Float64Array => Float64Array.from({ length: n }, () => random() * 2 - 1);
  const half = (data: Float64Array, shape: readonly number[]): Tensor => tensor(data, { shape, dtype: "f16", device });
  const [left, right] = [values(rows * terms), values(terms * columns)];
  const [a, b] = [half(left, [rows, terms]), half(right, [terms, columns])];
  const broken: string[] = [];
  const expectEqual = (what: string, x: HostArray, y: HostArray): void => {
    if (x.length !== y.length || x.some((v, i) => !Object.is(v, y[i]))) broken.push(what);
  };
  for (const name of ["subgroup-matrix", "subgroup-matrix-128", "subgroup-matrix-turned"]) {
    const whole = await matmulForced(a, b, name).data();
    expectEqual(`${name}: not the same bits twice`, whole, await matmulForced(a, b, name).data());
    const first = await matmulForced(a.slice(0, 0, 41), b, name).data();
    expectEqual(`${name}: a row's bits depend on the number of rows`, first, whole.slice(0, 41 * columns));
  }
  const isNaNRow = (y: HostArray, row: number, n: number): boolean =>
    y.slice(row * n, (row + 1) * n).every(Number.isNaN);
  const spoilt = await matmulForced(half(left.with(37 * terms + 5, NaN), [rows, terms]), b).data();
  for (let row = 0; row < rows; row++)
    if (isNaNRow(spoilt, row, columns) !== (row === 37))
      broken.push(`matmul: NaN in row 37, seen in row ${row} of the result`);
  const [tokens, d] = [70, 32];
  const heads = values(tokens * d);
  const attended = await attentionForced(half(heads.with(50 * d + 3, NaN), [1, 1, tokens, d])).data();
  for (let row = 0; row < tokens; row++)
    if (isNaNRow(attended, row, d) !== row >= 50) broken.push(`attention: NaN in token 50, row ${row} of the result`);
  const q = half(heads, [1, 1, tokens, d]);
  expectEqual("attention: not the same bits twice", await attentionForced(q).data(), await attentionForced(q).data());
  return broken;
}

/** Held rows of large heads: software Vulkan compiles what is written out for minutes. */
const isTooLarge = ({ inputs }: Case, { name }: Force): boolean =>
  name === "subgroup-matrix-held" && inputs[0]!.shape.at(-1)! > 32;

async function runRows(device: Device, only: RegExp): Promise<object> {
  const paper = await Device.create({ backend: "null", capabilities: device.capabilities });
  const limits = { maxStorageBufferBindingSize: 4096, minStorageBufferOffsetAlignment: 256 };
  const small = await Device.create({ poison: true, limits });
  const ops: Record<string, { rows: number; passed: number; checks: number }> = {};
  const [kernels, problems] = [new Set<string>(), new Array<string>()];
  const ours = [...Object.values(families).flat(), ...MORE].filter(({ op }) => op in FORCED).map(inHalf);
  const rows = new Map(ours.map((row) => [caseName(row), row]));
  for (const [name, row] of rows)
    for (const force of FORCED[row.op] ?? []) {
      if (!only.test(name) || isTooLarge(row, force)) continue;
      const launched = matrixKernels(row, paper, force);
      if (launched.length === 0) continue;
      const count = (ops[`${row.op} (${force.family} ${force.name})`] ??= { rows: 0, passed: 0, checks: 0 });
      const results = [await runCase(row, device, seed, force)];
      if (row.windows) results.push(await runCase(row, small, seed, force));
      await device.sync();
      await small.sync();
      const failures = results.flatMap((result) => result.failures);
      count.rows++;
      if (failures.length === 0) count.passed++;
      for (const { checks } of results) count.checks += checks;
      for (const kernel of launched) kernels.add(kernel);
      problems.push(...failures.map((text) => `${name} (${force.name}), seed ${seed}: ${text}`));
    }
  problems.push(...(await brokenProperties(device)));
  const sum = (key: "rows" | "passed"): number => Object.values(ops).reduce((total, op) => total + op[key], 0);
  return { ops, rows: sum("rows"), passed: sum("passed"), kernels: [...kernels].toSorted(), problems };
}

const device = await Device.create({ poison: true });
const { name: adapter, subgroups, subgroupMatrix } = device.capabilities;
const usable = subgroupMatrix.filter((c) => c.componentType === "f16" && c.resultComponentType === "f32");
const configs = usable.map((c) => `${c.M}×${c.N}×${c.K} f16→f32`).join(", ");
const args = process.argv.slice(2);
const found = args.includes("--probe")
  ? { wrong: usable[0] ? !(await bareProduct(device, usable[0])) : false }
  : await runRows(device, new RegExp(args[0] ?? ""));
console.log(JSON.stringify({ adapter, subgroups, configs, ...found }));
process.exit(0); // devices are many and some drivers are slow to end
