/**
 * Capture and replay: the launches of a function are recorded with their pipelines, bind groups and parameters, and run
 * again without the function. Values that change between replays must not be host numbers: they must be in tensors that
 * kernels read.
 */
import { watchGradients, zeroGradients } from "./autograd.ts";
import { ArgumentError, CaptureError, DisposedError } from "./errors.ts";
import { getDevice } from "./device.ts";
import type { Device } from "./device.ts";
import { joinLaunches } from "./fusion.ts";
import type { PoolBuffer } from "./pool.ts";
import { knownOptions, requireFunction } from "./options.ts";
import { dispatch } from "./queue.ts";
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
   * Check the capture: restore the state before it, replay, restore it, run `fn` eagerly, and compare every result and
   * every changed tensor of the three runs bit for bit. A `CaptureError` names what differs.
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

/** The launches that `capture(fn)` recorded, with the buffers that they use. `replay()` runs them again, `dispose()` frees them. */
export class Captured<T> {
  /** The result of `fn`; each replay overwrites its tensors. */
  readonly result: T;
  /** The launches, in order. */
  readonly launches: readonly Launch[];
  private readonly device: Device;
  private readonly steps: readonly Step[];
  private readonly pinned: ReadonlySet<Storage>;
  /** Storages that the launches write. */
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

  /** Runs the launches again, `times` over, in one submit. Throws `ArgumentError` for a number of times that is not whole or below 1. */
  replay(times = 1): void {
    if (!Number.isInteger(times) || times < 1)
      throw new ArgumentError(`replay: times must be a whole number of at least 1; got ${times}. Change it.`);
    if (!this.free)
      throw new DisposedError(
        "replay: the capture must not be disposed; got a disposed one. Capture the function again.",
      );
    const device = this.device;
    device.check();
    for (const storage of this.written) storage.markWritten();
    for (let i = 0; i < times; i++) device.queue.beginReplay(this.launches);
    if (!device.gpu) return;
    const encoder = device.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    const offset = [0]; // Dawn's binding reads an array faster than part of a Uint32Array
    let last: GPUComputePipeline | null = null;
    for (let i = 0; i < times; i++)
      for (const step of this.steps) {
        if (step.pipeline !== last) pass.setPipeline(step.pipeline);
        last = step.pipeline;
        if (step.hasParams) {
          offset[0] = step.offset;
          pass.setBindGroup(0, step.group, offset);
        } else pass.setBindGroup(0, step.group);
        dispatch(pass, step.grid);
      }
    pass.end();
    device.queue.submit(encoder);
  }

  /** Releases the buffers; the tensors of the result live until they are disposed. Calling it twice is allowed. */
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
 * Runs `fn` (synchronous) once and records its launches. Temporaries keep their buffers until the capture is disposed.
 * After a replay, read tensors of the result, or tensors made before the capture that `fn` changes. Uploads of host
 * data and read-backs inside `fn` throw `CaptureError`.
 */
export async function capture<T>(fn: () => T, options: CaptureOptions = {}): Promise<Captured<T>> {
  knownOptions("capture", options, ["device", "fuse", "verify"]);
  requireFunction("capture", fn);
  const device = options.device ?? getDevice();
  if (device.queue.isCapturing)
    throw new CaptureError(
      "capture: must not be called inside capture(); got a nested call. Capture only the outer function.",
    );
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
  /** Storages made before the capture that it writes (its state); with `verify`, with copies of their earlier contents. */
  readonly before = new Map<Storage, GPUBuffer | null>();
  private readonly device: Device;
  private readonly launches: Launch[] = [];
  private readonly steps: Step[] = [];
  private readonly storages = new Set<Storage>();
  /**
   * Buffers made before the capture. They are retained from the first launch on; otherwise one freed in the capture
   * would be reused in it.
   */
  private readonly older = new Set<Storage>();
  private readonly saves: boolean;
  private readonly written = new Set<Storage>();
  /** Buffers of tensors made in the capture: they return to the capture's lists, whoever frees them. */
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

  /** Throws if state was freed or a gradient remains: a replay would then differ from the next eager run. */
  check(): void {
    for (const leaf of this.leaves) {
      if (leaf.disposed || !leaf.grad || leaf.storage.serial >= this.firstSerial) continue;
      zeroGradients(this.leaves);
      throw new CaptureError(
        `capture: gradients made in the function must be dropped in it; got one left on ${leaf}, which replays would overwrite but eager runs add to. Call zeroGradients in the function, or give the leaf a gradient before the capture.`,
      );
    }
    for (const storage of this.before.keys()) {
      if (storage.exclusive)
        throw new CaptureError(
          `capture: tensors made before the capture that it changes must stay alive; got one freed in it (${storage.label}, ${storage.bytes} bytes). Free it before the capture, or keep it.`,
        );
    }
  }

  /** Disposes those tensors of a result that the capture made. */
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

  /** Inside `atomic`: drops the launches recorded in it if it throws, since they do not run. */
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

/** Copies the present contents of `storage` to a buffer outside the pool; null on the null device. */
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
  // Without the padding behind the elements, in which launches may leave anything.
  const readState = async (storage: Storage): Promise<ArrayBufferView> => {
    const { buffer, byteOffset } = await device.read({ storage, offset: 0, size: storage.bytes });
    return new Uint8Array(buffer, byteOffset, storage.used);
  };
  const read = async (
    tensors: readonly Tensor[],
  ): Promise<{ results: ArrayBufferView[]; state: ArrayBufferView[] }> => ({
    results: await Promise.all(tensors.map((t) => t.data())),
    state: await Promise.all(state.map(readState)),
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
  compare(replayed, "a difference between the captured run and its replay");
  compare(eager, "a difference between the captured and an eager run");
}

function requireEqual(what: string, first: ArrayBufferView, other: ArrayBufferView | undefined): void {
  const a = new Uint8Array(first.buffer, first.byteOffset, first.byteLength);
  const b = other ? new Uint8Array(other.buffer, other.byteOffset, other.byteLength) : new Uint8Array(0);
  const at = a.length === b.length ? a.findIndex((v, i) => v !== b[i]) : 0;
  if (at >= 0) {
    throw new CaptureError(
      `capture: every run must give the same bits; got ${what} at byte ${at}. Keep values that change between runs in tensors, not in host numbers.`,
    );
  }
}
