/**
 * The queue of a device: launches wait here as plain data and are encoded together, many per compute pass and submit.
 * Parameters go into one uniform arena with dynamic offsets. Uploads and read-backs keep their order relative to the
 * launches. The null device only counts.
 */
import { BindGroups } from "./bind_groups.ts";
import type { Capabilities, Limits } from "./capabilities.ts";
import { CaptureError, DeviceError, KernelError } from "./errors.ts";
import type { Constants, Kernel, Uses } from "./kernel.ts";
import { currentLabel } from "./label.ts";
import type { Pipelines } from "./pipelines.ts";
import { settle } from "./platform.ts";
import type { PoolBuffer } from "./pool.ts";
import { refusePromise } from "./promise.ts";
import { MAX_QUEUED_UPLOAD_BYTES, Readbacks, Uploads } from "./transfer.ts";
import type { ReadbackPart } from "./transfer.ts";
import type { Binding, Launch, LaunchListener, LaunchRequest, Pipeline } from "./types.ts";
import { workOf } from "./work.ts";

const FLUSH_LAUNCHES = 256;
/** A software device that is idle gets its first launches early, then four times as many with each submit: it works while the host records. */
const FIRST_LAUNCHES = 32;
const ARENA_BYTES = 1 << 20;
/** One `writeBuffer` takes at most this many bytes. */
const UPLOAD_BYTES = 32 << 20;

/** Interface to the device that a queue needs. */
export interface QueueOwner {
  readonly gpu: GPUDevice | null;
  readonly capabilities: Capabilities;
  readonly maxDispatchWork: number;
  /** Throws if the device is lost or destroyed. */
  check(): void;
  /** Watches a verdict that comes later; if it is an error, the next synchronisation throws it. */
  expectVerdict(verdict: Promise<KernelError | null>): void;
  toString(): string;
}

/** Error for work that the GPU refused. */
export const refusedWork = (error: GPUError): KernelError =>
  new KernelError(
    `Device.sync: the GPU must accept the work; got ${error.message}. Check the launches since the last sync().`,
  );

/** Dispatches a grid. Each number that is passed to Dawn's binding costs time, so ones at the end are left out. */
export function dispatch(pass: GPUComputePassEncoder, grid: Launch["grid"]): void {
  if (grid[2] !== 1) pass.dispatchWorkgroups(grid[0], grid[1], grid[2]);
  else if (grid[1] !== 1) pass.dispatchWorkgroups(grid[0], grid[1]);
  else pass.dispatchWorkgroups(grid[0]);
}

/** Encodes one launch into its own pass. */
type EncodeOne = (pass: GPUComputePassEncoder, launch: Launch) => void;
/** Encodes the launches of one submit, each in its own compute pass with timestamps around it. */
export type LaunchTimer = (encoder: GPUCommandEncoder, launches: readonly Launch[], encodeOne: EncodeOne) => void;

/** The queue on which a capture records: launches on other queues would be missing from the capture. */
let recording: Queue | null = null;
const setRecording = (queue: Queue | null): void => {
  recording = queue;
};
const anyLaunch = new Set<LaunchListener>();

/** Calls `listener` with every launch on any device before it is queued. */
export function onAnyLaunch(listener: LaunchListener): void {
  anyLaunch.add(listener);
}

/** Ends `onAnyLaunch(listener)`. */
export function offAnyLaunch(listener: LaunchListener): void {
  anyLaunch.delete(listener);
}

let isMuted = false;

/** Runs `fn` (synchronous), whose launches are passed to `onAnyLaunch` and then left out. */
export function withoutLaunches<T>(fn: () => T): T {
  const before = isMuted;
  isMuted = true;
  try {
    return fn();
  } finally {
    isMuted = before;
  }
}

