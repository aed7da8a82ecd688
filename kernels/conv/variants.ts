/**
 * The kernels of convolution and which of them run: a matrix product if the convolution is one; else "winograd", "subgroup" and "registers" (no
 * workgroup memory) on software Vulkan, "tiled" (workgroup memory) on GPUs, "naive" as the reference.
 */
import { kernel, library } from "../../engine/index.ts";
import type { Capabilities, Constants, DType, Kernel, Library, Uses } from "../../engine/index.ts";
import { standard } from "../core/libraries.ts";
import { bucket, chooseVariant } from "../core/variants.ts";
import type { Family, Variant } from "../core/variants.ts";
import { sizeAny } from "../matmul/libraries.ts";
import { matrixUnit } from "../matmul/subgroup_matrix.ts";
import { fitsWinograd, winogradTiles } from "./winograd.ts";

/** Sizes of one convolution; `up` − 1 zeros stand between the pixels of the input (gradient of a stride), `top` and `left` may be negative. */
export interface ConvGeometry {
  readonly images: number;
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  readonly outputs: number;
  readonly outHeight: number;
  readonly outWidth: number;
  readonly kernelHeight: number;
  readonly kernelWidth: number;
  readonly stride: number;
  readonly up: number;
  readonly top: number;
  readonly left: number;
}

const lib = (name: string, url: URL, ...included: readonly Library[]): Library =>
  library(`conv2d_${name}`, url, included);
const forwardPass = lib("forward", new URL("./lib/conv2d_forward.wgsl", import.meta.url), ...standard);
const place = lib("place", new URL("./lib/conv2d_place.wgsl", import.meta.url));
const matrixF16 = lib("matrix_f16", new URL("./lib/conv2d_matrix_f16.wgsl", import.meta.url));
const matrixF32 = lib("matrix_f32", new URL("./lib/conv2d_matrix_f32.wgsl", import.meta.url));
const weightPart = lib("weight_part", new URL("./lib/conv2d_weight_part.wgsl", import.meta.url), ...standard);

const FORWARD_BINDINGS = { x: "read", w: "read", bias: "read", y: "read_write" } as const;
// prettier-ignore
const FORWARD_PARAMS = {
  images: "u32", channels: "u32", height: "u32", width: "u32", out_height: "u32", out_width: "u32", kernel_height: "u32", kernel_width: "u32",
  stride: "u32", top: "i32", left: "i32", o_first: "u32", o_end: "u32", x_first: "u32", x_image: "u32", y_first: "u32", y_image: "u32", w_first: "u32", w_tile: "u32",
  biased: "u32", accumulate: "u32",
} as const;
type ForwardKernel = Kernel<keyof typeof FORWARD_BINDINGS, keyof typeof FORWARD_PARAMS>;
const forwardKernel = (name: string, url: URL, ...included: readonly Library[]): ForwardKernel =>
  kernel(name, url, FORWARD_BINDINGS, FORWARD_PARAMS, [...standard, forwardPass, ...included]);
const naive = forwardKernel("conv2d", new URL("./conv2d.wgsl", import.meta.url), place);
const registers = forwardKernel("conv2d_registers", new URL("./conv2d_registers.wgsl", import.meta.url), place);
const threeByThree = forwardKernel("conv2d_3x3", new URL("./conv2d_3x3.wgsl", import.meta.url));
const tiled = forwardKernel("conv2d_tiled", new URL("./conv2d_tiled.wgsl", import.meta.url), place);
const matrices = forwardKernel(
  "conv2d_subgroup_matrix",
  new URL("./conv2d_subgroup_matrix.wgsl", import.meta.url),
  place,
  matrixF32,
  sizeAny,
);

const WEIGHT_BINDINGS = { x: "read", g: "read", p: "read_write" } as const;
// prettier-ignore
const WEIGHT_PARAMS = {
  images: "u32", channels: "u32", outputs: "u32", height: "u32", width: "u32", out_height: "u32", out_width: "u32",
  kernel_height: "u32", kernel_width: "u32", stride: "u32", top: "i32", left: "i32", rows: "u32", parts: "u32", x_first: "u32", x_image: "u32", g_first: "u32", g_image: "u32", p_first: "u32", p_row: "u32", p_part: "u32",
  accumulate: "u32",
} as const;
type WeightKernel = Kernel<keyof typeof WEIGHT_BINDINGS, keyof typeof WEIGHT_PARAMS>;
const weightKernel = (name: string, url: URL): WeightKernel =>
  kernel(name, url, WEIGHT_BINDINGS, WEIGHT_PARAMS, [...standard, weightPart]);
const weightNaive = weightKernel("conv2d_weight", new URL("./conv2d_weight.wgsl", import.meta.url));
const weightThreeByThree = weightKernel("conv2d_weight_3x3", new URL("./conv2d_weight_3x3.wgsl", import.meta.url));
const weightTiled = weightKernel("conv2d_weight_tiled", new URL("./conv2d_weight_tiled.wgsl", import.meta.url));

