/**
 * Grids cover the results: what a workgroup of each kernel computes is written down here a second time, from the kernel's file, and compared with
 * the grids of launches by all variants of products, convolutions, attention and rows. A grid comes from the table of variants, and a variant that
 * is not the default on software Vulkan has few rows in the table of cases.
 */
import { afterAll, describe, expect, it } from "vitest";
import { Device, F, QuantizedWeight, backward, declaredKernels, empty, nullCapabilities, scope } from "../../index.ts";
import type { Capabilities, Constants, Launch, Tensor } from "../../index.ts";
import { DECODE_FAMILY } from "../../kernels/attention/attention_decode.ts";
import { ATTENTION_FAMILY } from "../../kernels/attention/variants.ts";
import { CONV_FAMILY } from "../../kernels/conv/variants.ts";
import { GROUP_NORM_FAMILY } from "../../kernels/norm/group_norm.ts";
import { ROW_FAMILIES } from "../../kernels/core/rows.ts";
import { forceVariant } from "../../kernels/core/variants.ts";
import { QUANTIZED_FAMILY } from "../../kernels/matmul/quantized_variants.ts";
import { MATMUL_FAMILY } from "../../kernels/matmul/variants.ts";
import { PROFILES } from "../null_runs.ts";

/** A device whose subgroup matrices take f16 and f32. */
const MATRICES: Capabilities = nullCapabilities({
  ...PROFILES["NVIDIA"],
  subgroupMatrix: ["f16", "f32"].map((componentType) => ({
    M: 16,
    N: 16,
    K: 16,
    componentType,
    resultComponentType: "f32",
  })),
});
const DEVICES = { ...PROFILES, "NVIDIA with matrices": MATRICES };

/** The parameters of a launch by name, those that are vectors by element (`size.1`), and its constants. */
type Numbers = Readonly<Record<string, number>>;
const ceil = (n: number, by: number): number => Math.ceil(n / by);

const pixels = (p: Numbers): number => p["out_height"]! * p["out_width"]!;
/** Tiles of 32 output channels, as the weight is packed. */
const tiles = (p: Numbers): number => ceil(p["o_end"]!, 32) - Math.floor(p["o_first"]! / 32);
const taps = (p: Numbers): number => p["channels"]! * p["kernel_height"]! * p["kernel_width"]!;
/** Tiles of attention along `tokens`: tensors here fit one launch. */
const heads = (p: Numbers, tokens: number, rows: number): number =>
  p["batch"]! * p["heads"]! * ceil(tokens, rows) * p["slices"]!;