export class Queue {
  private readonly owner: QueueOwner;
  private readonly gpu: GPUDevice | null;
  private readonly limits: Limits;
  private readonly isSoftware: boolean;
  private readonly pipelines: Pipelines;
  private readonly bindGroups: BindGroups | null;
  private readonly uploads: Uploads | null;
  private readonly readbacks: Readbacks | null;
  private readonly listeners = new Set<LaunchListener>();
  private readonly arena: GPUBuffer | null;
  private readonly arenaWords = new Uint32Array(ARENA_BYTES / 4);
  /** Bytes from one launch's parameters to the next. */
  private readonly slot: number;
  private timer: LaunchTimer | null = null;
  private pending: Launch[] = [];
  /** Pending launches that are submitted at once. */
  private flushAt = FLUSH_LAUNCHES;
  /** True if a pending launch is the first of its pipeline: the GPU may refuse it. */
  private isUnproven = false;
  /** Serial numbers of the next launch, and of the first pending one. */
  private serial = 0;
  private flushed = 0;
  private launches = 0;
  private submits = 0;
  /** While `atomic` runs: functions that destroy buffers of its pending launches, called at its end. Null outside. */
  private held: (() => void)[] | null = null;
  /** The functions passed to `atEnd`. */
  private ends: ((failed: boolean) => void)[] = [];

  /** @param createStaging makes the buffer of a read-back */
  constructor(owner: QueueOwner, pipelines: Pipelines, createStaging: (bytes: number) => GPUBuffer) {
    const { gpu, capabilities } = owner;
    this.owner = owner;
    this.gpu = gpu;
    this.limits = capabilities.limits;
    this.isSoftware = capabilities.software;
    this.pipelines = pipelines;
    this.bindGroups = gpu && new BindGroups(gpu);
    this.uploads = gpu && new Uploads(gpu);
    this.readbacks = gpu && new Readbacks(createStaging, this.limits.maxBufferSize);
    this.slot = Math.max(16, this.limits.minUniformBufferOffsetAlignment);
    this.arena =
      gpu?.createBuffer({ size: ARENA_BYTES, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST }) ?? null;
  }

  /** Counts since the device was created, and bytes of uploads in host memory. */
  get stats(): {
    bindGroupsCreated: number;
    launches: number;
    submits: number;
    queuedUploadBytes: number;
    peakQueuedUploadBytes: number;
  } {
    return {
      bindGroupsCreated: this.bindGroups?.created ?? 0,
      launches: this.launches,
      submits: this.submits,
      queuedUploadBytes: this.uploads?.queuedBytes ?? 0,
      peakQueuedUploadBytes: this.uploads?.peakBytes ?? 0,
    };
  }

  // Launches

  /** Enqueues a launch; `launch()` calls it after its checks. */
  enqueue(request: LaunchRequest): void {
    this.owner.check();
    this.checkRequest(request);
    const { kernel, constants, uses, bindings, params, grid, cost } = request;
    const known = this.pipelines.find(kernel, constants, uses);
    const pipeline = known ?? this.compile(request);
    const buffers = bindings.map((b) => b.storage.live());
    const launch: Launch = { pipeline, bindings, buffers, params, grid, label: currentLabel(), cost };
    if (recording && recording !== this)
      throw new CaptureError(
        `kernel "${kernel.name}": launches inside a capture must be on ${recording.owner}; got one on ${this.owner}, which a replay would miss. Capture one device.`,
      );
    for (const listener of anyLaunch) listener(launch);
    if (isMuted) return;
    for (const listener of this.listeners) listener(launch);
    this.push(launch);
    this.isUnproven ||= !known;
    // A pipeline may fail to compile: its first launch is submitted alone, so that it cannot invalidate others.
    if (!known) this.flush();
  }

  private checkRequest({ kernel, bindings, grid, cost }: LaunchRequest): void {
    const { maxStorageBufferBindingSize: bytes, maxComputeWorkgroupsPerDimension: groups } = this.limits;
    const { maxDispatchWork } = this.owner;
    for (const { size } of bindings) {
      if (size > bytes)
        throw new KernelError(
          `kernel "${kernel.name}": a binding must have at most ${bytes} bytes, the device's limit; got ${size}. Launch it on windows.`,
        );
    }
    if (grid[0] > groups || grid[1] > groups || grid[2] > groups)
      throw new KernelError(
        `kernel "${kernel.name}": a grid must have at most ${groups} workgroups per dimension, the device's limit; got ${grid.join("×")}. Fold it with grid1d().`,
      );
    const work = workOf(cost, bindings);
    if (work > maxDispatchWork)
      throw new KernelError(
        `kernel "${kernel.name}": a dispatch must have at most ${maxDispatchWork.toExponential(1)} operations; got ${work.toExponential(1)}. Split it into several launches.`,
      );
  }

