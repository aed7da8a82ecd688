/** The norm of gradients whose pieces lie in several ranks, with the bits that one device gets. */
import { noGrad, scope, tensor } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { gradNormOf, gradNormPartials, gradNormPlan, zeros } from "../../kernels/index.ts";
import type { GradNormPlan } from "../../kernels/index.ts";
import type { Ranks, Wire } from "../ranks.ts";
import { batchesOf, joined, pieceOf } from "./pieces.ts";

/** Gradients that are put together at a time, in all ranks. A single one may be larger. */
const BATCH_BYTES = 2 ** 29;

/** A gradient in pieces. */
export interface NormPart {
  readonly parameter: Tensor;
  /** This rank's piece, f32; null if it has none. */
  readonly grad: Tensor | null;
}

/**
 * The norm of `parts`, f32 [1], with the bits of `globalGradNorm`. That adds up squares in strides through each gradient, so each gradient is put together in
 * one of the ranks: the ranks send each other a P-th part of the gradients more. All ranks call it with the same parameters.
 */
export async function normOfPieces(parts: readonly NormPart[], ranks: Ranks): Promise<Tensor> {
  const { device } = parts[0]!.parameter;
  const sizes = parts.map(({ parameter }) => parameter.size);
  const plan = gradNormPlan(device, sizes);
  const owners = ownersOf(sizes, ranks.size);
  const partial = noGrad(() => scope(() => zeros([plan.total, 2], { device }))).keep();
  try {
    for (const batch of batchesOf([...parts.keys()], (i) => 4 * sizes[i]!, BATCH_BYTES))
      await ranks.inTurn(async (wire) => {
        const whole = await putTogether(parts, { batch, owners }, wire);
        for (const [i, bytes] of whole) {
          const grad = tensor(new Float32Array(bytes.buffer), { device }).keep();
          noGrad(() => gradNormPartials(plan, i, grad, partial));
          grad.dispose();
          await device.throttle();
        }
      });
    await joinPartials(plan, owners, partial, ranks);
    return noGrad(() => gradNormOf(partial)).keep();
  } finally {
    partial.dispose();
  }
}

/** The whole gradients, among those numbered in `batch`, of which this rank adds up the squares. */
async function putTogether(
  parts: readonly NormPart[],
  { batch, owners }: { readonly batch: readonly number[]; readonly owners: readonly number[] },
  wire: Wire,
): Promise<Map<number, Uint8Array>> {
  const own = new Map<number, Uint8Array>();
  for (const i of batch) own.set(i, (await parts[i]!.grad?.readBytes()) ?? new Uint8Array());
  const of = (rank: number): number[] => batch.filter((i) => owners[i] === rank);
  const given = await wire.allToAll(Array.from({ length: wire.size }, (_, rank) => joined(of(rank).map((i) => own.get(i)!)))); // prettier-ignore
  const at = given.map(() => 0);
  return new Map(
    of(wire.rank).map((i) => {
      const ranges = given.map((bytes, rank) => {
        const length = 4 * pieceOf(parts[i]!.parameter.size, rank, wire.size).count;
        return bytes.subarray(at[rank], (at[rank]! += length));
      });
      return [i, joined(ranges).slice()];
    }),
  );
}

/** Fills in the partial sums that other ranks have computed. */
async function joinPartials(
  { windows }: GradNormPlan,
  owners: readonly number[],
  partial: Tensor,
  ranks: Ranks,
): Promise<void> {
  const pairs = (await partial.readBytes()).slice();
  const of = (rank: number): Uint8Array[] =>
    windows
      .filter((window) => owners[window.of] === rank)
      .map(({ first, parts }) => pairs.subarray(8 * first, 8 * (first + parts)));
  const all = await ranks.inTurn((wire) => wire.allGather(joined(of(wire.rank))));
  for (const [rank, bytes] of all.entries()) {
    let at = 0;
    for (const range of of(rank)) range.set(bytes.subarray(at, (at += range.length)));
  }
  partial.writeBytes(pairs);
}

/** Which rank adds up the squares of which gradient: the largest first, each by the rank that has least to do. */
function ownersOf(sizes: readonly number[], ranks: number): number[] {
  const loads = new Array<number>(ranks).fill(0);
  const owners = new Array<number>(sizes.length).fill(0);
  for (const i of [...sizes.keys()].sort((a, b) => sizes[b]! - sizes[a]! || a - b)) {
    owners[i] = loads.indexOf(Math.min(...loads));
    loads[owners[i]!]! += sizes[i]!;
  }
  return owners;
}
