/** Entries of the tape. `autograd.ts` puts ops on the tape and walks it. */
import type { Tensor } from "./tensor.ts";

/** The gradient of an input as far as it has been added up. */
export interface Prior {
  /** f32 if the input is a leaf; null if there is none yet. */
  readonly sum: Tensor | null;
  /** True if the sum may be overwritten. */
  readonly inPlace: boolean;
}

/** For a backward that adds to the gradients of its inputs itself, in the launch that makes its own. */
export interface Priors {
  /**
   * Takes over the adding for input `i`: what backward returns for it must then be the complete sum, in a new tensor, in `sum` itself, or in a
   * part of a tensor of which nothing else writes this part. Null if the backward cannot do so (the input occurs twice, or needs no gradient).
   */
  take(i: number): Prior | null;
}

/** Maps the gradient of the result to the gradients of the inputs; null if none is needed. `saved` are the saved tensors. */
export type Backward = (
  grad: Tensor,
  saved: readonly Tensor[],
  needs: readonly boolean[],
  priors: Priors,
) => readonly (Tensor | null | undefined)[];

let nextId = 0;

/** Returns the number of the next entry: earlier entries have lower numbers. */
export const nextTapeId = (): number => nextId;

/** Parts of an entry of the tape; the entry disposes the handles in `saved`. */
interface TapeEntry {
  readonly name: string;
  readonly label: string;
  readonly edges: readonly (TapeNode | Tensor | null)[];
  readonly shape: readonly number[];
  readonly saved: readonly Tensor[];
  readonly backward: Backward;
}

/** One entry of the tape. It lives as long as its result, or as an entry made from its result. */
export class TapeNode {
  readonly id: number;
  readonly name: string;
  readonly label: string;
  /** Per input: the entry that made it, the leaf itself, or null if it needs no gradient. */
  readonly edges: readonly (TapeNode | Tensor | null)[];
  readonly shape: readonly number[];
  readonly hooks: ((grad: Tensor) => Tensor | void)[] = [];
  saved: { tensor: Tensor; version: number }[];
  backward: Backward | null;
  private users = 1;

  constructor({ name, label, edges, shape, saved, backward }: TapeEntry) {
    this.id = nextId++;
    this.name = name;
    this.label = label;
    this.edges = edges;
    this.shape = shape;
    this.saved = saved.map((tensor) => ({ tensor, version: tensor.storage.version }));
    this.backward = backward;
    for (const edge of edges) if (edge instanceof TapeNode) edge.users++;
  }

  /** Removes a user; the last one frees the saved tensors and releases the entries of the inputs. */
  release(): void {
    // A list, not recursion: chains may be longer than the call stack.
    const open: TapeNode[] = [this];
    for (let node = open.pop(); node; node = open.pop()) {
      if (--node.users > 0) continue;
      node.free();
      for (const edge of node.edges) if (edge instanceof TapeNode) open.push(edge);
    }
  }

  /** Frees the saved tensors; the entry cannot be used afterwards. */
  free(): void {
    for (const { tensor: saved } of this.saved) saved.dispose();
    this.saved = [];
    this.backward = null;
  }
}
