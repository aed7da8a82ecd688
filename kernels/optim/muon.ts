/**
 * Muon (Jordan et al. 2024) for matrices: the step is the momentum with its singular values made equal, by Newton–Schulz iterations. Matrices of
 * one shape go through them together. `adamwPrepare` of AdamW begins the step, clips and skips; the kernels read its
 * state.
 */
import {
  ArgumentError,
  ShapeError,
  checkTensors,
  elementBytes,
  empty,
  grid1d,
  kernel,
  launch,
  requireArray,
  noGrad,
  sameShape,
  scope,
  knownOptions,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { standard } from "../core/libraries.ts";
import { checkStep } from "./adamw.ts";
import type { AdamWTensors } from "./adamw.ts";
import { add, div, mul, sqrt, square } from "../pointwise/elementwise.ts";
import { copyInto } from "../core/copy.ts";
import { contiguousCopy } from "../core/map.ts";
import { gemm } from "../matmul/matmul.ts";
import { sum } from "../reduce/reduce.ts";
import { windowsOf } from "../core/windows.ts";

const momentumKernel = kernel(
  "muon_momentum",
  new URL("./muon_momentum.wgsl", import.meta.url),
  { m: "read_write", g: "read", u: "write", state: "read" },
  { elements: "u32", momentum: "f32" },
  standard,
);

const updateKernel = kernel(
  "muon",
  new URL("./muon.wgsl", import.meta.url),
  { p: "read_write", o: "read", copy: "write", ema: "read_write", state: "read" },
  { elements: "u32", scale: "f32", decay: "f32", fresh: "f32" },
  standard,
);

/** Coefficients of the quintic that `orthogonalize` iterates: steepest at 0 while singular values from there to 1 end within 0.7 to 1.2. Jordan et al. 2024. */
const [A, B, C] = [3.4445, -4.775, 2.0315] as const;
const ITERATIONS = 5;
/** RMS of the elements of a step at learning rate 1, that of AdamW's. Liu et al., "Muon is scalable for LLM training" (2025). */
const RMS = 0.2;
/** Elements of matrices that are orthogonalised together: some hundred of a small model, one by one in a large one. */
const TOGETHER = 2 ** 21;

/**
 * Near U Vᵀ of each matrix U Σ Vᵀ of m [N, R, C], f32: all singular values between 0.7 and 1.2 that are not negligible
 * compared with the largest, or with 1e-7. Not recorded on the tape.
 */
export function orthogonalize(m: Tensor): Tensor {
  checkTensors("orthogonalize", m);
  if (m.rank !== 3 || m.dtype !== "f32")
    throw new ShapeError(`orthogonalize: m must be f32 [N, R, C], N matrices; got ${m}. Cast or reshape it.`);
  return noGrad(() => scope(() => mul(iterate(m), SCALE)));
}

/** A^ITERATIONS: what `iterate` leaves out. */
const SCALE = A ** ITERATIONS;

/**
 * `orthogonalize` of m, f32 [N, R, C], divided by `SCALE`: with xₖ = Aᵏ y, the iteration A x + (B s + C s²) x with s = x xᵗ is A^(k+1) (y + B/A p y) with
 * p = s + C/B s², three products whose factors and sums are in their epilogues. Tall matrices are multiplied from the right.
 */
function iterate(m: Tensor): Tensor {
  const isTall = m.dim(1) > m.dim(2); // the product of the short side is the smaller one
  return scope(() => {
    let y = div(m, add(sqrt(sum(square(m), [1, 2], true)), 1e-7));
    for (let k = 0; k < ITERATIONS; k++) {
      const s = gemm({ a: y, b: y, transA: isTall, transB: !isTall, alpha: A ** (2 * k), symmetric: true }); // [N, S, S], S the short side
      const p = gemm({ a: s, b: s, transB: true, alpha: C / B, residual: s, symmetric: true });
      y = gemm({ a: isTall ? y : p, b: isTall ? p : y, transB: isTall, alpha: B / A, residual: y });
    }
    return y;
  });
}

/** `master` is a matrix, `m` the mean of its gradient; there is no second moment. */
export type MuonTensors = Omit<AdamWTensors, "v">;

export interface MuonSettings {
  /** μ of m ← μ m + (1 − μ) g (default: 0.95). */
  readonly momentum?: number;
  /** Decoupled weight decay: p loses learning rate · decay · p a step. */
  readonly weightDecay?: number;
  /** Decay of `ema`, from 0 to 1. */
  readonly emaDecay?: number;
}

/**
 * One Muon update of each matrix [R, C], all of one shape, in place, with the step that `adamwPrepare` began in `state`: Nesterov momentum,
 * orthogonalised, times 0.2 · √max(R, C), so that learning rate and decay are those of AdamW. Arithmetic is f32.
 */
export function muonStep(matrices: readonly MuonTensors[], state: Tensor, settings: MuonSettings = {}): void {
  knownOptions("muonStep", settings, ["momentum", "weightDecay", "emaDecay"]);
  const { momentum = 0.95, weightDecay = 0, emaDecay = 0 } = settings;
  requireArray("muonStep", "matrices", matrices);
  const [first] = matrices;
  if (!first) return;
  const { shape } = first.master;
  const [rows = 0, columns = 0] = shape;
  if (shape.length !== 2)
    throw new ShapeError(`muonStep: parameters must be matrices; got ${first.master}. Use AdamW for others.`);
  if (!(momentum >= 0 && momentum < 1) || !(weightDecay >= 0))
    throw new ArgumentError(
      `muonStep: momentum must be in [0, 1) and weightDecay ≥ 0; got ${momentum} and ${weightDecay}. Change them.`,
    );
  for (const matrix of matrices) {
    checkStep("muonStep", matrix, state, settings);
    if (!sameShape(matrix.master.shape, shape))
      throw new ShapeError(
        `muonStep: all matrices must have the same shape; got ${matrix.master} and ${first.master}. Call it once per shape.`,
      );
  }
  const atOnce = Math.max(1, Math.floor(TOGETHER / (rows * columns)));
  for (let from = 0; from < matrices.length; from += atOnce) {
    const some = matrices.slice(from, from + atOnce);
    noGrad(() =>
      scope(() => {
        const steps = iterate(aheadOf(some, state, momentum));
        for (const [i, { master, copy = null, ema = null }] of some.entries()) {
          const spare = copy ?? empty([4], { dtype: "bf16", device: master.device });
          const unused = ema ?? empty([4], { device: master.device });
          const o = contiguousCopy(steps.slice(0, i, i + 1).reshape(shape));
          const operands = { p: master, o, copy, ema };
          for (const { count, buffers } of windowsOf("muonStep", master.size, operands)) {
            launch(updateKernel, {
              use: { c: spare.dtype },
              constants: { COPY: copy !== null, EMA: ema !== null },
              buffers: { ...buffers, copy: buffers.copy ?? spare, ema: buffers.ema ?? unused, state },
              params: {
                elements: count,
                scale: RMS * Math.sqrt(Math.max(rows, columns)) * SCALE,
                decay: weightDecay,
                fresh: 1 - emaDecay,
              },
              grid: grid1d(Math.ceil(count / 512)),
              cost: {
                flops: (ema ? 8 : 5) * count,
                bytes: (ema ? 20 : 12) * count + (copy ? elementBytes(copy.dtype, count) : 0),
              },
            });
          }
        }
      }),
    );
  }
}

/** Updates each `m` and returns their values after one more step with the same gradient, f32 [N, R, C]. */
function aheadOf(matrices: readonly MuonTensors[], state: Tensor, momentum: number): Tensor {
  const { shape, device } = matrices[0]!.master;
  const all = empty([matrices.length, ...shape], { device });
  for (const [i, { m, grad }] of matrices.entries()) {
    const own = all.select(0, i);
    if (own.isBindable) lookAhead(m, grad, own, state, momentum);
    else {
      const u = empty(shape, { device });
      lookAhead(m, grad, u, state, momentum);
      copyInto(own, u);
    }
  }
  return all;
}

/** Updates `m` and writes its value after one more step with the same gradient to `u`. */
function lookAhead(m: Tensor, grad: Tensor, u: Tensor, state: Tensor, momentum: number): void {
  const from = contiguousCopy(grad);
  for (const { count, buffers } of windowsOf("muonStep", m.size, { m, g: from, u })) {
    launch(momentumKernel, {
      buffers: { ...buffers, state },
      params: { elements: count, momentum },
      grid: grid1d(Math.ceil(count / 512)),
      cost: { flops: 7 * count, bytes: 16 * count },
    });
  }
}