/** Of each kernel: the workgroups along x and y, or along one flat dimension; a product's z is that of its batches. */
const GRIDS: Readonly<Record<string, (p: Numbers, c: Numbers) => readonly [number, number?]>> = {
  matmul_naive: (p) => [p["size.0"]!, ceil(p["size.1"]!, 256)],
  matmul_register: (p, c) => [ceil(p["size.0"]!, c["ROWS"]!), ceil(p["size.1"]!, 4 * c["WORKGROUP"]!)],
  matmul_vector: (p, c) => [ceil(p["size.0"]!, c["ROWS"]!), ceil(p["size.1"]!, (4 * c["WORKGROUP"]!) / c["LANES"]!)],
  matmul_tiled: (p, c) => [ceil(p["size.0"]!, 8 * c["ACROSS_M"]!), ceil(p["size.1"]!, 8 * c["ACROSS_N"]!)],
  matmul_quantized_register: (p, c) => [ceil(p["size.0"]!, c["ROWS"]!), ceil(p["size.1"]!, 4 * c["WORKGROUP"]!)],
  matmul_quantized_vector: (p, c) => [
    ceil(p["size.0"]!, c["ROWS"]!),
    ceil(p["size.1"]!, (4 * c["WORKGROUP"]!) / c["LANES"]!),
  ],
  matmul_quantized_backward: (p, c) => [ceil(p["size.0"]!, c["ROWS"]!), ceil(p["size.1"]!, 8 * c["WORKGROUP"]!)],
  matmul_subgroup_matrix: (p, c) => [ceil(p["size.0"]!, c["BM"]!), ceil(p["size.1"]!, c["BN"]!)],
  conv2d: (p, c) => [ceil(p["images"]! * (p["o_end"]! - p["o_first"]!) * (pixels(p) / c["stored"]!), 64)],
  conv2d_registers: (p) => [ceil(pixels(p), 8) * p["images"]! * tiles(p)],
  conv2d_3x3: (p, c) => [ceil(p["out_width"]!, 8) * ceil(p["out_height"]!, c["ROWS"]!) * p["images"]! * tiles(p)],
  conv2d_tiled: (p) => [ceil(pixels(p), 128) * p["images"]! * ceil(tiles(p), 2)],
  conv2d_subgroup_matrix: (p, c) => [ceil(pixels(p), 64) * p["images"]! * ceil(32 * tiles(p), c["OUTPUTS"]!)],
  conv2d_bias_backward: (p, c) => [ceil(p["rows"]! * c["LANES"]!, c["WORKGROUP"]!)],
  group_norm_whole: (p, c) => [ceil(p["rows"]! * c["LANES"]!, c["WORKGROUP"]!)],
  group_norm_whole_backward: (p, c) => [ceil((p["channels"]! / p["per_group"]!) * c["LANES"]!, c["WORKGROUP"]!)],
  conv2d_weight: (p) => [ceil(taps(p), 64) * ceil(p["outputs"]!, 8) * p["parts"]!],
  conv2d_weight_3x3: (p) => [ceil(p["channels"]!, 8) * ceil(p["outputs"]!, 16) * p["parts"]!],
  conv2d_winograd_input: (p) => [ceil(p["end"]! - p["first"]!, 32), ceil(p["channels"]!, 8)],
  conv2d_winograd_output: (p) => [ceil(p["end"]! - p["first"]!, 32), ceil(p["outputs"]!, 8)],
  conv2d_weight_tiled: (p) => [ceil(taps(p), 64) * ceil(p["outputs"]!, 64) * p["parts"]!],
  attention_naive: (p) => [ceil(p["batch"]! * p["heads"]! * p["queries"]!, 64)],
  attention_naive_query: (p) => [ceil(p["batch"]! * p["heads"]! * p["queries"]!, 64)],
  attention_naive_key: (p) => [ceil(p["batch"]! * p["heads"]! * p["keys"]!, 64)],
  attention_register: (p, c) => [ceil(heads(p, p["queries"]!, c["ROWS"]!) * c["LANES"]!, c["WORKGROUP"]!)],
  attention_register_query: (p, c) => [ceil(heads(p, p["queries"]!, c["ROWS"]!) * c["LANES"]!, c["WORKGROUP"]!)],
  attention_register_key: (p, c) => [ceil(heads(p, p["keys"]!, c["ROWS"]!) * c["LANES"]!, c["WORKGROUP"]!)],
  attention_tiled: (p) => [heads(p, p["queries"]!, 32)],
  attention_tiled_query: (p) => [heads(p, p["queries"]!, 32)],
  attention_tiled_key: (p) => [heads(p, p["keys"]!, 32)],
  attention_subgroup_matrix: (p, c) => [heads(p, p["queries"]!, (c["WORKGROUP"]! / c["LANES"]!) * c["CM"]!)],
  attention_subgroup_matrix_query: (p, c) => [heads(p, p["queries"]!, (c["WORKGROUP"]! / c["LANES"]!) * c["CM"]!)],
  attention_subgroup_matrix_key: (p, c) => [heads(p, p["keys"]!, (c["WORKGROUP"]! / c["LANES"]!) * c["CM"]!)],
  attention_decode: (p) => [p["rows"]! * ceil(p["capacity"]!, 64)],
  attention_decode_combine: (p) => [ceil(p["rows"]! * p["size.3"]!, 64)],
  softmax: (p, c) => [ceil(p["rows"]! * c["LANES"]!, c["WORKGROUP"]!)],
  softmax_backward: (p, c) => [ceil(p["rows"]! * c["LANES"]!, c["WORKGROUP"]!)],
  norm: (p, c) => [ceil(p["rows"]! * c["LANES"]!, c["WORKGROUP"]!)],
  norm_backward: (p, c) => [ceil(p["rows"]! * c["LANES"]!, c["WORKGROUP"]!)],
};

