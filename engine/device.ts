/**
 * A device: capabilities, the buffer pool, compiled pipelines, and the launch path. Launches are recorded as plain data and encoded
 * many to a compute pass and a submit; bind groups are cached; parameters go through one uniform arena with dynamic offsets.
 * The null device runs the same program without a GPU and counts.
 */
import { chooseAdapter, heldLimits, limitsOf } from "./adapters.ts";
import { Allocations } from "./allocation.ts";
import { DEFAULT_LIMITS, capabilitiesOf, nullCapabilities } from "./capabilities.ts";
import type { Capabilities, Limits } from "./capabilities.ts";
import { ArgumentError, CaptureError, DeviceError, DeviceLostError, DisposedError, KernelError, OutOfMemoryError } from "./errors.ts";
import type { JanusError } from "./errors.ts";
import { describeErrors, loadKernels, specialise, variantKey } from "./kernel.ts";
import type { Constants, Kernel, Uses } from "./kernel.ts";
import type { Binding, Cost, Launch, Pipeline } from "./launch.ts";
import { currentLabel, refusePromise } from "./scope.ts";
import { collectGarbage, memoryBytes, settle } from "./platform.ts";
import { BufferPool } from "./pool.ts";
import type { PoolBuffer } from "./pool.ts";
import { MAX_QUEUED_UPLOAD_BYTES, Readbacks, Uploads } from "./transfer.ts";
import { MAX_DISPATCH_WORK, workOf } from "./work.ts";

export interface DeviceOptions {
  /** Part of the adapter's name, or its index in `listAdapters()`; the default is the fastest one. */
  readonly adapter?: string | number;
  /** `"null"`: no GPU, shapes and counts only. */
  readonly backend?: "null" | "vulkan" | "metal" | "d3d12";
  /**
   * Bytes that buffers may take in all. Default: 80 % of main memory on a software adapter, 90 % of the GPU's own memory where the platform
   * tells its size (`capabilities.memoryBytes`), no bound elsewhere. There the GPU's first out-of-memory error sets it.
   */
  readonly memoryBudget?: number;
  /**
   * Operations that one dispatch may have; the default is 10¹¹. Matrix products, convolutions and attention with more are cut into several
   * launches, which changes no bit; any other launch with more is refused.
   */
  readonly maxDispatchWork?: number;
  /** Limits to hold instead of the adapter's (never above it); `"default"` for those that every WebGPU device has. */
  readonly limits?: Partial<Limits> | "default";
  /** Features not to use, e.g. `["subgroups"]`; kernels then take another variant. */
  readonly without?: readonly string[];
  /** Capabilities of the null device. */
  readonly capabilities?: Capabilities;
  /** For tests: fill every new storage with NaN bits, so that an element no kernel wrote is seen. */
  readonly poison?: boolean;
}

/** Counts since the device began; a steady loop must not raise the first three. */
export interface DeviceStats {
  readonly buffersCreated: number;
  readonly bindGroupsCreated: number;
  readonly pipelinesCreated: number;
  readonly launches: number;
  readonly submits: number;
  /** Tensors that the garbage collector found undisposed: leaks that a scope would have freed. */
  readonly caughtByCollector: number;
  /** Bytes of uploads that wait in host memory, and the most that ever did. */
  readonly queuedUploadBytes: number;
  readonly peakQueuedUploadBytes: number;
}

const FLUSH_LAUNCHES = 256;
const ARENA_BYTES = 1 << 20;
/** One `writeBuffer` takes at most so many bytes. */
const UPLOAD_BYTES = 32 << 20;
const MOST_BIND_GROUPS = 16384;
/** Bind groups let go of before JavaScript is asked to free them. Each is a mapping of lavapipe's, and Linux gives a process 65,530. */
const MOST_DROPPED = 4096;
const WANTED_FEATURES = ["shader-f16", "subgroups", "subgroup-size-control", "timestamp-query", "chromium-experimental-subgroup-matrix"];

let defaultDevice: Device | null = null;
let nextDevice = 0;
/** The device on which a capture records: launches elsewhere would be lost to it. */
let recording: Device | null = null;
/** Serial of the next storage of any device. */
let nextStorage = 0;

/** Serial of the next storage: tells what is older. */
export const nextStorageSerial = (): number => nextStorage;

/** Called with every launch on any device before it is recorded. */
export const launchListeners = new Set<(launch: Launch) => void>();