/** The problem: the convolution of `g`, of an input of dtype `x` with a weight (for its gradient: with a gradient) of dtype `w`. */
export interface ConvProblem {
  readonly g: ConvGeometry;
  readonly x: DType;
  readonly w: DType;
  /** The equivalent matrix product; null if there is none, or if direct kernels are requested. */
  readonly product?: "pixels" | "patches" | null;
}

/** A launch of the convolution: images, tiles of 32 output channels, granules of an image that are stored. */
interface Forward {
  readonly kernel: ForwardKernel;
  readonly constants: Constants;
  /** Slots beside those of x and y. */
  readonly use?: Uses;
  /** Elements that it stores in a run. */
  readonly run: number;
  readonly groups: (size: { readonly images: number; readonly tiles: number; readonly granules: number }) => number;
}

/** A launch of the weight's gradient: a workgroup takes `across` of the (channel, tap / taps) and `down` output channels. */
interface Weight {
  readonly kernel: WeightKernel;
  readonly taps: number;
  readonly across: number;
  readonly down: number;
}

interface Direct {
  readonly product: null;
  /** The convolution is computed by `winograd.ts` instead of `forward`. */
  readonly winograd?: true;
  readonly forward: Forward;
  readonly weight: Weight;
}

export type ConvVariant = Direct | { readonly product: "pixels" | "patches" };

/** The kernels that have the nine taps of a 3 × 3 written out take strides 1 and 2, forward; the gradient of the weight only stride 1. */
const isThreeByThree = (g: ConvGeometry, mostStride: number): boolean =>
  g.kernelHeight === 3 && g.kernelWidth === 3 && g.stride <= mostStride && g.up === 1;

const pixelsOf = (g: ConvGeometry): number => g.outHeight * g.outWidth;
const general = (kernel: ForwardKernel, g: ConvGeometry, groups: Forward["groups"]): Forward => ({
  kernel,
  constants: { UP: g.up },
  run: pixelsOf(g),
  groups,
});
const byRegisters = (g: ConvGeometry): Forward =>
  general(registers, g, ({ images, tiles }) => Math.ceil(pixelsOf(g) / 8) * images * tiles);
const plainWeight: Weight = { kernel: weightNaive, taps: 1, across: 64, down: 8 };

/**
 * Work of all images (multiplications) from which tiles of stride 1 have four rows of pixels instead of two, for twice the loads of the weight in twice the
 * sums; the bits are the same. On lavapipe 8 images, ms of processor time: 32 → 32 at 32² 7.8 and 6.7, 64 → 64 at 16² 7.0 and 6.4, at 8² 2.1 and
 * 1.9, 32 → 64 at 8² 1.26 and 1.18; three rows 7.5, 7.3, 2.2, 1.24. The pipeline compiles twice as long.
 */
const TALL_CONV = 2 ** 24;
const isTallConv = (g: ConvGeometry): boolean => 9 * g.images * pixelsOf(g) * g.channels * g.outputs >= TALL_CONV;

function bySubgroup(g: ConvGeometry, rows: 2 | 4 = 2): Direct {
  const forward: Forward = {
    kernel: threeByThree,
    constants: { STRIDE: g.stride, ROWS: rows },
    run: g.outWidth,
    groups: ({ images, tiles }) => Math.ceil(g.outWidth / 8) * Math.ceil(g.outHeight / rows) * images * tiles,
  };
  return {
    product: null,
    forward: isThreeByThree(g, 2) ? forward : byRegisters(g),
    weight: isThreeByThree(g, 1) ? { kernel: weightThreeByThree, taps: 9, across: 8, down: 16 } : plainWeight,
  };
}

/** A tile of 64 or 128 output channels × 64 pixels on subgroup matrices; null if the device or the dtypes have none. */
function byMatrices(capabilities: Capabilities, { g, x, w }: ConvProblem): Direct | null {
  const unit = matrixUnit(capabilities, [x, w]);
  if (!unit) return null;
  const { limits } = capabilities;
  const { M, N, K } = unit.config;
  const outputs = g.outputs > 64 ? 128 : 64;
  const workgroup = Math.max(2 * outputs, unit.lanes);
  const subgroups = workgroup / unit.lanes;
  const down = 2 ** Math.floor(Math.log2(subgroups) / 2);
  const across = subgroups / down;
  const terms = Math.max(K, workgroup / 16, 32);
  const component = unit.component === "f16" ? 2 : 4;
  const bytes = Math.max(terms * ((outputs + 64) * component + 32), down * M * 68 * 4);
  const fits =
    outputs % (down * M) === 0 &&
    64 % (across * N) === 0 &&
    terms % K === 0 &&
    workgroup <= Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX) &&
    bytes <= limits.maxComputeWorkgroupStorageSize;
  if (!fits) return null;
  const constants = { CM: M, CN: N, CK: K, LANES: unit.lanes, WORKGROUP: workgroup, DOWN: down, ACROSS: across };
  const forward = general(matrices, g, byBlocks(g, 64, outputs));
  return {
    product: null,
    forward: {
      ...forward,
      constants: { ...forward.constants, ...constants, BK: terms, OUTPUTS: outputs },
      use: { c: unit.component === "f16" ? matrixF16 : matrixF32, z: unit.size },
    },
    weight: tiledWeight,
  };
}

