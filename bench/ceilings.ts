/**
 * The ceilings of a run, measured in it: f32 multiply-adds, streaming read, streaming copy, and subgroup matrices on adapters that offer them.
 * Every share that the bench shows is one of these. They are measured again in each round: times of rounds are compared after dividing by what
 * the machine could do at that moment.
 */
import { empty, kernel, launch, profile } from "../engine/index.ts";
import type { Device, Tensor } from "../engine/index.ts";
import { full } from "../kernels/index.ts";

const fma = kernel("fma_loop", new URL("./fma_loop.wgsl", import.meta.url), { x: "read", y: "write" });
const stream = kernel("stream_read", new URL("./stream_read.wgsl", import.meta.url), { x: "read", y: "write" });
const copy = kernel("stream_copy", new URL("./stream_copy.wgsl", import.meta.url), { x: "read", y: "write" });

export interface Ceilings {
  /** f32 multiply-adds on registers, GFLOP/s. */
  readonly gflops: number;
  /** Streaming read, GB/s. */
  readonly readGbs: number;
  /** Streaming copy, GB/s read and written together. */
  readonly copyGbs: number;
  /** Multiply-adds of subgroup matrices, GFLOP/s, by configuration; empty if the adapter has none. */
  readonly matrices: Readonly<Record<string, number>>;
}

/** A loop over subgroup matrices of one configuration: what it launches, and FLOPs of a launch. */
export interface MatrixLoop {
  /** E.g. `16×16×16 f16→f32`. */
  readonly name: string;
  readonly run: () => void;
  readonly flops: number;
}

/** Loops for an adapter's configurations. None yet: kernels on subgroup matrices come with their own. */
export type MatrixLoops = (device: Device) => readonly MatrixLoop[];
const noMatrixLoops: MatrixLoops = () => [];

const GROUPS = { software: 512, hardware: 16_384 };
/** Rounds of the FMA loop: 10 ms on a CPU, and below the operations that one dispatch may have on a GPU. */
const ROUNDS = { software: 256, hardware: 768 };
/** Bytes of the streams: several times a CPU core's own caches, and several times the last level of a GPU. */
const STREAM_BYTES = { software: 32 << 20, hardware: 1 << 30 };

/** The probes of a device, which keep their buffers for the whole run. Needs timestamps. */
export class Probes implements Disposable {
  private readonly device: Device;
  private readonly tensors: Tensor[];
  private readonly fmaFlops: number;
  private readonly granules: number;
  private readonly launchFma: () => void;
  private readonly launchRead: () => void;
  private readonly launchCopy: () => void;
  private readonly loops: readonly MatrixLoop[];
  private best: Ceilings | null = null;

  constructor(device: Device, matrixLoops: MatrixLoops = noMatrixLoops) {
    this.device = device;
    const kind = device.capabilities.software ? "software" : "hardware";
    const { maxStorageBufferBindingSize, maxComputeWorkgroupsPerDimension } = device.limits;
    const groups = GROUPS[kind];
    const rounds = ROUNDS[kind];
    const perGroup = 64 * 8; // granules
    this.granules =
      perGroup *
      Math.min(
        maxComputeWorkgroupsPerDimension,
        Math.floor(Math.min(STREAM_BYTES[kind], maxStorageBufferBindingSize) / (16 * perGroup)),
      );
    this.fmaFlops = groups * 64 * rounds * 96;
    const small = full([32], 0.5, { device }).keep();
    const x = full([this.granules * 4], 0.5, { device }).keep();
    const y = empty([Math.max(groups * 256, x.size)], { device }).keep();
    this.tensors = [small, x, y];
    const grid = [this.granules / perGroup] as const;
    this.launchFma = () =>
      launch(fma, { buffers: { x: small, y }, constants: { ROUNDS: rounds }, grid: [groups], cost: { flops: this.fmaFlops, bytes: 0 } }); // prettier-ignore
    this.launchRead = () => launch(stream, { buffers: { x, y }, grid, cost: { flops: 0, bytes: this.granules * 18 } });
    this.launchCopy = () => launch(copy, { buffers: { x, y }, grid, cost: { flops: 0, bytes: this.granules * 32 } });
    this.loops = device.capabilities.subgroupMatrix.length ? matrixLoops(device) : [];
  }

  /** What the device reaches now: the better of `tries` tries. */
  async measure(tries = 2): Promise<Ceilings> {
    const { device } = this;
    const bestMs = async (run: () => void): Promise<number> => {
      let ms = Infinity;
      for (let i = 0; i < tries; i++) ms = Math.min(ms, (await profile(run, device)).totalMs);
      return ms;
    };
    const matrices: Record<string, number> = {};
    for (const { name, run, flops } of this.loops) matrices[name] = flops / (await bestMs(run)) / 1e6;
    const now: Ceilings = {
      gflops: this.fmaFlops / (await bestMs(this.launchFma)) / 1e6,
      readGbs: (this.granules * 18) / (await bestMs(this.launchRead)) / 1e6,
      copyGbs: (this.granules * 32) / (await bestMs(this.launchCopy)) / 1e6,
      matrices,
    };
    this.best = this.best ? higher(this.best, now) : now;
    return now;
  }

  /** The highest of all measurements so far, as ceilings should be. */
  get ceilings(): Ceilings {
    return this.best!;
  }

  [Symbol.dispose](): void {
    for (const t of this.tensors) t.dispose();
  }
}

function higher(a: Ceilings, b: Ceilings): Ceilings {
  const matrices = Object.fromEntries(
    Object.keys(b.matrices).map((name) => [name, Math.max(a.matrices[name] ?? 0, b.matrices[name]!)]),
  );
  return {
    gflops: Math.max(a.gflops, b.gflops),
    readGbs: Math.max(a.readGbs, b.readGbs),
    copyGbs: Math.max(a.copyGbs, b.copyGbs),
    matrices,
  };
}
