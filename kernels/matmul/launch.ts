/**
 * Turns a product of views into launches: merges batch dimensions, packs operands whose rows are not multiples of four
 * elements, chooses the variant, and splits large tensors. `matmul.ts` documents the arguments.
 */
import { broadcastShapes, elementBytes, empty, kernel, launch, shapeText, ShapeError } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { copyInto, fillInto } from "../core/copy.ts";
import { collapse } from "../core/collapse.ts";
import { copy, map } from "../core/map.ts";
import { f32x1, standard } from "../core/libraries.ts";
import { io, matmulBindings, lanesNone, matrixF16, normNone, sizeAny, sumWorkgroup } from "./libraries.ts";
import { ACTIVATIONS, epilogueOf, isDecodingStep, stepsOf } from "./epilogue.ts";
import type { Activation, Norm } from "./epilogue.ts";
import { inPanels, panelsFit } from "./panels.ts";
import { MAX_GROUPS, bindPart, partsOf } from "./parts.ts";
import type { Operand } from "./parts.ts";
import { matmulVariant } from "./variants.ts";
import type { MatmulChoice, MatmulKernel } from "./variants.ts";

const bindings = { a: "read", b: "read", bias: "read", residual: "read", y: "read_write" } as const;
/** Parameters of all kernels of products, in library `matmul_io`. */
export const params = {
  size: "vec4u",
  a: "vec4u",
  b: "vec4u",
  y: "vec4u",
  batches: "vec4u",
  batches_y: "vec4u",
  alpha: "f32",
  scale: "f32",
  eps: "f32",
} as const;

const kernels = {
  naive: kernel("matmul_naive", new URL("./matmul_naive.wgsl", import.meta.url), bindings, params, [
    ...standard,
    matmulBindings,
    io,
  ]),
  tiled: kernel("matmul_tiled", new URL("./matmul_tiled.wgsl", import.meta.url), bindings, params, [
    ...standard,
    matmulBindings,
    io,
  ]),
  vector: kernel("matmul_vector", new URL("./matmul_vector.wgsl", import.meta.url), bindings, params, [
    ...standard,
    matmulBindings,
    io,
    normNone,
    sumWorkgroup,
    sizeAny,
  ]),
  register: kernel("matmul_register", new URL("./matmul_register.wgsl", import.meta.url), bindings, params, [
    ...standard,
    matmulBindings,
    io,
    normNone,
    lanesNone,
    sizeAny,
  ]),
  matrix: kernel(
    "matmul_subgroup_matrix",
    new URL("./matmul_subgroup_matrix.wgsl", import.meta.url),
    bindings,
    params,
    [...standard, matmulBindings, io, matrixF16, sizeAny],
  ),
} satisfies Record<MatmulKernel, unknown>;

const packKernel = kernel(
  "matmul_pack",
  new URL("./matmul_pack.wgsl", import.meta.url),
  { x: "read", y: "write" },
  { size: "vec4u", x: "vec4u", y: "vec4u", batches: "vec4u" },
  standard,
);

export interface Product {
  readonly op: string;
  /** [..., M, K] and [..., K, N] once `transA`, `transB` have swapped their last two dimensions; any strides. */
  readonly a: Tensor;
  readonly b: Tensor;
  readonly transA: boolean;
  readonly transB: boolean;
  /** [..., M, N]; columns lie next to each other. */
  readonly y: Tensor;
  readonly alpha: number;
  readonly accumulate: boolean;
  /** [N] */
  readonly bias: Tensor | null;
  readonly activation: Activation | null;
  /** Residual of y's shape, contiguous. */
  readonly residual: Tensor | null;
  /** The product equals its transpose, and so does the residual: the kernel may copy what is above the diagonal. */
  readonly symmetric?: boolean;
  /** RMS norm of the rows of `a`, instead of a bias: for choices that compute it (see `normLinear`). */
  readonly norm?: Norm;
  /** y [M, N / 2], f32, is silu(gate) · up of the two halves of the columns; in one part. */
  readonly gated?: boolean;
}