/** Workgroups that compute blocks of `pixels` pixels × `outputs` channels. */
const byBlocks =
  (g: ConvGeometry, pixels: number, outputs: number): Forward["groups"] =>
  ({ images, tiles }) =>
    Math.ceil(pixelsOf(g) / pixels) * images * Math.ceil((32 * tiles) / outputs);
const tiledWeight: Weight = { kernel: weightTiled, taps: 1, across: 64, down: 64 };

/** Terms of a sum from which matrices are worth their tiles; not measured. */
const MIN_MATRIX_TERMS = 64;

/**
 * Work of one image from which 3 × 3 convolutions are transformed, in multiplications, and channels and tiles: below, direct ones are as fast or faster
 * (3 → 128 at 64²: 5.6 ms to 7.9; 128 → 128 at 8²: 1.7 to 4.1; 32 → 32 at 32²: 1.3 to 1.3; but 64 → 64 at 32² 3.7 to 2.0, 128 → 128 at 16² 3.8 to
 * 3.3). Not of all images: the bits of an image must not depend on its batch.
 */
const WINOGRAD = { work: 1 << 25, channels: 8, tiles: 16 };
const isWinograd = (g: ConvGeometry): boolean =>
  g.channels >= WINOGRAD.channels &&
  winogradTiles({ ...g, images: 1 }) >= WINOGRAD.tiles &&
  9 * pixelsOf(g) * g.channels * g.outputs >= WINOGRAD.work;

const hasEight = ({ subgroups }: Capabilities): boolean => subgroups?.every((n) => n === 8) ?? false;

/** Software Vulkan pays dearly for workgroup memory and barriers: it takes registers, with subgroups of 8 broadcasting values. */
const DIRECT: readonly Variant<ConvProblem, Direct>[] = [
  {
    name: "winograd",
    runs: (c, p) => hasEight(c) && isThreeByThree(p.g, 1) && fitsWinograd(c, p),
    preferred: ({ software }, { g }) => software && isWinograd(g),
    choose: (_, { g }) => ({ ...bySubgroup(g), winograd: true }),
    instead: "subgroup",
  },
  {
    name: "subgroup-tall",
    runs: (c, { g }) => hasEight(c) && isThreeByThree(g, 1),
    preferred: ({ software }, { g }) => software && isTallConv(g),
    choose: (_, { g }) => bySubgroup(g, 4),
    instead: "subgroup",
  },
  {
    name: "subgroup",
    runs: hasEight,
    preferred: ({ software }) => software,
    choose: (_, { g }) => bySubgroup(g),
    instead: "registers",
  },
  {
    name: "registers",
    preferred: ({ software }) => software,
    choose: (_, { g }) => ({ product: null, forward: byRegisters(g), weight: plainWeight }),
  },
  {
    name: "naive",
    preferred: false,
    choose: (_, { g }) => ({
      product: null,
      forward: general(naive, g, ({ images, granules }) => Math.ceil((images * granules) / 64)),
      weight: plainWeight,
    }),
  },
  {
    name: "subgroup-matrix",
    runs: (c, p) => byMatrices(c, p) !== null,
    preferred: ({ software }, { g }) =>
      !software && g.outputs >= 32 && g.channels * g.kernelHeight * g.kernelWidth >= MIN_MATRIX_TERMS,
    choose: (c, p) => byMatrices(c, p)!,
    instead: "tiled",
  },
  {
    name: "tiled",
    choose: (_, { g }) => ({ product: null, forward: general(tiled, g, byBlocks(g, 128, 64)), weight: tiledWeight }),
  },
];

const CONV: readonly Variant<ConvProblem, ConvVariant>[] = [
  {
    name: "matmul",
    runs: (_, { product }) => Boolean(product),
    choose: (_, { product }) => ({ product: product! }),
    instead: "registers",
  },
  ...DIRECT,
];

export const CONV_FAMILY: Family<ConvProblem, ConvVariant> = {
  name: "conv2d",
  table: CONV,
  classOf: ({ g, x, w, product }) =>
    `${x}·${w}${product ? ` ${product}` : ""} ${g.kernelHeight}×${g.kernelWidth} stride ${g.stride}${g.up > 1 ? ` up ${g.up}` : ""} ${bucket(g.channels)}→${bucket(g.outputs)} ${bucket(g.images * g.outHeight * g.outWidth, 1 << 18)}`,
};

/** The kernels that compute a convolution. */
export const convVariant = (capabilities: Capabilities, problem: ConvProblem): ConvVariant =>
  chooseVariant(CONV_FAMILY, capabilities, problem);

/** The direct kernels for a convolution that is not computed as a product. */
export const directVariant = (capabilities: Capabilities, { g, x, w }: ConvProblem): Direct =>
  convVariant(capabilities, { g, x, w }) as Direct; // without `product` no other row runs