  private compile({ kernel, constants, uses }: LaunchRequest): Pipeline {
    this.flush();
    return this.pipelines.compile(kernel, constants, uses);
  }

  /** The pipeline of a variant, for launches that are recorded elsewhere. */
  pipelineOf(kernel: Kernel, constants?: Constants, uses?: Uses): Pipeline {
    return this.pipelines.find(kernel, constants, uses) ?? this.pipelines.compile(kernel, constants, uses);
  }

  private push(launch: Launch): void {
    for (const buffer of launch.buffers) buffer.markUsed(this.serial);
    this.serial++;
    this.launches++;
    if (!this.gpu) return;
    this.pending.push(launch);
    if (this.pending.length < this.flushAt) return;
    this.flush();
    this.flushAt = Math.min(FLUSH_LAUNCHES, 4 * this.flushAt);
  }

  /** Notes that the device has nothing to do, if nothing was submitted after submit `submits`. */
  private idleSince(submits: number): void {
    if (this.isSoftware && submits === this.submits) this.flushAt = FIRST_LAUNCHES;
  }

  /** Calls `listener` with every launch before it is queued, including those of replays. */
  onLaunch(listener: LaunchListener): void {
    this.listeners.add(listener);
  }

  /** Ends `onLaunch(listener)`. */
  offLaunch(listener: LaunchListener): void {
    this.listeners.delete(listener);
  }

  /** Submits the pending launches; inside `atomic`, none. */
  flush(): void {
    if (!this.gpu || this.held) return;
    if (this.pending.length) this.owner.check();
    const launches = this.pending;
    this.pending = [];
    for (let at = 0; at < launches.length; at += FLUSH_LAUNCHES)
      this.encodeWatched(this.gpu, launches.slice(at, at + FLUSH_LAUNCHES));
    this.isUnproven = false;
    this.flushed = this.serial;
  }

  /** Catches errors of first launches: Dawn prints uncaught ones to the terminal. */
  private encodeWatched(gpu: GPUDevice, launches: readonly Launch[]): void {
    if (!this.isUnproven) return this.encode(gpu, launches);
    gpu.pushErrorScope("validation");
    try {
      this.encode(gpu, launches);
    } finally {
      this.owner.expectVerdict(gpu.popErrorScope().then((error) => error && refusedWork(error)));
    }
  }

  private encode(gpu: GPUDevice, launches: readonly Launch[]): void {
    const offsets = this.uploadParams(gpu, launches);
    const encoder = gpu.createCommandEncoder();
    let next = 0;
    const offset = [0]; // Dawn's binding reads an array faster than part of a Uint32Array
    let last: Pipeline | null = null;
    const encodeOne = (pass: GPUComputePassEncoder, launch: Launch): void => {
      offset[0] = offsets[next++]!;
      if (last !== launch.pipeline) pass.setPipeline(launch.pipeline.gpu!);
      last = launch.pipeline;
      const group = this.bindGroup(launch, this.arena!);
      if (launch.params) pass.setBindGroup(0, group, offset);
      else pass.setBindGroup(0, group);
      dispatch(pass, launch.grid);
    };
    if (this.timer) {
      this.timer(encoder, launches, (pass, launch) => {
        last = null; // a new pass has no pipeline yet
        encodeOne(pass, launch);
      });
    } else {
      const pass = encoder.beginComputePass();
      for (const launch of launches) encodeOne(pass, launch);
      pass.end();
    }
    this.submit(encoder);
  }