/** The device that tensors are created on when none is named: the first one created, or the one set. */
export function getDevice(): Device {
  if (!defaultDevice) throw new DeviceError("no device yet; call `await Device.create()` first");
  return defaultDevice;
}

/** Makes `device` the one that tensors are created on when none is named. */
export function setDevice(device: Device | null): void {
  defaultDevice = device;
}

export class Device {
  /** Counts devices, to tell two of one adapter apart. */
  readonly id = nextDevice++;
  readonly capabilities: Capabilities;
  readonly pool: BufferPool;
  /** The GPU's own device; null on the null device. */
  readonly gpu: GPUDevice | null;
  readonly poison: boolean;
  /** Operations that one dispatch may have. */
  readonly maxDispatchWork: number;
  /** Called with every launch before it is recorded; captures, checkpoints, traces and the null device's counts listen here. */
  readonly listeners = new Set<(launch: Launch) => void>();
  /** Set while the profiler wants each launch timed. */
  encodeTimed: ((encoder: GPUCommandEncoder, launches: readonly Launch[], encodeOne: (pass: GPUComputePassEncoder, launch: Launch) => void) => void) | null = null;
  /** True while a capture records: host data and read-backs are refused. */
  get capturing(): boolean {
    return recording === this;
  }

  set capturing(on: boolean) {
    recording = on ? this : null;
  }
  /** Tensors found by the garbage collector. */
  caught = 0;
  /** Serial of the next storage: tells what was made before a capture. */
  get storageSerial(): number {
    return nextStorage;
  }

  set storageSerial(next: number) {
    nextStorage = next;
  }

  private readonly pipelines = new Map<string, Pipeline>();
  private readonly bindGroups = new Map<string, GPUBindGroup>();
  /** Bind groups dropped since garbage was last collected. */
  private dropped = 0;
  private readonly counts = { bindGroups: 0, pipelines: 0, launches: 0, submits: 0 };
  private readonly arena: GPUBuffer | null;
  private readonly arenaBytes = new Uint32Array(ARENA_BYTES / 4);
  private readonly slot: number;
  private pending: Launch[] = [];
  /** While `atomic` runs, in which launches wait: destroys buffers that they use, to be called at its end. */
  private held: (() => void)[] | null = null;
  /** What `atEnd` was given. */
  private ends: ((failed: boolean) => void)[] = [];
  private serial = 0;
  private flushed = 0;
  private readonly compiling = new Set<Promise<void>>();
  private errors: JanusError[] = [];
  private readonly uploads: Uploads | null;
  private readonly readbacks: Readbacks | null;
  private readonly allocations: Allocations | null;
  private gone: JanusError | null = null;

  private constructor(gpu: GPUDevice | null, capabilities: Capabilities, options: DeviceOptions) {
    this.gpu = gpu;
    this.capabilities = capabilities;
    this.poison = options.poison ?? false;
    this.maxDispatchWork = options.maxDispatchWork ?? MAX_DISPATCH_WORK;
    if (!(this.maxDispatchWork > 0)) throw new ArgumentError(`maxDispatchWork must be a number of operations above 0; got ${this.maxDispatchWork}`);
    this.slot = Math.max(16, capabilities.limits.minUniformBufferOffsetAlignment);
    this.allocations = gpu && new Allocations(gpu, (error) => this.errors.push(error));
    this.pool = new BufferPool(
      {
        create: (buffer, label) => this.allocations?.create(buffer, label) ?? null,
        destroy: (buffer) => this.forget(buffer),
      },
      options.memoryBudget ?? defaultBudget(capabilities),
      capabilities.limits.maxBufferSize,
    );
    if (this.allocations) this.allocations.pool = this.pool;
    this.uploads = gpu && new Uploads(gpu);
    const stage = (size: number): GPUBuffer => this.allocations!.createOther({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST }, "read-back");
    this.readbacks = gpu && new Readbacks(stage, capabilities.limits.maxBufferSize);
    this.arena = gpu?.createBuffer({ size: ARENA_BYTES, usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST }) ?? null;
    gpu?.addEventListener("uncapturederror", (event) => {
      const message = event.error.message;
      this.errors.push(event.error instanceof GPUOutOfMemoryError ? new OutOfMemoryError(message) : new KernelError(`the GPU refused work: ${message}`));
    });
    void gpu?.lost.then((info) => {
      if (!this.gone) this.gone = new DeviceLostError(`${this.name}: the device was lost (${info.message || info.reason}); create a new one and load the last checkpoint`);
    });
  }

