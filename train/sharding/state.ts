/**
 * Checkpoints of a training whose state is divided: the files of one device. Rank 0 writes them and asks the others for their pieces, a chunk at a
 * time; a run that is resumed reads only its own pieces, whatever the number of ranks was.
 */
import { ArgumentError } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import type { Optimizer } from "../../model/nn/optim/index.ts";
import type { FilePart, SavedTensor } from "../optimizer_file.ts";
import { joined, overlap } from "./pieces.ts";
import type { Piece, Shards } from "./shards.ts";

/** Bytes of a row of the optimizer's table of steps: three f32. */
const STEPS_ROW = 12;

/** What rank 0 asks for: bytes of the whole of a tensor. Null: nothing more. */
type Request = { readonly key: string; readonly at: number; readonly length: number } | null;

export class ShardedState {
  private readonly shards: Shards;
  private readonly tensors: Readonly<Record<string, Tensor>>;
  /** The pieces by the names of their tensors in the files. */
  private readonly pieces = new Map<string, Piece>();

  constructor(shards: Shards, optimizer: Optimizer) {
    this.shards = shards;
    this.tensors = { ...optimizer.stateDict(), ...optimizer.averages() };
    for (const piece of shards.pieces)
      for (const suffix of ["", ".m", ".v", ".master"]) this.pieces.set(piece.name + suffix, piece);
  }

  /** The tensors of `own`, a part of this rank's state, whole, for `saveTensors` in rank 0 while the others `serve`. */
  whole(own: Readonly<Record<string, Tensor>>): Record<string, SavedTensor> {
    return Object.fromEntries(
      Object.entries(own).map(([key, tensor]) => {
        const piece = this.pieces.get(key);
        if (!piece) return [key, tensor];
        const { shape } = piece.parameter;
        const readBytes = (at: number, length: number): Promise<Uint8Array> => this.ask({ key, at, length });
        return [key, { dtype: tensor.dtype, shape, isContiguous: true, storage: tensor.storage, check: () => undefined, toString: () => key, readBytes }]; // prettier-ignore
      }),
    );
  }

  /** Where this rank's tensors lie in the files. */
  get parts(): ReadonlyMap<string, FilePart> {
    const parts = new Map<string, FilePart>();
    const rows = [...this.shards.pieces.keys()].filter((i) => this.shards.pieces[i]!.tensor);
    const ranges = rows.map((i) => ({ from: i * STEPS_ROW, bytes: STEPS_ROW }));
    parts.set("steps", { shape: [this.shards.pieces.length, 3], ranges });
    for (const [key, { parameter, start, count, tensor }] of this.pieces)
      parts.set(key, { shape: parameter.shape, ranges: [{ from: 4 * start, bytes: 4 * count }], isAbsent: !tensor });
    return parts;
  }

  /** In the ranks that do not write: answers what rank 0 asks for until it ends. */
  async serve(): Promise<void> {
    for (;;) if ((await this.answer(null)) === null) return;
  }

  /** Rank 0 asks for nothing more. */
  async end(): Promise<void> {
    await this.answer(null);
  }

  private async ask(request: Request): Promise<Uint8Array> {
    return (await this.answer(request))!;
  }

  /** Rank 0's `request`, answered by all: in rank 0 resolves to the bytes; null if it asks for nothing more. */
  private answer(own: Request): Promise<Uint8Array | null> {
    return this.shards.ranks.inTurn(async (wire) => {
      const [first] = await wire.tell(new TextEncoder().encode(wire.rank === 0 ? JSON.stringify(own) : ""));
      const request = JSON.parse(new TextDecoder().decode(first)) as Request;
      if (!request) return null;
      const nothing = new Array<Uint8Array>(wire.size - 1).fill(new Uint8Array());
      return joined(await wire.allToAll([await this.own(request), ...nothing]));
    });
  }

  /** This rank's bytes of what is asked for. */
  private async own({ key, at, length }: NonNullable<Request>): Promise<Uint8Array> {
    const piece = this.pieces.get(key);
    if (!piece) throw new ArgumentError(`sharding: rank 0 must ask for a tensor of the optimizer; got ${key}. Start all ranks with the same release.`); // prettier-ignore
    const from = 4 * piece.start;
    const { start, count } = overlap({ start: from, count: 4 * piece.count }, { start: at, count: length });
    return count ? this.tensors[key]!.readBytes(start - from, count) : new Uint8Array();
  }
}
