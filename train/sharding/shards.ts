/**
 * The state of training, divided among ranks (Rajbhandari et al. 2020, ZeRO): each keeps masters, moments and averages of its pieces of the
 * parameters (`optimizer`), the sums of gradients of these alone (`gradients`), and between the uses of a layer the weights of these alone
 * (`parameters`). What is computed is the same, bit for bit.
 */
import { ArgumentError, elementBytes, noGrad, scope, tensor } from "../../engine/index.ts";
import type { Tensor } from "../../engine/index.ts";
import { clone } from "../../kernels/index.ts";
import type { Parameter } from "../../model/nn/module.ts";
import type { Ranks } from "../ranks.ts";
import { normOfPieces } from "./norm.ts";
import { batchesOf, joined, pieceOf } from "./pieces.ts";
import type { Range } from "./pieces.ts";

export type Sharding = "optimizer" | "gradients" | "parameters";

/** Bytes that are gathered at a time: host memory holds about twice as many. A single parameter may be larger. */
const BATCH_BYTES = 2 ** 28;

/** What this rank keeps of a parameter. */
export interface Piece extends Range {
  readonly name: string;
  readonly parameter: Parameter;
  /** Its elements, [count]: a part of the parameter, or with `parameters` a tensor of its own. Null if there are none. */
  readonly tensor: Tensor | null;
}

export class Shards {
  readonly ranks: Ranks;
  readonly kind: Sharding;
  readonly pieces: readonly Piece[];
  private readonly units: readonly (readonly Piece[])[];
  /** Weights of units that were asked for, by unit. */
  private readonly asked = new Map<number, Promise<Uint8Array[][]>>();

  /**
   * @param trained parameters by name, the same in all ranks
   * @param units parts of them that are used together; with `parameters` their weights are freed until `gather`
   */
  constructor(
    trained: ReadonlyMap<string, Parameter>,
    { ranks, kind, units }: { readonly ranks: Ranks; readonly kind: Sharding; readonly units: readonly (readonly Parameter[])[] }, // prettier-ignore
  ) {
    this.ranks = ranks;
    this.kind = kind;
    this.pieces = [...trained].map(([name, parameter]) => {
      const { start, count } = pieceOf(parameter.size, ranks.rank, ranks.size);
      return { name, parameter, start, count, tensor: count ? pieceTensor(parameter, { start, count }, kind) : null };
    });
    if (this.pieces.every((piece) => !piece.tensor))
      throw new ArgumentError(`sharding: every rank must have a part of the trained parameters; got none for rank ${ranks.rank} of ${ranks.size}. Use fewer ranks, or sharding=none.`); // prettier-ignore
    const byParameter = new Map(this.pieces.map((piece) => [piece.parameter as Tensor, piece]));
    this.units = units.map((unit) => unit.flatMap((parameter) => byParameter.get(parameter) ?? []));
    for (const unit of this.units.keys()) this.evict(unit);
  }

  /** Takes the sum of the gradients of this rank's piece of `parameter`, f32. */
  readonly keep = (parameter: Tensor, bytes: Uint8Array): void => {
    const piece = this.pieces.find((one) => one.parameter === parameter)!;
    const values = new Float32Array(bytes.buffer, bytes.byteOffset, piece.count);
    piece.tensor!.grad = tensor(values, { device: parameter.device }).keep();
  };

  /** Drops the gradients of the pieces. */
  zeroGradients(): void {
    for (const { tensor: own } of this.pieces) {
      own?.grad?.dispose();
      if (own) own.grad = null;
    }
  }

  /** The norm of the summed gradients of `used`, f32 [1]; null if there are none. */
  async norm(used: ReadonlySet<Tensor>): Promise<Tensor | null> {
    const parts = this.pieces
      .filter(({ parameter }) => used.has(parameter))
      .map(({ parameter, tensor: piece }) => ({ parameter, grad: piece?.grad ?? null }));
    return parts.length ? normOfPieces(parts, this.ranks) : null;
  }

  /** Gives the changed pieces of `used` to all ranks, whose weights are whole. Not with `parameters`, where they are gathered when they are used. */
  async spread(used: ReadonlySet<Tensor>): Promise<void> {
    if (this.kind === "parameters") return;
    await this.fill(this.pieces.filter(({ parameter }) => used.has(parameter)));
  }