  /** Opens a device and loads all kernels declared so far; it becomes the default device if there is none. */
  static async create(options: DeviceOptions = {}): Promise<Device> {
    await loadKernels();
    let device: Device;
    if (options.backend === "null") {
      device = new Device(null, options.capabilities ?? nullCapabilities(), options);
    } else {
      const adapter = await chooseAdapter(options);
      const without = options.without ?? [];
      const features = WANTED_FEATURES.filter((f) => adapter.features.has(f as GPUFeatureName) && !without.includes(f));
      const limits = heldLimits(limitsOf(adapter.limits), options.limits, adapter.info.description);
      // An artificially small binding limit is held by us; the GPU's own device keeps at least the defaults.
      const required = Object.fromEntries(
        Object.entries(limits).map(([k, v]) => [k, k.startsWith("min") ? v : Math.max(v, options.limits ? DEFAULT_LIMITS[k as keyof Limits] : v)]),
      );
      const gpu = await adapter.requestDevice({ requiredFeatures: features as GPUFeatureName[], requiredLimits: required });
      device = new Device(gpu, capabilitiesOf(adapter, features, limits), options);
    }
    defaultDevice ??= device;
    return device;
  }

  get name(): string {
    return this.capabilities.name;
  }

  /** It was destroyed, or lost. */
  get isGone(): boolean {
    return this.gone !== null;
  }

  get isNull(): boolean {
    return this.gpu === null;
  }

  get limits(): Limits {
    return this.capabilities.limits;
  }

  get stats(): DeviceStats {
    return {
      buffersCreated: this.pool.stats.created,
      bindGroupsCreated: this.counts.bindGroups,
      pipelinesCreated: this.counts.pipelines,
      launches: this.counts.launches,
      submits: this.counts.submits,
      caughtByCollector: this.caught,
      queuedUploadBytes: this.uploads?.queuedBytes ?? 0,
      peakQueuedUploadBytes: this.uploads?.peakBytes ?? 0,
    };
  }

  toString(): string {
    return `Device(${this.id}: ${this.name})`;
  }

  /** Throws if the device is lost or destroyed. */
  check(): void {
    if (this.gone) throw this.gone;
  }

  /** Records a launch; `launch()` is the checked way to call it. */
  record(kernel: Kernel, constants: Constants | undefined, uses: Uses | undefined, bindings: readonly Binding[], params: Uint32Array | null, grid: readonly [number, number, number], cost: Cost | null): void {
    this.check();
    const limits = this.capabilities.limits;
    for (const b of bindings) {
      if (b.size > limits.maxStorageBufferBindingSize) {
        throw new KernelError(`kernel "${kernel.name}": a binding of ${b.size} bytes, the device allows ${limits.maxStorageBufferBindingSize}; launch it on windows`);
      }
    }
    const most = limits.maxComputeWorkgroupsPerDimension;
    if (grid[0] > most || grid[1] > most || grid[2] > most) {
      throw new KernelError(`kernel "${kernel.name}": grid ${grid.join("×")}, the device allows ${most} workgroups a dimension; fold it with grid1d()`);
    }
    const work = workOf(cost, bindings);
    if (work > this.maxDispatchWork) {
      throw new KernelError(`kernel "${kernel.name}": a dispatch must have at most ${this.maxDispatchWork.toExponential(1)} operations; got ${work.toExponential(1)}. Cut it into several launches`);
    }
    const known = this.pipelines.get(variantKey(kernel, constants, uses));
    const pipeline = known ?? this.compileNow(kernel, constants, uses);
    const buffers = bindings.map((b) => b.storage.live());
    const launch: Launch = { pipeline, bindings, buffers, params, grid, label: currentLabel(), cost };
    if (recording && recording !== this) throw new CaptureError(`kernel "${kernel.name}": launched on ${this} inside a capture of ${recording}; a replay would leave it out. Capture one device`);
    for (const listener of launchListeners) listener(launch);
    for (const listener of this.listeners) listener(launch);
    this.push(launch);
    // A pipeline may turn out not to compile: its first launch goes alone, so that it cannot take others with it.
    if (!known) this.flush();
  }

  private push(launch: Launch): void {
    for (const buffer of launch.buffers) buffer.lastUse = this.serial;
    this.serial++;
    this.counts.launches++;
    if (this.gpu) {
      this.pending.push(launch);
      if (this.pending.length >= FLUSH_LAUNCHES) this.flush();
    }
  }