/** A matrix operand: its steps along the rows and columns of the product, and along the batch dimensions (0 if it is broadcast). */
interface Matrix {
  readonly tensor: Tensor;
  readonly offset: number;
  readonly row: number;
  readonly column: number;
  readonly batches: readonly number[];
}

/** The shape of the product's batch dimensions, and M, N, K. Throws `ShapeError` if they do not fit. */
export function productShape(
  op: string,
  a: Tensor,
  b: Tensor,
  transA: boolean,
  transB: boolean,
): { batch: number[]; m: number; n: number; k: number } {
  const [m, k] = [a.shape.at(transA ? -1 : -2)!, a.shape.at(transA ? -2 : -1)!];
  const [inner, n] = [b.shape.at(transB ? -1 : -2)!, b.shape.at(transB ? -2 : -1)!];
  if (k !== inner) {
    throw new ShapeError(
      `${op}: the inner dimensions must be equal; got ${k} and ${inner} in ${shapeText(a.shape)}${transA ? " transposed" : ""} and ${shapeText(b.shape)}${transB ? " transposed" : ""}. Reshape or transpose one of them.`,
    );
  }
  return { batch: broadcastShapes(op, a.shape.slice(0, -2), b.shape.slice(0, -2)), m, n, k };
}

/** y = activation(alpha · a · b [+ y] + bias) + residual. Not recorded on the tape; runs inside a scope of the caller. */
export function runProduct(p: Product): void {
  const { y } = p;
  if (y.size === 0) return;
  const { batch, m, n, k } = productShape(p.op, p.a, p.b, p.transA, p.transB);
  const view = (t: Tensor, swap = false): Matrix => ({
    tensor: t,
    offset: t.offset,
    row: t.strides.at(swap ? -1 : -2)!,
    column: t.strides.at(swap ? -2 : -1)!,
    batches: batch.map((_, d) => {
      const own = d - batch.length + t.rank - 2;
      return own < 0 || t.shape[own] === 1 ? 0 : t.strides[own]!;
    }),
  });
  let [a, b] = [view(p.a, p.transA), view(p.b, p.transB)];
  if (k === 0) {
    const nothing = empty([4], { device: y.device });
    fillInto(nothing, 0);
    a = b = { tensor: nothing, offset: 0, row: 0, column: 0, batches: batch.map(() => 0) };
  }
  const [to, residual] = [view(y), p.residual ? view(p.residual) : null];
  const operands = residual ? [a, b, to, residual] : [a, b, to];
  const joined = collapse(
    batch,
    operands.map((o) => o.batches),
  );
  let rows = m;
  const [ma, mb, my, mr] = operands.map((o, i): Matrix => ({ ...o, batches: joined.strides[i]! }));
  const shape = joined.shape;
  const parts = { a: ma!, b: mb!, y: my!, residual: mr ?? null };
  // Batches that share b and follow one another in a and y are rows of one product.
  const last = shape.length - 1;
  const follows = (o: Matrix): boolean => m === 1 || o.batches[last] === m * o.row;
  if (last >= 0 && parts.b.batches[last] === 0 && [parts.a, parts.y, parts.residual].every((o) => !o || follows(o))) {
    const fold = (o: Matrix): Matrix => ({
      ...o,
      row: m === 1 ? o.batches[last]! : o.row,
      batches: o.batches.slice(0, last),
    });
    rows *= shape.pop()!;
    parts.a = fold(parts.a);
    parts.y = fold(parts.y);
    parts.b = { ...parts.b, batches: parts.b.batches.slice(0, last) };
    parts.residual &&= fold(parts.residual);
  }
  overOuter(p, shape, parts, rows, n, k);
}

interface Operands {
  a: Matrix;
  b: Matrix;
  y: Matrix;
  residual: Matrix | null;
}

