/**
 * `Ranks` over any way of passing bytes between processes. Gradients are summed in rank order in f32, which no library of
 * collectives promises: each process gets one shard of a bucket from all others, sums it on its device, and gives the sum to all. That moves
 * 2 (P - 1) / P of the gradients' bytes, as a ring does, and gives the same bits in every run.
 */
import { JanusError, messageOf } from "../engine/errors.ts";
import { scope, tensor } from "../engine/index.ts";
import type { Device, Tensor } from "../engine/index.ts";
import { add, contiguous, zeros } from "../kernels/index.ts";
import type { Ranks } from "./ranks.ts";

/** Passes bytes between processes; all of them make the same calls in the same order. */
export interface Transport {
  readonly rank: number;
  readonly size: number;
  /** Gives `own` to all processes; resolves to what each has given, in rank order. */
  allGather(own: Uint8Array): Promise<Uint8Array[]>;
  /** Gives `parts[p]` to process p; resolves to what each has given this one, in rank order. */
  allToAll(parts: readonly Uint8Array[]): Promise<Uint8Array[]>;
}

/** An error in another process, or processes that do not do the same work. */
export class RankError extends JanusError {}

/** Throws `RankError`, in every process, if one of them has another value for one of these. */
export async function requireSame(ranks: Ranks, own: Readonly<Record<string, string | number>>): Promise<void> {
  const all = await ranks.gather(own);
  for (const [name, first] of Object.entries(all[0]!))
    for (const [rank, { [name]: other }] of all.entries())
      if (other !== first)
        throw new RankError(`train: all ranks must have the same ${name}; rank 0 has ${first}, rank ${rank} has ${other}. Start them all with the same command, files and release.`); // prettier-ignore
}

/** Elements of a bucket: 25 MB of f32, as PyTorch's DistributedDataParallel has. */
const BUCKET = (25 * 2 ** 20) / 4;

/** A range of a gradient, in elements. */
interface Segment {
  readonly parameter: Tensor;
  readonly start: number;
  readonly count: number;
}

export class RankGroup implements Ranks {
  readonly rank: number;
  readonly size: number;
  /** Bytes that this process has sent to others for gradients, and how long it has waited for them, ms. */
  readonly traffic = { bytes: 0, ms: 0 };
  private readonly transport: Transport;
  private readonly bucket: number;

  /** @param options.bucket elements of gradients that are summed at a time (default: 25 MB of f32) */
  constructor(transport: Transport, options: { readonly bucket?: number } = {}) {
    this.transport = transport;
    this.rank = transport.rank;
    this.size = transport.size;
    this.bucket = options.bucket ?? BUCKET;
  }

  async once<T>(work: () => Promise<T>): Promise<T> {
    let own: { value?: T; error?: string } = {};
    let done: Promise<T> | null = null;
    if (this.rank === 0) {
      done = work();
      own = await done.then(
        (value) => ({ value }),
        (error: unknown) => ({ error: messageOf(error) }),
      );
    }
    const [first] = await this.gather(own);
    if (done) return done;
    if (first!.error !== undefined) throw new RankError(`rank 0: ${first!.error}`);
    return first!.value!;
  }

  async gather<T>(value: T): Promise<readonly T[]> {
    const all = await this.transport.allGather(new TextEncoder().encode(JSON.stringify(value)));
    return all.map((bytes) => JSON.parse(new TextDecoder().decode(bytes)) as T);
  }

  async sumGradients(given: Iterable<Tensor>): Promise<void> {
    const parameters = [...given];
    const has = await this.gather(parameters.map(({ grad }) => (grad ? "1" : "0")).join(""));
    if (has.some((flags) => flags.length !== parameters.length))
      throw new RankError(`sumGradients: all ranks must have the same parameters; got ${has.map((flags) => flags.length).join(", ")}. Start all ranks with the same settings and model.`); // prettier-ignore
    const used = parameters.filter((_, i) => has.some((flags) => flags[i] === "1"));
    const own = new Set(used.filter(({ grad }) => grad !== null));
    for (const parameter of used) settleGradient(parameter);
    for (const bucket of bucketsOf(used, this.bucket)) await this.sumBucket(bucket, own);
  }

  private async sumBucket(bucket: readonly Segment[], own: ReadonlySet<Tensor>): Promise<void> {
    const values = await readBucket(bucket, own);
    const share = Math.ceil(values.length / this.size);
    const ranges = Array.from({ length: this.size }, (_, p) => [p * share, (p + 1) * share] as const);
    const started = performance.now();
    const parts = await this.transport.allToAll(ranges.map(([from, to]) => bytesOf(values.subarray(from, to))));
    const waited = performance.now() - started;
    const sum = await sumInOrder(parts, bucket[0]!.parameter.device);
    const again = performance.now();
    const sums = await this.transport.allGather(sum);
    this.traffic.ms += waited + performance.now() - again;
    this.traffic.bytes += 4 * values.length - parts[this.rank]!.length + (this.size - 1) * sum.length;
    writeBucket(bucket, sums);
  }
}

const bytesOf = (values: Float32Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** Gives the parameter a contiguous gradient, if it has none. */
function settleGradient(parameter: Tensor): void {
  const { grad } = parameter;
  if (grad?.isContiguous) return;
  parameter.grad = (grad ? contiguous(grad) : zeros(parameter.shape, { device: parameter.device })).keep();
  grad?.dispose();
}

/** All gradients one after the other, in pieces of `size` elements. */
function bucketsOf(parameters: readonly Tensor[], size: number): Segment[][] {
  const buckets: Segment[][] = [];
  let room = 0;
  for (const parameter of parameters)
    for (let start = 0; start < parameter.size;) {
      if (room === 0) room = buckets.push([]) && size;
      const count = Math.min(room, parameter.size - start);
      buckets.at(-1)!.push({ parameter, start, count });
      start += count;
      room -= count;
    }
  return buckets;
}

async function readBucket(bucket: readonly Segment[], own: ReadonlySet<Tensor>): Promise<Float32Array> {
  const values = new Float32Array(bucket.reduce((sum, { count }) => sum + count, 0));
  let at = 0;
  for (const { parameter, start, count } of bucket) {
    // -0 is what changes no sum, not even that of -0.
    if (!own.has(parameter)) values.fill(-0, at, at + count);
    else bytesOf(values).set(await parameter.grad!.readBytes(4 * start, 4 * count), 4 * at);
    at += count;
  }
  return values;
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

function writeBucket(bucket: readonly Segment[], sums: readonly Uint8Array[]): void {
  const all = new Uint8Array(sums.reduce((length, { length: own }) => length + own, 0));
  let at = 0;
  for (const sum of sums) {
    all.set(sum, at);
    at += sum.length;
  }
  at = 0;
  for (const { parameter, start, count } of bucket) {
    parameter.grad!.writeBytes(all.subarray(at, at + 4 * count), 4 * start);
    at += 4 * count;
  }
}