  /** True inside `atomic`. */
  get isAtomic(): boolean {
    return this.held !== null;
  }

  /** True if launches that wait for the end of `atomic` use the buffer: host data cannot be written to it before. */
  isWaiting(buffer: PoolBuffer): boolean {
    return this.held !== null && buffer.lastUse >= this.flushed;
  }

  /** Inside `atomic`: calls `fn` at its end, with true if it threw; the last one given is called first. */
  atEnd(fn: (failed: boolean) => void): void {
    if (!this.held) throw new DeviceError("atEnd: must be called inside atomic(); got a call outside. Call it in the function that atomic() runs");
    this.ends.push(fn);
  }

  /**
   * Runs `fn` (synchronous): if it throws, none of its launches runs, and what they would have changed in place is as before. The launches wait on
   * the host until it returns; reading back, replaying a capture, and uploading to what they use are refused in it with `DeviceError`.
   */
  atomic<T>(fn: () => T): T {
    if (this.held) return fn(); // the outer one decides
    this.flush();
    const doomed: (() => void)[] = (this.held = []);
    try {
      const result = fn();
      refusePromise(result, "atomic()");
      this.end(false);
      return result;
    } catch (error) {
      this.pending = [];
      this.end(true);
      throw error;
    } finally {
      this.held = null;
      if (this.pending.length >= FLUSH_LAUNCHES || doomed.length) this.flush();
      for (const destroy of doomed) destroy();
    }
  }

  private end(failed: boolean): void {
    for (const fn of this.ends.splice(0).reverse()) fn(failed);
  }

  private refuseAtomic(what: string): void {
    if (this.held) throw new DeviceError(`${what} inside atomic(), whose launches have not run yet; do it before or after`);
  }

  /** Hands everything recorded so far to the GPU; inside `atomic`, nothing. */
  flush(): void {
    if (!this.gpu || this.held) return;
    if (this.pending.length) this.check();
    const launches = this.pending;
    this.pending = [];
    for (let at = 0; at < launches.length; at += FLUSH_LAUNCHES) this.encode(this.gpu, launches.slice(at, at + FLUSH_LAUNCHES));
    this.flushed = this.serial;
  }

  private encode(gpu: GPUDevice, launches: readonly Launch[]): void {
    let used = 0;
    const offsets: number[] = [];
    for (const { params } of launches) {
      offsets.push(used);
      if (!params) continue;
      this.arenaBytes.set(params, used / 4);
      used += Math.ceil(params.byteLength / this.slot) * this.slot;
    }
    if (used) gpu.queue.writeBuffer(this.arena!, 0, this.arenaBytes, 0, used / 4);
    const encoder = gpu.createCommandEncoder();
    let next = 0;
    const offset = new Uint32Array(1);
    let last: Pipeline | null = null;
    const encodeOne = (pass: GPUComputePassEncoder, launch: Launch, fresh = false): void => {
      offset[0] = offsets[next++]!;
      if (fresh || last !== launch.pipeline) pass.setPipeline(launch.pipeline.gpu!);
      last = launch.pipeline;
      const group = this.bindGroup(launch, this.arena!);
      if (launch.params) pass.setBindGroup(0, group, offset, 0, 1);
      else pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(launch.grid[0], launch.grid[1], launch.grid[2]);
    };
    if (this.encodeTimed) {
      this.encodeTimed(encoder, launches, (pass, launch) => encodeOne(pass, launch, true));
    } else {
      const pass = encoder.beginComputePass();
      for (const launch of launches) encodeOne(pass, launch);
      pass.end();
    }
    this.submit(encoder);
  }

  /** Submits an encoder of ours (captures and the profiler have their own). */
  submit(encoder: GPUCommandEncoder): void {
    this.gpu!.queue.submit([encoder.finish()]);
    this.counts.submits++;
    this.uploads?.submitted();
  }

