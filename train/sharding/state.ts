/**
 * Checkpoints of a training whose state is divided: the files of one device. Each file is written by one rank, which asks the others for their pieces,
 * a chunk at a time, while they ask it for theirs; a run that is resumed reads only its own pieces, whatever the number of ranks was.
 */
import { messageOf } from "../../engine/errors.ts";
import { ArgumentError, sleep } from "../../engine/index.ts";
import type { DType, Tensor } from "../../engine/index.ts";
import type { Optimizer } from "../../model/nn/optim/index.ts";
import type { FilePart, SavedTensor } from "../optimizer_file.ts";
import { RankError } from "../ranks.ts";
import type { Wire } from "../ranks.ts";
import { joined, overlap } from "./pieces.ts";
import type { Piece, Shards } from "./shards.ts";

/** Bytes of a row of the optimizer's table of steps: three f32. */
const STEPS_ROW = 12;
/** Pause of ranks that are all busy with their files, ms. */
const PAUSE = 1;

/** Tensors of the optimizer that have a file. */
export type OptimizerPart = "stateDict" | "averages";
const PARTS: readonly OptimizerPart[] = ["stateDict", "averages"];

interface Spec {
  readonly key: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** Bytes of a whole tensor that a rank asks for. */
interface Request {
  readonly key: string;
  readonly at: number;
  readonly length: number;
}

/** What a rank says in a round. */
interface Turn {
  readonly request: Request | null;
  /** It has written its files. */
  readonly isOver: boolean;
}

export class ShardedState {
  private readonly shards: Shards;
  private readonly tensors: Readonly<Record<string, Tensor>>;
  /** Whole tensors, of which this rank may have no piece. */
  private readonly specs: Readonly<Record<OptimizerPart, readonly Spec[]>>;
  /** The pieces by the names of their tensors in the files. */
  private readonly pieces: ReadonlyMap<string, Piece>;
  private asked: { readonly request: Request; readonly answer: (bytes: Uint8Array) => void; readonly fail: (error: unknown) => void } | null = null; // prettier-ignore

  /** Why nothing is answered any more. */
  private failure: { readonly error: unknown } | null = null;

  private constructor(
    shards: Shards,
    tensors: Readonly<Record<string, Tensor>>,
    pieces: ReadonlyMap<string, Piece>,
    specs: Readonly<Record<OptimizerPart, readonly Spec[]>>,
  ) {
    this.shards = shards;
    this.tensors = tensors;
    this.pieces = pieces;
    this.specs = specs;
  }

  /** All ranks call it. */
  static async of(shards: Shards, optimizer: Optimizer): Promise<ShardedState> {
    const pieces = new Map(
      shards.pieces.flatMap((piece) =>
        ["", ".m", ".v", ".master"].map((suffix) => [piece.name + suffix, piece] as const),
      ),
    );
    const specsOf = (part: OptimizerPart): Spec[] =>
      Object.entries(optimizer[part]()).map(([key, { dtype, shape }]) => ({ key, dtype, shape: pieces.get(key)?.parameter.shape ?? shape })); // prettier-ignore
    // Rank 0 has a piece of every tensor.
    const [first] = await shards.ranks.gather(PARTS.map((part) => (shards.ranks.rank === 0 ? specsOf(part) : [])));
    const [stateDict, averages] = first!;
    const tensors = { ...optimizer.stateDict(), ...optimizer.averages() };
    return new ShardedState(shards, tensors, pieces, { stateDict: stateDict!, averages: averages! });
  }

  /** The whole tensors of a part, for `saveTensors` in `together`. */
  whole(part: OptimizerPart): Record<string, SavedTensor> {
    return Object.fromEntries(
      this.specs[part].map(({ key, dtype, shape }): [string, SavedTensor] => {
        const readBytes = (at: number, length: number): Promise<Uint8Array> =>
          new Promise((answer, fail) => {
            if (this.failure) fail(this.failure.error);
            else this.asked = { request: { key, at, length }, answer, fail };
          });
        const storage = this.tensors[key]?.storage ?? { version: 0 };
        return [key, { dtype, shape, isContiguous: true, storage, check: () => undefined, toString: () => key, readBytes }]; // prettier-ignore
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

  /**
   * Runs `write`, which reads tensors of `whole`, one at a time. All ranks call it, and answer each other until all have written. An error of `write` is
   * thrown when the others have written theirs; if one cannot read its pieces, all throw.
   */
  async together(write: () => Promise<void>): Promise<void> {
    let isOver = false;
    const written = write().finally(() => (isOver = true));
    written.catch(() => undefined); // awaited below
    try {
      while (await this.round({ request: this.asked?.request ?? null, isOver }));
    } catch (error) {
      this.failure = { error };
      this.asked?.fail(error);
      await written.catch(() => undefined);
      throw error;
    }
    return written;
  }

  /** Answers what ranks ask for, and takes the answer to `own`. Resolves to false if all have written. */
  private round(own: Turn): Promise<boolean> {
    return this.shards.ranks.inTurn(async (wire) => {
      const all = await tellAll(wire, own);
      if (all.every(({ isOver }) => isOver)) return false;
      if (all.every(({ request }) => !request)) await sleep(PAUSE);
      else {
        const read = await Promise.all(
          all.map(({ request }) => (request ? this.own(request) : Promise.resolve(new Uint8Array()))),
        ).catch((error: unknown) => ({ error }));
        const failed = await tellAll(
          wire,
          "error" in read ? `${this.shards.ranks.name}: ${messageOf(read.error)}` : "",
        );
        if ("error" in read) throw read.error;
        const first = failed.find(Boolean);
        if (first) throw new RankError(first);
        const answers = await wire.allToAll(read);
        if (own.request) this.take(joined(answers));
      }
      return true;
    });
  }

  private take(bytes: Uint8Array): void {
    const { answer } = this.asked!;
    this.asked = null;
    answer(bytes);
  }

  /** This rank's bytes of what is asked for; rank 0's of what is not divided. */
  private async own({ key, at, length }: Request): Promise<Uint8Array> {
    const piece = this.pieces.get(key);
    const tensor = this.tensors[key];
    if (!piece && !tensor) throw new ArgumentError(`sharding: ranks must ask for a tensor of the optimizer; got ${key}. Start all ranks with the same release.`); // prettier-ignore
    if (!piece) return this.shards.ranks.rank === 0 ? tensor!.readBytes(at, length) : new Uint8Array();
    const from = 4 * piece.start;
    const { start, count } = overlap({ start: from, count: 4 * piece.count }, { start: at, count: length });
    return count ? tensor!.readBytes(start - from, count) : new Uint8Array();
  }
}

/** Tells `own`, JSON, to all ranks. Resolves to what each has told. */
async function tellAll<T>(wire: Wire, own: T): Promise<T[]> {
  const all = await wire.tell(new TextEncoder().encode(JSON.stringify(own)));
  return all.map((bytes) => JSON.parse(new TextDecoder().decode(bytes)) as T);
}