  /** Asks for the weights of a unit, which arrive while other work is done. */
  ask(unit: number): void {
    const pieces = this.units[unit];
    if (this.kind !== "parameters" || !pieces?.length || this.asked.has(unit)) return;
    const batches = batchesOf(pieces, bytesOf, BATCH_BYTES);
    const asked = Promise.all(batches.map((batch) => this.gatherBytes(batch)));
    asked.catch(() => undefined); // `gather` throws it
    this.asked.set(unit, asked);
  }

  /** Puts the whole weights of a unit on the device. */
  async gather(unit: number): Promise<void> {
    const pieces = this.units[unit]!;
    if (this.kind !== "parameters" || !pieces.length) return;
    this.ask(unit);
    const started = performance.now();
    const batches = await this.asked.get(unit)!;
    this.ranks.traffic.ms += performance.now() - started;
    this.asked.delete(unit);
    for (const storage of storagesOf(pieces)) storage.restore();
    for (const [b, batch] of batchesOf(pieces, bytesOf, BATCH_BYTES).entries()) {
      this.write(batch, batches[b]!);
      await pieces[0]!.parameter.device.throttle();
    }
  }

  /** Frees the whole weights of a unit. */
  evict(unit: number): void {
    if (this.kind === "parameters") for (const storage of storagesOf(this.units[unit]!)) storage.evict();
  }

  /** Runs `work` with all weights whole on the device. All ranks call it. */
  async whole<T>(work: () => Promise<T>): Promise<T> {
    for (const unit of this.units.keys()) await this.gather(unit);
    try {
      return await work();
    } finally {
      for (const unit of this.units.keys()) this.evict(unit);
    }
  }

  dispose(): void {
    this.zeroGradients();
    for (const { tensor: own } of this.pieces) own?.dispose();
  }

  private async fill(pieces: readonly Piece[]): Promise<void> {
    const started = performance.now();
    for (const batch of batchesOf(pieces, bytesOf, BATCH_BYTES)) {
      this.write(batch, await this.gatherBytes(batch));
      await batch[0]!.parameter.device.throttle();
    }
    this.ranks.traffic.ms += performance.now() - started;
  }

  /** The bytes of all ranks' pieces of some parameters, one after the other, by rank. */
  private gatherBytes(pieces: readonly Piece[]): Promise<Uint8Array[]> {
    const own = Promise.all(pieces.flatMap(({ tensor: piece }) => piece?.readBytes() ?? []));
    own.catch(() => undefined);
    const lengths = Array.from(
      { length: this.ranks.size },
      (_, rank) =>
      pieces.reduce((sum, { parameter }) => sum + elementBytes(parameter.dtype, pieceOf(parameter.size, rank, this.ranks.size).count), 0), // prettier-ignore
    );
    return this.ranks.inTurn(async (wire) => wire.allGather(joined(await own), lengths));
  }

  private write(pieces: readonly Piece[], given: readonly Uint8Array[]): void {
    const at = given.map(() => 0);
    for (const { parameter } of pieces)
      for (const [rank, bytes] of given.entries()) {
        const { start, count } = pieceOf(parameter.size, rank, given.length);
        const length = elementBytes(parameter.dtype, count);
        const isThere = this.kind !== "parameters" && rank === this.ranks.rank;
        if (length && !isThere)
          parameter.writeBytes(bytes.subarray(at[rank], at[rank]! + length), elementBytes(parameter.dtype, start));
        at[rank]! += length;
      }
  }
}

const bytesOf = ({ parameter }: Piece): number => elementBytes(parameter.dtype, parameter.size);

const storagesOf = (pieces: readonly Piece[]): Set<Tensor["storage"]> =>
  new Set(pieces.map(({ parameter }) => parameter.storage));

function pieceTensor(parameter: Parameter, { start, count }: Range, kind: Sharding): Tensor {
  const part = parameter.strided([count], [1], parameter.offset + start);
  if (kind !== "parameters") return part.keep();
  const own = noGrad(() => scope(() => clone(part))).keep();
  part.dispose();
  return own;
}