  /**
   * Flushes, waits until the GPU is done, and throws what went wrong since the last call: `KernelError`, or `OutOfMemoryError` with a table of
   * what was alive.
   */
  async sync(): Promise<void> {
    // Buffers that the GPU refused are created once more as long as nothing refers to them, so their verdicts come first.
    if (this.allocations?.isPending) await settle(this.allocations.settled(), this.capabilities.software);
    this.flush();
    this.check();
    await Promise.all(this.compiling);
    if (this.gpu) await settle(this.gpu.queue.onSubmittedWorkDone(), this.capabilities.software);
    if (this.allocations?.isPending) await settle(this.allocations.settled(), this.capabilities.software);
    this.check();
    const all = this.errors;
    this.errors = [];
    // Whatever used a buffer that does not exist was refused, too: that says nothing more.
    const outOfMemory = all.filter((error) => error instanceof OutOfMemoryError);
    const [first, ...rest] = outOfMemory.length ? outOfMemory : all;
    if (!first) return;
    if (rest.length) first.message += `\n(and ${rest.length} more errors)`;
    throw first;
  }

  /**
   * Waits until no more than 128 MiB of uploads are in host memory. `writeBuffer` copies its data at once and WebGPU keeps the copy until the
   * GPU has taken it: call it between the parts of a large upload, and between the steps of a loop that reads nothing back. Throws as `sync`
   * what has gone wrong so far, e.g. that the GPU has no memory for what is being uploaded.
   */
  async throttle(): Promise<void> {
    const { uploads } = this;
    if (this.errors.length) await this.sync();
    while (uploads && uploads.queuedBytes > MAX_QUEUED_UPLOAD_BYTES) {
      this.check();
      this.submitUploads();
      await uploads.next(this.capabilities.software);
    }
  }

  /** Hands the uploads so far to the GPU, so that it can take them from host memory. */
  private submitUploads(): void {
    this.flush();
    this.gpu!.queue.submit([]);
    this.uploads!.submitted(1);
  }

  /** Compiles one variant now and waits for the verdict; throws `KernelError` with the lines around the mistake. */
  async compile(kernel: Kernel, constants?: Constants, uses?: Uses): Promise<void> {
    if (!this.pipelines.has(variantKey(kernel, constants, uses))) this.compileNow(kernel, constants, uses);
    await this.sync();
  }

  /** Writes host bytes into a storage. */
  write(binding: Binding, bytes: Uint8Array): void {
    this.check();
    if (this.capturing) throw new CaptureError("host data was uploaded inside capture(); create the tensor (or the Generator of random ops) before it and change it by a kernel");
    this.writeRaw(binding.storage.live(), binding.offset, bytes);
    binding.storage.version++;
  }

