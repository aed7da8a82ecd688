/**
 * The one forward of training: packed rows of all three tasks through one Llama, cross-entropy summed over the trained tokens of each task.
 * Divided by the number of trained tokens of the whole step, the sum is the same for any accumulation and any number of
 * ranks.
 */
import { noGrad, scope, tensor } from "../engine/index.ts";
import type { Device, Tensor } from "../engine/index.ts";
import { crossEntropy, indexSelect, linearCrossEntropy, where } from "../kernels/index.ts";
import type { JanusForConditionalGeneration } from "../model/janus/janus.ts";
import { LoraLinear } from "../model/nn/lora.ts";
import type { AnyModule } from "../model/nn/module.ts";
import { TASKS } from "./samples.ts";
import type { PackedRows, Task } from "./samples.ts";

/** Sums over the trained tokens of each task, f32 []; null for a task that has none here. */
export type TaskLosses = Readonly<Record<Task, Tensor | null>>;

/** Packed rows → the input embeddings [B, T, hidden]. If the vision tower is frozen, nothing of it is kept for backward. */
export function embedRows(model: JanusForConditionalGeneration, rows: PackedRows, imageSize: number): Tensor {
  const { device } = model;
  const shape = [rows.rows, rows.length];
  const upload = (values: Int32Array): Tensor => tensor(values, { shape, device });
  const ids = upload(rows.ids);
  let embeddings = rows.images.length
    ? model.embedMixed(ids, embedImages(model, rows.images, imageSize, device), upload(rows.places))
    : model.embedText(ids);
  if (rows.codes.some((code) => code >= 0)) {
    const codes = upload(rows.codes);
    embeddings = where(codes.ge(0).unsqueeze(2), model.embedCodes(codes.maximum(0)), embeddings);
  }
  return embeddings;
}

/** Images [N] × [3, S, S] → [N, P, hidden]. */
function embedImages(
  model: JanusForConditionalGeneration,
  images: readonly Float32Array[],
  side: number,
  device: Device,
): Tensor {
  const pixels = new Float32Array(images.length * 3 * side * side);
  for (const [i, image] of images.entries()) pixels.set(image, i * 3 * side * side);
  const input = tensor(pixels, { shape: [images.length, 3, side, side], device });
  const { vision_model: tower, aligner } = model.model;
  const isFrozen = tower.parameters().every(({ requiresGrad }) => !requiresGrad);
  return aligner.call(isFrozen ? noGrad(() => tower.call(input)) : tower.call(input));
}

/** Packed rows → hidden states [B, T, hidden], from which the heads make logits. A sample has the same in any row. */
export const hiddenStates = (model: JanusForConditionalGeneration, rows: PackedRows, imageSize: number): Tensor =>
  scope(() => model.hidden(embedRows(model, rows, imageSize), sequenceOf(rows, model.device)));

/** Positions and documents of packed rows, as tensors. */
export function sequenceOf(
  rows: PackedRows,
  device: Device,
): { readonly positions: Tensor; readonly documents: Tensor } {
  const shape = [rows.rows, rows.length];
  return {
    positions: tensor(rows.positions, { shape, device }),
    documents: tensor(rows.documents, { shape, device }),
  };
}

/**
 * The sums of cross-entropies of packed rows, by task; with "none" those of the M trained tokens, −log probability, f32 [M]. The complete logits of text
 * are never stored.
 */
export const taskLosses = (
  model: JanusForConditionalGeneration,
  rows: PackedRows,
  imageSize: number,
  reduction: "sum" | "none" = "sum",
): TaskLosses => scope(() => lossesOf(model, hiddenStates(model, rows, imageSize), rows, reduction));

/** True for a layer whose weight is not all that it computes with. */
const hasAdapters = (layer: AnyModule): boolean => layer instanceof LoraLinear;

/** `taskLosses` from the hidden states of the rows [B, T, hidden]. */
export function lossesOf(
  model: JanusForConditionalGeneration,
  hidden: Tensor,
  rows: PackedRows,
  reduction: "sum" | "none" = "sum",
): TaskLosses {
  const { device } = model;
  return scope(() => {
    const upload = (values: Int32Array): Tensor => tensor(values, { shape: [values.length], device });
    const flat = hidden.reshape([rows.rows * rows.length, -1]); // [B · T, hidden]
    const losses = { und: null, text: null, gen: null } as Record<Task, Tensor | null>;
    for (const task of TASKS) {
      const { at, to } = rows.targets[task];
      if (at.length === 0) continue;
      const trained = indexSelect(flat, 0, upload(at)); // [M, hidden]
      losses[task] =
        task === "gen"
          ? crossEntropy(model.codeLogits(trained), upload(to), { reduction })
          : hasAdapters(model.lm_head)
            ? crossEntropy(model.logits(trained), upload(to), { reduction })
            : linearCrossEntropy(trained, model.lm_head.weight, upload(to), { reduction });
    }
    return losses;
  });
}

/** Σ over tasks of weight · loss, divided by `tokens`: what backward starts from. Null if nothing is trained. */
export function totalLoss(
  losses: TaskLosses,
  tokens: number,
  weights: Readonly<Partial<Record<Task, number>>> = {},
): Tensor | null {
  return scope(() => {
    let total: Tensor | null = null;
    for (const task of TASKS) {
      const loss = losses[task];
      if (!loss) continue;
      const part = loss.mul((weights[task] ?? 1) / tokens);
      total = total ? total.add(part) : part;
    }
    return total;
  });
}
