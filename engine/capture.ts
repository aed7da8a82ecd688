/**
 * Capture and replay: the launches of a function, kept with their pipelines, bind groups and parameters, run again without the
 * function. Nothing that changes between replays may be a host number: it must live in a tensor that a kernel reads.
 */
import { watchGradients, zeroGradients } from "./autograd.ts";
import { CaptureError, DisposedError } from "./errors.ts";
import { getDevice } from "./device.ts";
import type { Device } from "./device.ts";
import { joinLaunches } from "./fusion.ts";
import type { PoolBuffer } from "./pool.ts";
import { knownOptions, requireFunction } from "./options.ts";
import { refusePromise } from "./promise.ts";
import { scope, tensorsIn } from "./scope.ts";
import { nextStorageSerial } from "./storage.ts";
import type { Tensor } from "./tensor.ts";
import type { Launch, Storage } from "./types.ts";

export interface CaptureOptions {
  readonly device?: Device;
  /** Join neighbouring elementwise launches to one, with the same bits (default true). */
  readonly fuse?: boolean;
  /**
   * Check the capture: go back to the state before it, replay, go back again, run `fn` eagerly, and compare every result and every changed tensor
   * of the three runs bit for bit. `CaptureError` says what differs.
   */
  readonly verify?: boolean;
}

interface Step {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly offset: number;
  readonly hasParams: boolean;
  readonly grid: readonly [number, number, number];
}

const CHUNK_BYTES = 65536;

export class Captured<T> {
  /** What `fn` returned; its tensors are written again by each replay. */
  readonly result: T;
  /** The launches, in order. */
  readonly launches: readonly Launch[];
  private readonly device: Device;
  private readonly steps: readonly Step[];
  private readonly pinned: ReadonlySet<Storage>;
  /** What its launches write. */
  private readonly written: ReadonlySet<Storage>;
  private free: (() => void) | null;

  constructor(
    device: Device,
    result: T,
    launches: readonly Launch[],
    steps: readonly Step[],
    pinned: ReadonlySet<Storage>,
    written: ReadonlySet<Storage>,
    free: () => void,
  ) {
    this.device = device;
    this.result = result;
    this.launches = launches;
    this.steps = steps;
    this.pinned = pinned;
    this.written = written;
    this.free = free;
  }

  /** Runs the launches again, in one submit. */
  replay(): void {
    if (!this.free) throw new DisposedError("replay: the capture was disposed");
    const device = this.device;
    device.check();
    for (const storage of this.written) storage.markWritten();
    device.queue.beginReplay(this.launches);
    if (!device.gpu) return;
    const encoder = device.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    const offset = new Uint32Array(1);
    let last: GPUComputePipeline | null = null;
    for (const step of this.steps) {
      if (step.pipeline !== last) pass.setPipeline(step.pipeline);
      last = step.pipeline;
      if (step.hasParams) {
        offset[0] = step.offset;
        pass.setBindGroup(0, step.group, offset, 0, 1);
      } else pass.setBindGroup(0, step.group);
      pass.dispatchWorkgroups(step.grid[0], step.grid[1], step.grid[2]);
    }
    pass.end();
    device.queue.submit(encoder);
  }

