/**
 * Vector quantisation on the unit sphere (VQ-GAN with normalised codes, as in LlamaGen): the nearest code of every row, the quantised rows with
 * the straight-through gradient, and the two losses that move rows and codes towards each other.
 */
import {
  DTypeError,
  ShapeError,
  checkTensors,
  empty,
  grid1d,
  isFloat,
  kernel,
  launch,
  noGrad,
  record,
  rowWindows,
  sameShape,
  scope,
  shapeText,
} from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { checkIdRange } from "../core/check_ids.ts";
import { grid } from "../core/libraries.ts";
import { cast } from "../views/views.ts";
import { square, sub } from "../pointwise/elementwise.ts";
import { expression, map } from "../core/map.ts";
import { checkIds, rowsAt } from "./embedding.ts";
import { l2Normalize, l2NormalizeGradient, unitRows } from "../norm/l2_normalize.ts";
import { mean } from "../reduce/reduce.ts";

const search = kernel(
  "codebook_lookup",
  new URL("./codebook_lookup.wgsl", import.meta.url),
  { z: "read", codes: "read", best: "write" },
  { rows: "u32", codes: "u32", first: "u32", per_part: "u32", parts: "u32" },
  [grid],
);
const merge = kernel(
  "codebook_lookup_merge",
  new URL("./codebook_lookup_merge.wgsl", import.meta.url),
  { best: "read", indices: "read_write", distances: "read_write" },
  { rows: "u32", parts: "u32" },
  [grid],
);

/** Rows of z that one workgroup takes: its invocations times the kernel's ROWS. */
const BLOCK = 256;
/** Workgroups wanted, and codes of a part at least. */
const WANTED_GROUPS = 512;
const PART_CODES = 64;
/** The kernel keeps four rows in registers. */
const MAX_COLUMNS = 64;
/** Lengths count as this at least. */
const EPS = 1e-12;

const keepNaN = expression("quantize.keepNaN", "select(a, b, is_nan_b(b))");

export interface CodebookLookup {
  /** Index of the nearest code, u32 [M]; the lowest of equally near ones. Meaningless if the distance is NaN. */
  readonly indices: Tensor;
  /** Its squared distance after normalising both, f32 [M]: 2 − 2 · cosine. NaN if the row, or a code, is not finite. */
  readonly distances: Tensor;
}

/**
 * Finds the nearest code of every row, both scaled to length 1 (with lengths of at least 1e-12): z [M, D], codebook [K,
 * D], D ≤ 64 → indices u32 [M], squared distances f32 [M]. The K distances of a row are never stored. It has no
 * gradient.
 */
export function codebookLookup(z: Tensor, codebook: Tensor): CodebookLookup {
  checkTensors("codebookLookup", z, codebook);
  checkCodes("codebookLookup", z, codebook);
  const [rows, columns] = z.shape as [number, number];
  const codes = codebook.shape[0]!;
  if (codes === 0)
    throw new ShapeError(
      `codebookLookup: the codebook must have at least one code; got ${shapeText(codebook.shape)}. Check its shape.`,
    );
  return scope(() => {
    const device = z.device;
    const depth = Math.ceil(columns / 4);
    const pitch = depth * 4;
    const unitZ = unitRows(z, pitch, EPS);
    const unitCodes = unitRows(codebook, pitch, EPS);
    const indices = empty([rows], { dtype: "u32", device });
    const distances = empty([rows], { device });
    const wanted = Math.ceil(WANTED_GROUPS / Math.max(1, Math.ceil(rows / BLOCK)));
    const codeWindows = rowWindows(device, codes, [{ rowElements: pitch, dtype: "f32" }], 1, "codebookLookup");
    for (const [i, part] of codeWindows.entries()) {
      const perPart = Math.max(PART_CODES, Math.ceil(part.count / wanted));
      const parts = Math.ceil(part.count / perPart);
      for (const { start, count } of rowWindows(
        device,
        rows,
        [
          { rowElements: pitch, dtype: "f32" },
          { rowElements: 1, dtype: "u32" },
          { rowElements: 2 * parts, dtype: "u32" },
        ],
        1,
        "codebookLookup",
      )) {
        const best = empty([count, parts, 2], { dtype: "u32", device });
        launch(search, {
          constants: { DEPTH: depth },
          buffers: {
            z: { of: unitZ, start: start * pitch, elements: count * pitch },
            codes: { of: unitCodes, start: part.start * pitch, elements: part.count * pitch },
            best,
          },
          params: { rows: count, codes: part.count, first: part.start, per_part: perPart, parts },
          grid: grid1d(Math.ceil(count / BLOCK) * parts),
          cost: { flops: 3 * count * part.count * columns, bytes: (count + part.count) * pitch * 4 + best.size * 4 },
        });
        launch(merge, {
          constants: { CONTINUE: i > 0 },
          buffers: {
            best,
            indices: { of: indices, start, elements: count },
            distances: { of: distances, start, elements: count },
          },
          params: { rows: count, parts },
          grid: grid1d(Math.ceil(count / 64)),
          cost: { flops: count * parts, bytes: best.size * 4 + count * 8 },
        });
      }
    }
    return { indices, distances };
  });
}