  /** Writes the parameters of `launches` into the arena; returns the byte offset of each. */
  private uploadParams(gpu: GPUDevice, launches: readonly Launch[]): number[] {
    let used = 0;
    const offsets: number[] = [];
    for (const { params } of launches) {
      offsets.push(used);
      if (!params) continue;
      // Copied by hand: a call of set() costs more than the few words that it copies.
      for (let i = 0; i < params.length; i++) this.arenaWords[used / 4 + i] = params[i]!;
      used += Math.ceil((4 * params.length) / this.slot) * this.slot;
    }
    if (used) gpu.queue.writeBuffer(this.arena!, 0, this.arenaWords, 0, used / 4);
    return offsets;
  }

  /** Submits an encoder (of launches, captures or read-backs). */
  submit(encoder: GPUCommandEncoder): void {
    this.gpu!.queue.submit([encoder.finish()]);
    this.submits++;
    this.uploads?.submitted();
  }

  /** Resolves when the GPU has completed the submitted work. */
  async done(): Promise<void> {
    if (!this.gpu) return;
    const { submits } = this;
    await settle(this.gpu.queue.onSubmittedWorkDone(), this.isSoftware);
    this.idleSince(submits);
  }

  /** Returns the bind group of a launch with `arena` as its uniform buffer, from the cache. Equal `arenaName`s mean the same buffer. */
  bindGroup(launch: Launch, arena: GPUBuffer, arenaName?: string): GPUBindGroup {
    return this.bindGroups!.get(launch, arena, arenaName);
  }

  /** Evicts the bind groups made for arenas whose names begin with `arenaName`. */
  dropBindGroups(arenaName: string): void {
    this.bindGroups?.drop(arenaName);
  }

  /** Lets `timer` encode the launches from now on. Throws `DeviceError` if launches are already timed. */
  startTiming(timer: LaunchTimer): void {
    if (this.timer)
      throw new DeviceError("profile: must not be called inside profile(); got a second call. Wait for the first one.");
    this.flush();
    this.timer = timer;
  }

  get isTiming(): boolean {
    return this.timer !== null;
  }

  stopTiming(): void {
    this.timer = null;
  }

  // Captures

  /** True while a capture records: host data, read-backs, and launches on other devices are refused. */
  get isCapturing(): boolean {
    return recording === this;
  }

  /** Passes each launch to `listener` until `endCapture(listener)`. */
  beginCapture(listener: LaunchListener): void {
    setRecording(this);
    this.onLaunch(listener);
  }

  endCapture(listener: LaunchListener): void {
    this.offLaunch(listener);
    setRecording(null);
  }

  /** Counts launches that a capture is about to run again. */
  beginReplay(launches: readonly Launch[]): void {
    this.refuseAtomic("replay");
    this.flush();
    this.launches += launches.length;
    if (this.listeners.size) for (const launch of launches) for (const listener of this.listeners) listener(launch);
  }

  // All or nothing

  /** True inside `atomic`. */
  get isAtomic(): boolean {
    return this.held !== null;
  }

  /** True if launches that wait for the end of `atomic` use the buffer: host data cannot be written to it until then. */
  isWaiting(buffer: PoolBuffer): boolean {
    return this.held !== null && buffer.lastUse >= this.flushed;
  }

  /** Inside `atomic`: calls `fn` at its end, with true if it threw. The last `fn` is called first. */
  atEnd(fn: (failed: boolean) => void): void {
    if (!this.held)
      throw new DeviceError(
        "atEnd: must be called inside atomic(); got a call outside. Call it in the function that atomic() runs.",
      );
    this.ends.push(fn);
  }

  /** See `Device.atomic`. */
  atomic<T>(fn: () => T): T {
    if (this.held) return fn(); // the outer call decides
    this.flush();
    const doomed: (() => void)[] = (this.held = []);
    try {
      const result = fn();
      refusePromise(result, "atomic()");
      this.callEnds(false);
      return result;
    } catch (error) {
      this.pending = [];
      this.callEnds(true);
      throw error;
    } finally {
      this.held = null;
      if (this.pending.length >= FLUSH_LAUNCHES || doomed.length) this.flush();
      for (const destroy of doomed) destroy();
    }
  }