/** Kernels of these families that no variant chooses, or whose grid is not in their parameters. */
const OTHERS = [
  "attention_delta",
  "attention_mask",
  "conv2d_bias",
  "conv2d_pack",
  "conv2d_pack_both",
  "conv2d_winograd", // its grid is its size: no parameter has it
  "conv2d_winograd_weight",
  "group_norm",
  "group_norm_backward",
  "group_norm_finish",
  "group_norm_merge",
  "group_norm_stats",
  "group_norm_sums",
  "matmul_pack",
  "matmul_panels",
  "norm_weight_backward",
];

/** Of kernels that compute a part of a head: the granules of all parts. */
const PARTS: Readonly<Record<string, (c: Numbers) => number>> = {
  attention_register: (c) => c["CHUNKS"]! * c["LANES"]!,
  attention_tiled: (c) => 16 * (c["PARTS"] ?? 1),
  attention_subgroup_matrix: (c) => c["PART"]! / 4,
};

function paramsOf({ pipeline: { kernel }, params }: Launch): Numbers {
  const offsets = Object.entries(kernel.layout.offsets);
  return Object.fromEntries(
    offsets.flatMap(([name, at]) => [
      [name, params![at / 4]!] as const,
      ...(kernel.params[name] === "vec4u" ? [0, 1, 2, 3] : []).map(
        (i) => [`${name}.${i}`, params![at / 4 + i]!] as const,
      ),
    ]),
  );
}

const numbersOf = (constants: Constants): Numbers =>
  Object.fromEntries(Object.entries(constants).map(([name, value]) => [name, Number(value)]));

/** What is wrong with the grid of a launch; "" if nothing is, undefined for kernels of other families. */
function complaint(launch: Launch): string | undefined {
  const { kernel, constants, uses } = launch.pipeline;
  const grid = GRIDS[kernel.name];
  if (!grid) return undefined;
  const y = uses["y"];
  const p = paramsOf(launch);
  const c = { ...numbersOf(constants), stored: y && typeof y !== "string" && y.name === "f32x1" ? 1 : 4 };
  const wanted = grid(p, c);
  const [gx, gy, gz] = launch.grid;
  const problems: string[] = [];
  // A flat grid is folded if it is long; more workgroups than are needed return at once.
  const covers = wanted.length === 2 ? gx === wanted[0] && gy === wanted[1] : gx * gy * gz === wanted[0];
  if (!covers) problems.push(`the grid is ${launch.grid.join(" × ")}, results need ${wanted.join(" × ")}`);
  const part = PARTS[kernel.name.replace(/_(query|key)$/, "")]?.(c);
  if (part !== undefined && part * p["slices"]! < p["granules"]!)
    problems.push(`${p["slices"]} parts of ${part} granules for a head of ${p["granules"]}`);
  return problems.map((text) => `${kernel.name} ${JSON.stringify(constants)} ${JSON.stringify(p)}: ${text}`).join("\n");
}

/** An op over tensors of some shapes. */
interface Problem {
  readonly shapes: readonly (readonly number[])[];
  readonly run: (...inputs: readonly Tensor[]) => Tensor;
}

/** Below, at and beyond the edges of tiles; one dimension crosses them alone, then with the other. */
const AROUND = [1, 33, 64, 65, 129, 260];
const pairs = AROUND.flatMap((a) => AROUND.map((b) => [a, b] as const));

const products: Problem[] = pairs.flatMap(([m, n]) =>
  [
    [[m, 8], [8, n], false, false] as const,
    [[m, 8], [n, 8], false, true] as const,
    [[2, 8, m], [2, 8, n], true, false] as const,
  ].map(([a, b, transA, transB]) => ({
    shapes: [a, b],
    run: (x: Tensor, y: Tensor) => F.gemm({ a: x, b: y, transA, transB }),
  })),
);

const quantized: Problem[] = pairs.map(([m, n]) => ({
  shapes: [[m, 64]],
  run: (x: Tensor) => {
    const { device } = x;
    const parts = [empty([n, 8], { dtype: "u32", device }), empty([n, 2], { dtype: "f16", device })] as const;
    return F.linear(x, new QuantizedWeight(...parts, 64));
  },
}));

const convolutions: Problem[] = pairs.flatMap(([area, outputs]) =>
  [1, 3].flatMap((side) =>
    [
      [area, 1],
      [ceil(area, 8), 8],
    ].map(([height, width]) => ({
      shapes: [
        [2, 3, height!, width!],
        [outputs, 3, side, side],
      ],
      run: (x: Tensor, w: Tensor) => F.conv2d(x, w, null, { padding: (side - 1) / 2 }),
    })),
  ),
);