/** Batch dimensions beyond two are walked here. */
function overOuter(p: Product, shape: readonly number[], o: Operands, m: number, n: number, k: number): void {
  if (shape.length <= 2) {
    const pad = (x: Matrix): Matrix => ({ ...x, batches: [...[0, 0].slice(shape.length), ...x.batches] });
    const counts = [...[1, 1].slice(shape.length), ...shape];
    return runMatrices(
      p,
      counts,
      { a: pad(o.a), b: pad(o.b), y: pad(o.y), residual: o.residual && pad(o.residual) },
      m,
      n,
      k,
    );
  }
  for (let i = 0; i < shape[0]!; i++) {
    const at = (x: Matrix): Matrix => ({ ...x, offset: x.offset + i * x.batches[0]!, batches: x.batches.slice(1) });
    overOuter(
      p,
      shape.slice(1),
      { a: at(o.a), b: at(o.b), y: at(o.y), residual: o.residual && at(o.residual) },
      m,
      n,
      k,
    );
  }
}

/** Up to two batch dimensions. */
function runMatrices(p: Product, counts: readonly number[], o: Operands, m: number, n: number, k: number): void {
  const aligned = (x: Matrix, step: number, length: number): boolean =>
    x.offset % 4 === 0 && (length === 1 || step % 4 === 0) && x.batches.every((s, d) => counts[d] === 1 || s % 4 === 0);
  // Memory layout of each operand, and whether its granules of four can be loaded directly.
  let transA = o.a.column !== 1 && o.a.row === 1;
  let transB = o.b.column !== 1 && o.b.row === 1;
  let direct = {
    a: transA ? aligned(o.a, o.a.column, k) : o.a.column === 1 && aligned(o.a, o.a.row, m),
    b: transB ? aligned(o.b, o.b.column, n) : o.b.column === 1 && aligned(o.b, o.b.row, k),
  };
  if (k % 4 !== 0) {
    // Granules along k would reach past the end: both operands must lie with k outside.
    direct = { a: direct.a && transA, b: direct.b && !transB };
    [transA, transB] = [true, false];
  }
  const batches = counts[0]! * counts[1]!;
  const packs = !direct.a || !direct.b;
  const problem = { batches, m, n, k, transA, transB, a: o.a.tensor.dtype, b: o.b.tensor.dtype, packs };
  const choice = matmulVariant(p.y.device.capabilities, problem);
  if (choice.kernel === "naive") return launchParts(p, choice, counts, o, m, n, k);
  const a = direct.a ? o.a : pack(p.op, o.a, counts, m, k, transA);
  const b = direct.b ? o.b : pack(p.op, o.b, counts, k, n, transB);
  launchParts(p, choice, counts, { ...o, a, b }, m, n, k);
}

/** A copy of a matrix [rows, columns] (or of its transpose with `swap`) whose rows are padded to granules of four. */
function pack(op: string, x: Matrix, counts: readonly number[], rows: number, columns: number, swap: boolean): Matrix {
  const [outer, inner] = swap ? [columns, rows] : [rows, columns];
  const [outerStep, innerStep] = swap ? [x.column, x.row] : [x.row, x.column];
  const own = counts.map((n, d) => (x.batches[d] === 0 ? 1 : n));
  const width = Math.ceil(inner / 4) * 4;
  const copy = empty([own[0]!, own[1]!, outer, width], { dtype: x.tensor.dtype, device: x.tensor.device });
  const steps = [own[0] === 1 ? 0 : own[1]! * outer * width, own[1] === 1 ? 0 : outer * width];
  const from: Operand = {
    tensor: x.tensor,
    offset: x.offset,
    steps: [x.batches[0]!, x.batches[1]!, outerStep, innerStep],
  };
  const to: Operand = { tensor: copy, offset: 0, steps: [...steps, width, 1] };
  const tooLong = ([z0, z1, r]: readonly number[]): number =>
    r! > MAX_GROUPS ? 2 : z0! * z1! > MAX_GROUPS ? (z0! > 1 ? 0 : 1) : -1;
  for (const part of partsOf(op, x.tensor.device, [...own, outer, inner], [from, to], [1, 1, 1, 4], tooLong)) {
    const [z0, z1, r, c] = part.sizes as [number, number, number, number];
    const [source, target] = [bindPart(from, part), bindPart(to, part)];
    const granules = Math.ceil(c / 4);
    launch(packKernel, {
      use: { x: copy.dtype, y: copy.dtype },
      buffers: { x: source.bound, y: target.bound },
      params: {
        size: [r, c, granules, z1],
        x: [source.offset, outerStep, innerStep, 0],
        y: [target.offset, width, 0, 0],
        batches: [...x.batches, ...steps],
      },
      grid: [Math.ceil(granules / 64), r, z0 * z1],
      cost: { flops: 0, bytes: 2 * elementBytes(copy.dtype, z0 * z1 * r * c) },
    });
  }
  return { tensor: copy, offset: 0, row: swap ? 1 : width, column: swap ? width : 1, batches: steps };
}