  /** Writes without asking whether a capture is running (poison, constants of captures). The tail of the last word becomes 0. */
  writeRaw(buffer: PoolBuffer, offset: number, bytes: Uint8Array): void {
    if (!this.gpu) return;
    if (buffer.lastUse >= this.flushed) {
      this.refuseAtomic("host data was uploaded");
      this.flush();
    }
    buffer.isBound = true;
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

  /** Reads bytes back. Offset and size are multiples of 4. Rejects with whatever went wrong before it. */
  async read(binding: Binding): Promise<Uint8Array> {
    this.check();
    if (!this.gpu) throw new DeviceError("the null device computes nothing: there is no data to read; run on a GPU device");
    if (this.capturing) throw new CaptureError("data was read back inside capture(); read after replay()");
    this.refuseAtomic("data was read back");
    this.flush();
    const buffer = binding.storage.live();
    buffer.isBound = true;
    const encoder = this.gpu.createCommandEncoder();
    const parts = this.readbacks!.encode(encoder, buffer.gpu!, binding.offset, Math.ceil(binding.size / 4) * 4);
    this.submit(encoder);
    const bytes = await this.readbacks!.read(parts, this.capabilities.software).catch(async (cause: unknown) => {
      this.check();
      await this.sync(); // an error that explains it comes first
      throw new DeviceError(`reading back failed: ${String(cause)}`);
    });
    if (this.compiling.size || this.errors.length || this.allocations!.isPending) await this.sync();
    return bytes;
  }

  /** The bind group of a launch with `arena` as its uniform buffer, from the cache. */
  bindGroup(launch: Launch, arena: GPUBuffer, arenaName = ""): GPUBindGroup {
    let key = `${arenaName}${launch.pipeline.id}`;
    for (const [i, b] of launch.bindings.entries()) key += `,${launch.buffers[i]!.id}.${b.offset}.${b.size}`;
    const known = this.bindGroups.get(key);
    if (known) return known;
    for (const buffer of launch.buffers) buffer.isBound = true;
    const entries: GPUBindGroupEntry[] = launch.bindings.map((b, binding) => ({
      binding,
      resource: { buffer: launch.buffers[binding]!.gpu!, offset: b.offset, size: b.size },
    }));
    if (launch.params) entries.push({ binding: entries.length, resource: { buffer: arena, offset: 0, size: launch.params.byteLength } });
    const group = this.gpu!.createBindGroup({ layout: launch.pipeline.layout!, entries });
    this.counts.bindGroups++;
    // Programs whose sizes keep changing would fill the cache without bound: the oldest quarter goes.
    if (this.bindGroups.size >= MOST_BIND_GROUPS) {
      this.drop([...this.bindGroups.keys()].slice(0, MOST_BIND_GROUPS / 4));
    }
    this.bindGroups.set(key, group);
    return group;
  }

  /** Drops the cached bind groups made for the arena of this name (a capture that ended). */
  dropBindGroups(arenaName: string): void {
    this.drop([...this.bindGroups.keys()].filter((key) => key.startsWith(arenaName)));
  }

  private drop(keys: readonly string[]): void {
    for (const key of keys) this.bindGroups.delete(key);
    this.dropped += keys.length;
    if (this.dropped < MOST_DROPPED) return;
    this.dropped = 0;
    collectGarbage();
  }

  /** Counts launches that a capture runs again. */
  replayed(launches: readonly Launch[]): void {
    this.refuseAtomic("a capture was replayed");
    this.flush();
    this.counts.launches += launches.length;
    if (this.listeners.size) for (const launch of launches) for (const listener of this.listeners) listener(launch);
  }

  /** Frees everything; tensors of the device cannot be used any more. */
  destroy(): void {
    if (!this.gone) this.gone = new DisposedError(`${this.name}: the device was destroyed`);
    if (defaultDevice === this) defaultDevice = null;
    this.pending = [];
    this.bindGroups.clear();
    this.gpu?.destroy();
  }

  private forget(buffer: PoolBuffer): void {
    const { gpu } = buffer;
    if (buffer.lastUse >= this.flushed && this.held) {
      // The pool drops it now, so that the launches that wait get their bind groups before.
      for (const launch of this.pending) if (launch.buffers.includes(buffer)) this.bindGroup(launch, this.arena!);
      this.held.push(() => gpu?.destroy());
      return;
    }
    if (buffer.lastUse >= this.flushed) this.flush();
    gpu?.destroy();
  }

  private compileNow(kernel: Kernel, constants: Constants = {}, uses: Uses = {}): Pipeline {
    const key = variantKey(kernel, constants, uses);
    const source = specialise(kernel, constants, uses);
    const names = Object.keys(kernel.bindings);
    if (names.length > this.capabilities.limits.maxStorageBuffersPerShaderStage) {
      throw new KernelError(`kernel "${kernel.name}" binds ${names.length} storage buffers, the device allows ${this.capabilities.limits.maxStorageBuffersPerShaderStage}`, source);
    }
    const id = this.counts.pipelines++;
    if (!this.gpu) {
      const pipeline = { id, kernel, constants, uses, key, gpu: null, layout: null };
      this.pipelines.set(key, pipeline);
      return pipeline;
    }
    const gpu = this.gpu;
    this.flush();
    gpu.pushErrorScope("validation");
    const module = gpu.createShaderModule({ label: key, code: source });
    const entries: GPUBindGroupLayoutEntry[] = names.map((name, binding) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: kernel.bindings[name] === "read" ? "read-only-storage" : "storage" },
    }));
    if (kernel.layout.bytes) entries.push({ binding: names.length, visibility: GPUShaderStage.COMPUTE, buffer: { type: "uniform", hasDynamicOffset: true } });
    const layout = gpu.createBindGroupLayout({ entries });
    const compiled = gpu.createComputePipeline({
      label: key,
      layout: gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: kernel.name },
    });
    const verdict = gpu.popErrorScope().then(async (error) => {
      this.compiling.delete(verdict);
      if (!error) return;
      this.pipelines.delete(key);
      const info = await module.getCompilationInfo();
      this.errors.unshift(new KernelError(describeErrors(kernel, key, source, info, error.message), source));
    });
    this.compiling.add(verdict);
    const pipeline: Pipeline = { id, kernel, constants, uses, key, gpu: compiled, layout };
    this.pipelines.set(key, pipeline);
    return pipeline;
  }
}

function defaultBudget({ software, memoryBytes: own }: Capabilities): number {
  if (software) return 0.8 * (memoryBytes() ?? Infinity);
  return own === null ? Infinity : 0.9 * own;
}
