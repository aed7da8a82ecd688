/** Entries of the tape. `autograd.ts` puts ops on the tape and walks it. */
import type { Tensor } from "./tensor.ts";

/** Maps the gradient of the result to the gradients of the inputs; null if none is needed. `saved` are the saved tensors. */
export type Backward = (
  grad: Tensor,
  saved: readonly Tensor[],
  needs: readonly boolean[],
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