const biases: Problem[] = pairs.flatMap(([area, outputs]) =>
  [false, true].map((isLast) => ({
    shapes: [isLast ? [2, 1, area, 3] : [2, 3, 1, area], [outputs, 3, 1, 1], [outputs]],
    run: (x: Tensor, w: Tensor, b: Tensor) => F.conv2d(isLast ? x.permute([0, 3, 1, 2]) : x, w, b),
  })),
);

const groupNorms: Problem[] = pairs.map(([groups, area]) => ({
  shapes: [[2, 2 * groups, area]],
  run: (x: Tensor) => F.groupNorm(x, groups),
}));

// The last is large enough for tall tiles.
const attentions: Problem[] = [...pairs, [520, 519] as const].flatMap(([queries, keys]) =>
  [16, 80, 576].map((d) => ({
    shapes: [
      [2, 4, queries, d],
      [2, 2, keys, d],
      [2, 2, keys, d],
    ],
    run: (q: Tensor, k: Tensor, v: Tensor) => F.attention(q, k, v),
  })),
);

const decodes: Problem[] = AROUND.map((capacity) => ({
  shapes: [
    [2, 4, 3, 16],
    [2, 2, capacity, 16],
    [2, 2, capacity, 16],
  ],
  run: (q: Tensor, k: Tensor, v: Tensor) =>
    F.attentionDecode(q.detach(), k.detach(), v.detach(), empty([1], { dtype: "u32", device: q.device })),
}));

const rows = (run: (x: Tensor) => Tensor): Problem[] =>
  pairs.map(([count, columns]) => ({ shapes: [[count, 4 * columns]], run }));

const FAMILIES = [
  [MATMUL_FAMILY, products],
  [QUANTIZED_FAMILY, quantized],
  [CONV_FAMILY, convolutions],
  [ATTENTION_FAMILY, attentions],
  [DECODE_FAMILY, decodes],
  [ROW_FAMILIES.softmax, rows((x) => F.softmax(x))],
  [ROW_FAMILIES.rms_norm, rows((x) => F.rmsNorm(x, null))],
  [ROW_FAMILIES.layer_norm, rows((x) => F.layerNorm(x, null, null))],
  [GROUP_NORM_FAMILY, groupNorms],
  [ROW_FAMILIES.group_rows, groupNorms],
  [ROW_FAMILIES.channel_sums, biases],
] as const;

it("every kernel of these families has its grid here", () => {
  const names = declaredKernels().map(({ name }) => name);
  const ours = names.filter((name) => /^(matmul|conv2d|attention|softmax|norm|group_norm)(_|$)/.test(name));
  expect(ours.filter((name) => !OTHERS.includes(name)).toSorted()).toEqual(Object.keys(GRIDS).toSorted());
});

/** Kernels that the tests below launch. */
const launched = new Set<string>();

describe.each(Object.entries(DEVICES))("on a device like %s", (_, capabilities) => {
  const opened = Device.create({ backend: "null", capabilities });
  afterAll(async () => (await opened).destroy());

  /** Runs a problem forward and backward with a variant, or the default one, and adds to `found` what is wrong with its grids. */
  function check(device: Device, problem: Problem, found: Set<string>): void {
    const listener = (launch: Launch): void => {
      const said = complaint(launch);
      if (said !== undefined) launched.add(launch.pipeline.kernel.name);
      if (said) found.add(said);
    };
    device.onLaunch(listener);
    scope(() => {
      const inputs = problem.shapes.map((shape) => empty(shape, { device, requiresGrad: true }));
      const y = problem.run(...inputs);
      if (y.requiresGrad) backward(y, empty(y.shape, { device }));
      for (const t of inputs) t.grad = null;
    });
    device.offLaunch(listener);
  }

  it.each(FAMILIES.map(([family, problems]) => [family.name, family.table, problems] as const))(
    "%s: every variant's grid covers the result",
    async (name, table, problems) => {
      const device = await opened;
      const found = new Set<string>();
      for (const variant of table)
        for (const problem of problems) forceVariant(name, variant.name, () => check(device, problem, found));
      expect([...found].slice(0, 3), `${found.size} grids`).toEqual([]);
    },
  );
});

it("all of these kernels were launched", () => {
  expect([...launched].toSorted()).toEqual(Object.keys(GRIDS).toSorted());
});
