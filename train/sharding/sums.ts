/**
 * The sums of gradients over ranks, in rank order in f32. Of each bucket a rank gets its share from all others and adds them up on its
 * device. Without sharding it then gives the sum to all: that moves 2 (P - 1) / P of the gradients' bytes, as a ring does. With sharding its
 * share is its pieces, and it keeps the sum. Either way the bits are the same in every run.
 */
import { scope, tensor } from "../../engine/index.ts";
import type { Device, Tensor } from "../../engine/index.ts";
import { add, contiguous, zeros } from "../../kernels/index.ts";
import { RankError } from "../ranks.ts";
import type { Ranks, Wire } from "../ranks.ts";
import { joined, overlap, pieceOf } from "./pieces.ts";
import type { Range } from "./pieces.ts";

/** A range of a gradient. */
interface Segment extends Range {
  readonly parameter: Tensor;
}

/** Elements of the first bucket: 1 MB, so that ranks begin to send early. */
const FIRST_BUCKET = 2 ** 18;
/** Gradients that are read back ahead of their buckets while backward is launched: as many bytes of host memory. */
const AHEAD_BYTES = 2 ** 30;

/** Takes the sum of a rank's part of a gradient, f32. */
export type Keep = (parameter: Tensor, bytes: Uint8Array) => void;

export class GradientSums {
  private readonly ranks: Ranks;
  private readonly order: readonly Tensor[];
  private readonly keep: Keep | null;
  private readonly buckets: readonly Segment[][];
  /** Gradients in host memory, or on their way there; null for a parameter without one. */
  private readonly reads = new Map<Tensor, Promise<Uint8Array | null>>();
  /** The sums of this rank's pieces. */
  private readonly sums = new Map<Tensor, Uint8Array>();
  private readonly sent: Promise<void>[] = [];
  private aheadBytes = 0;
  /** Parameters, in order, whose gradients do not change any more. */
  private final = 0;
  private readonly usedParameters = new Set<Tensor>();

  /**
   * @param order parameters in the order in which their gradients become final; the same in all ranks
   * @param keep takes the sums of this rank's pieces; the gradients are freed. Without it all ranks get all sums in place of their gradients
   */
  constructor(ranks: Ranks, order: readonly Tensor[], keep: Keep | null = null) {
    this.ranks = ranks;
    this.order = order;
    this.keep = keep;
    this.buckets = bucketsOf(order, ranks.bucket);
  }

  /** The gradients of the first `count` parameters are final: those whose bucket is complete are sent while other work is done. */
  ready(count: number): void {
    for (; this.final < count; this.final++) {
      const parameter = this.order[this.final]!;
      if (this.aheadBytes < AHEAD_BYTES) {
        this.aheadBytes += 4 * parameter.size;
        void this.read(parameter);
      }
    }
    while (this.sent.length < this.buckets.length && this.isFinal(this.buckets[this.sent.length]!)) {
      const bucket = this.buckets[this.sent.length]!;
      const done = this.ranks.inTurn((wire) => this.sumBucket(bucket, wire));
      done.catch(() => undefined); // `finish` throws it
      this.sent.push(done);
    }
  }

  /** Takes the gradient of a parameter from `bytes`, f32, instead of from its `.grad`. Before it is `ready`. */
  give(parameter: Tensor, bytes: Promise<Uint8Array | null>): void {
    this.reads.set(parameter, bytes);
  }

  /** Waits until at most `count` of the buckets that are ready have not been summed. */
  async settle(count: number): Promise<void> {
    if (this.sent.length > count) await this.sent[this.sent.length - count - 1];
  }

  /** Sums what is left. Resolves to the parameters that any rank has a gradient of. */
  async finish(): Promise<ReadonlySet<Tensor>> {
    this.ready(this.order.length);
    await Promise.all(this.sent);
    return this.usedParameters;
  }

  private isFinal(bucket: readonly Segment[]): boolean {
    return this.order.indexOf(bucket.at(-1)!.parameter) < this.final;
  }

  private read(parameter: Tensor): Promise<Uint8Array | null> {
    const known = this.reads.get(parameter);
    if (known) return known;
    const started = readGradient(parameter);
    if (this.keep && parameter.grad) {
      parameter.grad.dispose(); // the copy to the host is on its way
      parameter.grad = null;
    }
    this.reads.set(parameter, started);
    return started;
  }

  private async sumBucket(bucket: readonly Segment[], wire: Wire): Promise<void> {
    const { size, rank } = this.ranks;
    const own = await Promise.all(bucket.map(({ parameter }) => this.read(parameter)));
    const flags = await wire.tell(
      joined([countBytes(this.order.length), Uint8Array.from(own, (bytes) => Number(bytes !== null))]),
    );
    this.requireSame(flags);
    const used = bucket.filter((_, i) => flags.some((flag) => flag[4 + i]));
    for (const { parameter } of used) this.usedParameters.add(parameter);
    const held = new Map(bucket.map(({ parameter }, i) => [parameter, own[i]!]));
    for (const { parameter, start, count } of bucket) if (start + count === parameter.size) this.release(parameter);
    if (!used.length) return;
    const cuts = Array.from({ length: size }, (_, p) =>
      this.keep ? piecesOf(used, p, size) : evenPart(used, p, size),
    );
    const lengths = cuts.map((cut) => 4 * cut.reduce((sum, { count }) => sum + count, 0));
    const parts = await wire.allToAll(
      cuts.map((cut) => joined(cut.map((segment) => bytesOf(held, segment)))),
      lengths.map(() => lengths[rank]!),
    );
    const sum = await sumInOrder(parts, used[0]!.parameter.device);
    if (this.keep) return this.keepSums(cuts[rank]!, sum);
    const sums = joined(await wire.allGather(sum, lengths));
    let at = 0;
    for (const { parameter, start, count } of used) {
      settleGradient(parameter).writeBytes(sums.subarray(at, at + 4 * count), 4 * start);
      at += 4 * count;
    }
  }