function checkCodes(op: string, z: Tensor, codebook: Tensor): void {
  for (const t of [z, codebook])
    if (!isFloat(t.dtype))
      throw new DTypeError(`${op}: every tensor must have a floating dtype; got ${t}. Cast it to f32 first.`);
  if (z.rank !== 2 || codebook.rank !== 2 || z.shape[1] !== codebook.shape[1]) {
    throw new ShapeError(
      `${op}: z must be [M, D] and the codebook [K, D]; got ${shapeText(z.shape)} and ${shapeText(codebook.shape)}. Permute the channels to the end first.`,
    );
  }
  const columns = z.shape[1]!;
  if (columns < 1 || columns > MAX_COLUMNS)
    throw new ShapeError(`${op}: codes must have 1 to ${MAX_COLUMNS} numbers; got ${columns}. Use shorter codes.`);
}

function checkIndices(op: string, z: Tensor, indices: Tensor, codes: number): void {
  checkIds(op, indices);
  if (!sameShape(indices.shape, [z.shape[0]!]))
    throw new ShapeError(
      `${op}: indices must be [${z.shape[0]}], one per row of z; got ${shapeText(indices.shape)}. Reshape them.`,
    );
  checkIdRange(op, "indices", indices, codes);
}

/**
 * Replaces every row by its nearest code, both scaled to length 1: z [M, D], codebook [K, D] → ê [M, D] of z's dtype.
 * The gradient passes straight through to the scaled row, z_q = ẑ + stopgrad(ê − ẑ), and from there to z; the codebook
 * gets none (see `codebookLosses`).
 * @param indices results of `codebookLookup`, if known
 */
export function quantize(z: Tensor, codebook: Tensor, indices?: Tensor): Tensor {
  checkTensors("quantize", z, codebook, indices ?? null);
  checkCodes("quantize", z, codebook);
  if (indices) checkIndices("quantize", z, indices, codebook.shape[0]!);
  const codes = scope(() =>
    noGrad(() => {
      const unit = l2Normalize(rowsAt(codebook, indices ?? codebookLookup(z, codebook).indices, "f32"), EPS);
      // A row of z that is NaN stays NaN for any code.
      const own = l2Normalize(cast(z, "f32"), EPS);
      return map(keepNaN, [unit, own], { dtype: z.dtype });
    }),
  );
  return record("quantize", [z], codes, [z], (g, [saved]) => [l2NormalizeGradient(saved!, g, EPS)]);
}

export interface CodebookLosses {
  /** Mean (stopgrad ê − ẑ)², f32: pulls rows to their codes. */
  readonly commitment: Tensor;
  /** Mean (ê − stopgrad ẑ)², f32: pulls codes to their rows. */
  readonly codebook: Tensor;
}

/** The losses of a vector quantiser over unit rows ẑ of z [M, D] and the unit codes ê [K, D] at `indices` [M]; means over all M · D numbers. */
export function codebookLosses(z: Tensor, codebook: Tensor, indices: Tensor): CodebookLosses {
  checkTensors("codebookLosses", z, codebook, indices);
  checkCodes("codebookLosses", z, codebook);
  checkIndices("codebookLosses", z, indices, codebook.shape[0]!);
  return scope(() => {
    const rows = l2Normalize(cast(z, "f32"), EPS);
    const codes = l2Normalize(rowsAt(codebook, indices, "f32"), EPS);
    return { commitment: mean(square(sub(rows, codes.detach()))), codebook: mean(square(sub(codes, rows.detach()))) };
  });
}