  /** Releases the buffers; the result's tensors stay until they are disposed. Calling it twice is allowed. */
  dispose(): void {
    if (!this.free) return;
    this.free();
    this.free = null;
    for (const storage of this.pinned) storage.release();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Runs `fn` once and keeps its launches. Temporaries keep their buffers for the capture's life.
 * What is read after a replay is in the result, or was made before the capture and is changed in it.
 * Host data and read-backs inside `fn` are refused with `CaptureError`.
 */
export async function capture<T>(fn: () => T, options: CaptureOptions = {}): Promise<Captured<T>> {
  knownOptions("capture", options, ["device", "fuse", "verify"]);
  requireFunction("capture", fn);
  const device = options.device ?? getDevice();
  if (device.queue.isCapturing) throw new CaptureError("capture() inside capture(); capture the outer function only");
  device.check();
  device.flush();
  const recorder = new CaptureRecorder(device, options.verify ?? false);
  try {
    const result = recorder.run(fn);
    const captured = recorder.finish(result, options.fuse ?? true);
    try {
      recorder.check();
      if (options.verify && device.gpu) await verify(device, captured, recorder.before, fn);
    } catch (error) {
      captured.dispose();
      recorder.disposeNew(result);
      throw error;
    }
    return captured;
  } finally {
    for (const copy of recorder.before.values()) copy?.destroy();
  }
}

class CaptureRecorder {
  /** Storages made before the capture that it writes, its state; to verify, with copies of what they held before. */
  readonly before = new Map<Storage, GPUBuffer | null>();
  private readonly device: Device;
  private readonly launches: Launch[] = [];
  private readonly steps: Step[] = [];
  private readonly storages = new Set<Storage>();
  /** Buffers made before the capture. They are held from the first launch on: freed in the capture, their buffers would be reused in it. */
  private readonly older = new Set<Storage>();
  private readonly saves: boolean;
  private readonly written = new Set<Storage>();
  /** Buffers of what it made: they come back to the capture's lists, whoever frees them. */
  private readonly buffers = new Set<PoolBuffer>();
  /** Leaves that had no gradient before the capture and got one in it. */
  private readonly leaves = new Set<Tensor>();
  private readonly chunks: { buffer: GPUBuffer; words: Uint32Array }[] = [];
  private used = CHUNK_BYTES;
  private inAtomic = false;
  private readonly name = `capture ${nextCapture++} `;
  private readonly lists: ReturnType<Device["pool"]["beginPrivate"]>;
  private readonly firstSerial: number;

  constructor(device: Device, saves: boolean) {
    this.device = device;
    this.saves = saves;
    this.firstSerial = nextStorageSerial();
    this.lists = device.pool.beginPrivate();
  }

  run<T>(fn: () => T): T {
    const device = this.device;
    const listener = (launch: Launch): void => this.add(launch);
    device.queue.beginCapture(listener);
    try {
      return scope(() => {
        const result = watchGradients((leaf) => void this.leaves.add(leaf), fn);
        refusePromise(result, "capture()");
        return result;
      });
    } catch (error) {
      this.abandon();
      throw error;
    } finally {
      device.queue.endCapture(listener);
      device.pool.endPrivate();
    }
  }

  finish<T>(result: T, fuse: boolean): Captured<T> {
    const launches = this.prepared(fuse);
    for (const { buffer, words } of this.chunks)
      this.device.gpu!.queue.writeBuffer(buffer, 0, words as Uint32Array<ArrayBuffer>);
    const pinned = new Set<Storage>(this.older);
    for (const storage of this.storages) if (storage.isLive && !pinned.has(storage)) pinned.add(storage.retain());
    for (const buffer of this.buffers) buffer.setHome(this.lists);
    return new Captured(this.device, result, launches, this.steps, pinned, this.written, () => this.release());
  }

  /** Throws for state that is gone, or a gradient that stays: a replay would do something else than the next eager run. */
  check(): void {
    for (const leaf of this.leaves) {
      if (leaf.disposed || !leaf.grad || leaf.storage.serial >= this.firstSerial) continue;
      zeroGradients(this.leaves);
      throw new CaptureError(
        `capture: the gradient of ${leaf} was made in the capture and stays: replays would write it, where eager runs add to it. Drop it in the function (zeroGradients), or give the leaf a gradient before the capture`,
      );
    }
    for (const storage of this.before.keys()) {
      if (storage.exclusive)
        throw new CaptureError(
          `capture: a tensor made before the capture (${storage.label}, ${storage.bytes} bytes) was changed in it and then freed; free it before the capture, or keep it`,
        );
    }
  }

  /** Disposes the tensors of a result that the capture made. */
  disposeNew(result: unknown): void {
    for (const t of tensorsIn(result)) if (t.storage.serial >= this.firstSerial) t.dispose();
  }

  /** The launches to keep, each with its bind group and its parameters in place. */
  private prepared(fuse: boolean): readonly Launch[] {
    try {
      const launches = fuse ? joinLaunches(this.device, this.launches) : this.launches;
      for (const launch of launches) this.prepare(launch);
      return launches;
    } catch (error) {
      this.abandon();
      throw error;
    }
  }

  private abandon(): void {
    for (const storage of this.older) storage.release();
    this.release();
  }

  private release(): void {
    this.device.flush();
    for (const buffer of this.buffers) buffer.setHome(null);
    this.device.pool.adopt(this.lists);
    this.device.queue.dropBindGroups(this.name);
    for (const { buffer } of this.chunks) buffer.destroy();
  }

  /** Inside `atomic`: forgets what was recorded in it if it throws, since it does not run. */
  private dropOnFailure(): void {
    if (!this.device.queue.isAtomic || this.inAtomic) return;
    this.inAtomic = true;
    const launches = this.launches.length;
    this.device.queue.atEnd((failed) => {
      this.inAtomic = false;
      if (failed) this.launches.length = launches;
    });
  }

  private add(launch: Launch): void {
    this.dropOnFailure();
    this.launches.push(launch);
    const names = Object.values(launch.pipeline.kernel.bindings);
    for (const [i, { storage }] of launch.bindings.entries()) {
      this.storages.add(storage);
      if (names[i] !== "read") this.written.add(storage);
      if (storage.serial >= this.firstSerial) {
        this.buffers.add(launch.buffers[i]!);
        continue;
      }
      if (!this.older.has(storage)) this.older.add(storage.retain());
      if (names[i] !== "read" && !this.before.has(storage))
        this.before.set(storage, this.saves ? copyOf(this.device, storage) : null);
    }
  }

  /** Gives a launch its bind group, and its parameters a place. */
  private prepare(launch: Launch): void {
    const gpu = this.device.gpu;
    if (!gpu) return;
    const bytes = launch.params?.byteLength ?? 0;
    if (!this.chunks.length || this.used + bytes > CHUNK_BYTES) {
      this.chunks.push({
        buffer: gpu.createBuffer({ size: CHUNK_BYTES, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST }),
        words: new Uint32Array(CHUNK_BYTES / 4),
      });
      this.used = 0;
    }
    const chunk = this.chunks.at(-1)!;
    if (launch.params) chunk.words.set(launch.params, this.used / 4);
    const group = this.device.queue.bindGroup(launch, chunk.buffer, `${this.name}${this.chunks.length} `);
    this.steps.push({
      pipeline: launch.pipeline.gpu!,
      group,
      offset: this.used,
      hasParams: launch.params !== null,
      grid: launch.grid,
    });
    const slot = this.device.limits.minUniformBufferOffsetAlignment;
    this.used += Math.ceil(bytes / slot) * slot;
  }
}

let nextCapture = 1;

/** What `storage` holds now, in a buffer outside the pool; null on the null device. */
function copyOf(device: Device, storage: Storage): GPUBuffer | null {
  const gpu = device.gpu;
  if (!gpu) return null;
  const copy = gpu.createBuffer({ size: storage.bytes, usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
  copyBytes(device, storage.live().gpu!, copy, storage.bytes);
  return copy;
}

function copyBytes(device: Device, from: GPUBuffer, to: GPUBuffer, bytes: number): void {
  device.flush();
  const encoder = device.gpu!.createCommandEncoder();
  encoder.copyBufferToBuffer(from, 0, to, 0, bytes);
  device.queue.submit(encoder);
}

async function verify<T>(
  device: Device,
  captured: Captured<T>,
  before: ReadonlyMap<Storage, GPUBuffer | null>,
  fn: () => T,
): Promise<void> {
  const results = [...tensorsIn(captured.result)];
  const state = [...before.keys()];
  const read = async (
    tensors: readonly Tensor[],
  ): Promise<{ results: ArrayBufferView[]; state: ArrayBufferView[] }> => ({
    results: await Promise.all(tensors.map((t) => t.data())),
    state: await Promise.all(state.map((storage) => device.read({ storage, offset: 0, size: storage.bytes }))),
  });
  const restore = (): void => {
    for (const [storage, copy] of before) {
      storage.markWritten();
      copyBytes(device, copy!, storage.live().gpu!, storage.bytes);
    }
  };
  const first = await read(results);
  const compare = (other: Awaited<ReturnType<typeof read>>, run: string): void => {
    results.forEach((t, i) => requireEqual(`${run} in result ${i} ${t}`, first.results[i]!, other.results[i]));
    state.forEach((storage, i) => requireEqual(`${run} in state "${storage.label}"`, first.state[i]!, other.state[i]));
  };
  restore();
  captured.replay();
  const replayed = await read(results);
  restore();
  const again = scope(fn);
  const eagerTensors = [...tensorsIn(again)];
  const eager = await read(eagerTensors);
  for (const t of eagerTensors) if (!results.includes(t)) t.dispose();
  compare(replayed, "the captured run and its replay differ");
  compare(eager, "the captured and an eager run differ");
}

function requireEqual(what: string, first: ArrayBufferView, other: ArrayBufferView | undefined): void {
  const a = new Uint8Array(first.buffer, first.byteOffset, first.byteLength);
  const b = other ? new Uint8Array(other.buffer, other.byteOffset, other.byteLength) : new Uint8Array(0);
  const at = a.length === b.length ? a.findIndex((v, i) => v !== b[i]) : 0;
  if (at >= 0) {
    throw new CaptureError(
      `capture: ${what} at byte ${at}; something that changes between runs is a host number; it must live in a tensor`,
    );
  }
}