  private callEnds(failed: boolean): void {
    for (const fn of this.ends.splice(0).reverse()) fn(failed);
  }

  private refuseAtomic(what: string): void {
    if (this.held)
      throw new DeviceError(
        `${what}: must not be called inside atomic(), whose launches have not run yet; got such a call. Do it before or after.`,
      );
  }

  // Host data

  /** Writes host bytes into a storage. Throws `CaptureError` inside a capture. */
  write({ storage, offset }: Binding, bytes: Uint8Array): void {
    if (this.isCapturing)
      throw new CaptureError(
        "upload: host data must be uploaded outside capture(); got an upload inside. Create the tensor (or the Generator of random ops) before, and change it with a kernel.",
      );
    this.upload(storage.live(), offset, bytes);
    storage.markWritten();
  }

  /** Writes even if a capture is running (poison, constants). The rest of the last word becomes 0. */
  upload(buffer: PoolBuffer, offset: number, bytes: Uint8Array): void {
    if (!this.gpu) return;
    if (buffer.lastUse >= this.flushed) {
      this.refuseAtomic("upload");
      this.flush();
    }
    buffer.markBound();
    const whole = bytes.byteLength & ~3;
    for (let at = 0; at < whole; at += UPLOAD_BYTES) {
      const size = Math.min(UPLOAD_BYTES, whole - at);
      this.gpu.queue.writeBuffer(buffer.gpu!, offset + at, bytes as Uint8Array<ArrayBuffer>, at, size);
      if (this.uploads!.add(size)) this.submitUploads();
    }
    if (whole < bytes.byteLength) {
      const tail = new Uint8Array(4);
      tail.set(bytes.subarray(whole));
      this.gpu.queue.writeBuffer(buffer.gpu!, offset + whole, tail);
      this.uploads!.add(4);
    }
  }

  /** Submits the uploads so far, so that the GPU can take them from host memory. */
  private submitUploads(): void {
    this.flush();
    this.gpu!.queue.submit([]);
    this.uploads!.submitted(1);
  }

  /** Waits until no more than `bytes` of uploads are in host memory. */
  async throttle(bytes = MAX_QUEUED_UPLOAD_BYTES): Promise<void> {
    const { uploads } = this;
    while (uploads && uploads.queuedBytes > bytes) {
      this.owner.check();
      this.submitUploads();
      await uploads.next(this.isSoftware);
    }
  }

  /** Submits the copies of a read-back; offset and size are multiples of 4. `finishRead` awaits them. */
  startRead({ storage, offset, size }: Binding): readonly ReadbackPart[] {
    if (!this.gpu || !this.readbacks)
      throw new DeviceError("read: needs a device that computes; got the null device. Run on a GPU device.");
    if (this.isCapturing)
      throw new CaptureError("read: data must be read outside capture(); got a read-back inside. Read after replay().");
    this.refuseAtomic("read");
    this.flush();
    const buffer = storage.live();
    buffer.markBound();
    const encoder = this.gpu.createCommandEncoder();
    const parts = this.readbacks.encode(encoder, buffer.gpu!, offset, Math.ceil(size / 4) * 4);
    this.submit(encoder);
    return parts;
  }

  async finishRead(parts: readonly ReadbackPart[]): Promise<Uint8Array> {
    const { submits } = this;
    const bytes = await this.readbacks!.read(parts, this.isSoftware);
    this.idleSince(submits);
    return bytes;
  }

  // Lifetime

  /** Destroys a pool buffer after the launches that use it. */
  destroyBuffer(buffer: PoolBuffer): void {
    const { gpu } = buffer;
    if (buffer.lastUse >= this.flushed && this.held) {
      // The pool drops it now, so the pending launches need their bind groups first.
      for (const launch of this.pending) if (launch.buffers.includes(buffer)) this.bindGroup(launch, this.arena!);
      this.held.push(() => gpu?.destroy());
      return;
    }
    if (buffer.lastUse >= this.flushed) this.flush();
    gpu?.destroy();
  }

  /** Drops the pending launches and all bind groups. */
  close(): void {
    this.pending = [];
    this.bindGroups?.clear();
  }
}