  private release(parameter: Tensor): void {
    this.reads.delete(parameter);
    this.aheadBytes -= Math.min(this.aheadBytes, 4 * parameter.size);
  }

  private requireSame(flags: readonly Uint8Array[]): void {
    const counts = flags.map((flag) => new DataView(flag.buffer, flag.byteOffset).getUint32(0, true));
    if (counts.some((count) => count !== this.order.length))
      throw new RankError(`sumGradients: all ranks must have the same parameters; got ${counts.join(", ")}. Start all ranks with the same settings and model.`); // prettier-ignore
  }

  /** Puts the sums of this rank's part of a bucket to the others of their pieces. */
  private keepSums(cut: readonly Segment[], sum: Uint8Array): void {
    const { rank, size } = this.ranks;
    let at = 0;
    for (const { parameter, start, count } of cut) {
      const piece = pieceOf(parameter.size, rank, size);
      const whole = this.sums.get(parameter) ?? new Uint8Array(4 * piece.count);
      this.sums.set(parameter, whole);
      whole.set(sum.subarray(at, at + 4 * count), 4 * (start - piece.start));
      at += 4 * count;
      if (start + count < piece.start + piece.count) continue;
      this.sums.delete(parameter);
      this.keep!(parameter, whole);
    }
  }
}

const countBytes = (count: number): Uint8Array => {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, count, true);
  return bytes;
};

/** Starts to read the gradient of a parameter; null if it has none. */
export function readGradient(parameter: Tensor): Promise<Uint8Array | null> {
  if (!parameter.grad) return Promise.resolve(null);
  const read = settleGradient(parameter).readBytes();
  read.catch(() => undefined); // who awaits it gets the error
  return read;
}

/** Gives the parameter a contiguous gradient, if it has none. */
function settleGradient(parameter: Tensor): Tensor {
  const { grad } = parameter;
  if (grad?.isContiguous) return grad;
  parameter.grad = (grad ? contiguous(grad) : zeros(parameter.shape, { device: parameter.device })).keep();
  grad?.dispose();
  return parameter.grad;
}

/** All gradients one after the other, in pieces of `size` elements, the first one of at most 1 MB. */
function bucketsOf(parameters: readonly Tensor[], size: number): Segment[][] {
  const buckets: Segment[][] = [];
  let room = 0;
  for (const parameter of parameters)
    for (let start = 0; start < parameter.size;) {
      if (room === 0) room = buckets.push([]) > 1 ? size : Math.min(size, FIRST_BUCKET);
      const count = Math.min(room, parameter.size - start);
      buckets.at(-1)!.push({ parameter, start, count });
      start += count;
      room -= count;
    }
  return buckets;
}

/** The segments of a bucket that are in the pieces of rank `rank`. */
const piecesOf = (bucket: readonly Segment[], rank: number, ranks: number): Segment[] =>
  bucket.flatMap(({ parameter, ...range }) => {
    const own = overlap(range, pieceOf(parameter.size, rank, ranks));
    return own.count ? [{ parameter, ...own }] : [];
  });

/** Part `rank` of `ranks` equal ones of a bucket. */
function evenPart(bucket: readonly Segment[], rank: number, ranks: number): Segment[] {
  const share = Math.ceil(bucket.reduce((sum, { count }) => sum + count, 0) / ranks);
  const part = { start: rank * share, count: share };
  let at = 0;
  return bucket.flatMap(({ parameter, start, count }) => {
    const own = overlap({ start: at, count }, part);
    const segment = { parameter, start: start + own.start - at, count: own.count };
    at += count;
    return own.count ? [segment] : [];
  });
}

/** The bytes of a segment of this rank's gradient. -0, which changes no sum, not even that of -0, if it has none. */
function bytesOf(held: ReadonlyMap<Tensor, Uint8Array | null>, { parameter, start, count }: Segment): Uint8Array {
  const own = held.get(parameter);
  return own ? own.subarray(4 * start, 4 * (start + count)) : new Uint8Array(new Float32Array(count).fill(-0).buffer);
}

/** The sum of f32 arrays, the first plus the second, plus the third, and so on. */
async function sumInOrder(parts: readonly Uint8Array[], device: Device): Promise<Uint8Array> {
  if (parts[0]!.length === 0) return parts[0]!;
  const uploaded = parts.map((bytes) => tensor(new Float32Array(bytes.slice().buffer), { device }));
  const sum = scope(() => uploaded.reduce((total, part) => add(total, part)));
  try {
    return await sum.readBytes();
  } finally {
    for (const part of new Set([...uploaded, sum])) part.dispose();
  }
}