function launchParts(
  p: Product,
  choice: MatmulChoice,
  counts: readonly number[],
  o: Operands,
  m: number,
  n: number,
  k: number,
): void {
  const { device } = p.y;
  const wide =
    !p.gated && n % 4 === 0 && isGranular(o.y, counts, m) && (!o.residual || isGranular(o.residual, counts, m));
  const sizes = [...counts, m, n, k];
  const operands = {
    a: { ...o.a, steps: [...o.a.batches, o.a.row, 0, o.a.column] },
    b: { ...o.b, steps: [...o.b.batches, 0, o.b.column, o.b.row] },
    y: { ...o.y, steps: [...o.y.batches, o.y.row, p.gated ? 0 : 1, 0] },
    residual: o.residual && { ...o.residual, steps: [...o.residual.batches, o.residual.row, 1, 0] },
  };
  const tooLong = ([z0, z1, rows, columns, terms]: readonly number[]): number => {
    if (z0! * z1! > MAX_GROUPS) return z0! > 1 ? 0 : 1;
    if (rows! > MAX_GROUPS * choice.rows) return 2;
    if (columns! > MAX_GROUPS * choice.columns) return 3;
    if (choice.panels && !panelsFit(o.a.tensor, { lines: rows!, terms: terms!, width: choice.rows })) return 2;
    if (choice.panels && !panelsFit(o.b.tensor, { lines: columns!, terms: terms!, width: choice.columns })) return 3;
    if (2 * z0! * z1! * rows! * columns! * terms! <= device.maxDispatchWork) return -1;
    return z0! > 1 ? 0 : z1! > 1 ? 1 : rows! >= columns! ? 2 : 3; // sums stay whole: the same bits as in one launch
  };
  const all = [operands.a, operands.b, operands.y, ...(operands.residual ? [operands.residual] : [])];
  const granule = choice.kernel === "naive" ? 1 : 4;
  const parts = partsOf(p.op, device, sizes, all, [1, 1, o.a.row === 1 ? granule : 1, 4, granule], tooLong);
  if (o.y.tensor.dtype !== "f32" && parts.some((part) => part.sizes[4]! < k))
    return throughF32(p, choice, counts, o, m, n, k);
  const yLibrary = wide ? o.y.tensor.dtype : f32x1;
  // One pipeline serves all epilogues of tall tiles, too, whose biases are f32.
  const isStep = isDecodingStep(device.capabilities, choice, p);
  const byParams = choice.byParams === true || isStep;
  const bias = choice.byParams && p.bias && p.bias.dtype !== "f32" ? map(copy, [p.bias], { dtype: "f32" }) : p.bias;
  const epilogue = epilogueOf({ ...p, bias });
  const copiesHalf = p.symmetric && choice.kernel === "register" && choice.rows >= 4 && parts.every(({ sizes: [, , rows, columns] }) => rows === m && columns === n); // prettier-ignore
  for (const part of parts) {
    const [z0, z1, rows, columns, terms] = part.sizes as [number, number, number, number, number];
    const isFirst = part.starts[4] === 0;
    const isLast = part.starts[4]! + terms === k;
    let [a, b] = [bindPart(operands.a, part), bindPart(operands.b, part)];
    const packed: Tensor[] = [];
    if (choice.panels) {
      // Of a B with one term both steps may be 1: its columns lie next to each other.
      const [inA, inB] = [o.a.column === 1, o.b.column !== 1];
      const shapeA = { lines: rows, terms, inside: inA, step: inA ? o.a.row : o.a.column, width: choice.rows };
      const shapeB = { lines: columns, terms, inside: inB, step: inB ? o.b.column : o.b.row, width: choice.columns };
      packed.push(
        inPanels("a", a, o.a.tensor.dtype, device, shapeA),
        inPanels("b", b, o.b.tensor.dtype, device, shapeB),
      );
      a = { bound: packed[0]!, offset: 0 };
      b = { bound: packed[1]!, offset: 0 };
    }
    const y = p.gated ? { bound: p.y, offset: 0 } : bindPart(operands.y, part);
    const r = operands.residual && isLast ? bindPart(operands.residual, part) : null;
    const biased = isLast && p.bias !== null;
    const activation = isLast && p.activation ? ACTIVATIONS[p.activation] : 0;
    const steps = stepsOf({ biased, residual: r !== null, activation }, byParams);
    launch(kernels[choice.kernel], {
      use: {
        ...choice.use,
        a: o.a.tensor.dtype,
        b: o.b.tensor.dtype,
        y: yLibrary,
        r: r && wide ? o.residual!.tensor.dtype : wide ? "f32" : f32x1,
        ...(isStep && !epilogue.bias && { h: o.b.tensor.dtype }),
        ...epilogue.use,
      },
      constants: {
        ...choice.constants,
        ACCUMULATE: p.accumulate || !isFirst,
        ...steps.constants,
        ...(isStep && { BY_COMPONENT: true }),
        ...(copiesHalf && { SYMMETRIC: true }),
        ...epilogue.constants,
      },
      buffers: { a: a.bound, b: b.bound, bias: epilogue.bias ?? a.bound, residual: r?.bound ?? a.bound, y: y.bound },
      params: {
        size: [rows, columns, choice.panels ? Math.ceil(terms / 4) * 4 : terms, z1],
        a: [a.offset, o.a.row, o.a.column, steps.flags],
        b: [b.offset, o.b.row, o.b.column, part.starts[3]!],
        y: [y.offset, r?.offset ?? 0, o.y.row, o.residual?.row ?? 0],
        batches: [...o.a.batches, ...o.b.batches],
        batches_y: [...o.y.batches, ...(o.residual?.batches ?? [0, 0])],
        alpha: p.alpha,
        ...epilogue.params,
      },
      grid: [Math.ceil(rows / choice.rows), Math.ceil(columns / choice.columns), z0 * z1],
      cost: {
        flops: 2 * z0 * z1 * rows * columns * terms,
        bytes:
          elementBytes(o.a.tensor.dtype, z0 * z1 * rows * terms) +
          elementBytes(o.b.tensor.dtype, z0 * z1 * terms * columns) +
          elementBytes(o.y.tensor.dtype, (p.accumulate || !isFirst ? 2 : 1) * z0 * z1 * rows * columns) +
          (r ? elementBytes(o.residual!.tensor.dtype, z0 * z1 * rows * columns) : 0),
      },
    });
    for (const t of packed) t.dispose();
  }
}

/** Sums that are cut along their terms are kept in f32 until they are whole. */
function throughF32(
  p: Product,
  choice: MatmulChoice,
  counts: readonly number[],
  o: Operands,
  m: number,
  n: number,
  k: number,
): void {
  const shape = [...counts, m, n];
  const target = o.y.tensor.strided(shape, [...o.y.batches, o.y.row, 1], o.y.offset);
  const sums = p.accumulate ? map(copy, [target], { dtype: "f32" }) : empty(shape, { device: p.y.device });
  const y: Matrix = { tensor: sums, offset: 0, row: n, column: 1, batches: [counts[1]! * m * n, m * n] };
  launchParts(p, choice, counts, { ...o, y }, m, n, k);
  copyInto(target, map(copy, [sums], { dtype: target.dtype }));
}

/** True if every row of a result starts on a granule of four. */
const isGranular = (y: Matrix, counts: readonly number[], rows: number): boolean =>
  y.offset % 4 === 0 && (rows === 1 || y.row % 4 === 0) && y.batches.every((s, d) => counts[d] === 1 || s % 4 === 0);
