/**
 * A device: what it can do, how it ends, and what went wrong on it. Its memory is the pool, its launches the queue, its compiled kernels
 * the pipelines. The null device runs the same program without a GPU and counts.
 */
import { chooseAdapter, heldLimits, limitsOf } from "./adapters.ts";
import type { AdapterOptions, WantedLimits } from "./adapters.ts";
import { Allocations } from "./allocation.ts";
import { DEFAULT_LIMITS, capabilitiesOf, nullCapabilities } from "./capabilities.ts";
import type { Capabilities, Limits } from "./capabilities.ts";
import { ArgumentError, DeviceError, DeviceLostError, DisposedError, OutOfMemoryError, messageOf } from "./errors.ts";
import type { JanusError } from "./errors.ts";
import { Faults } from "./faults.ts";
import { loadKernels } from "./kernel.ts";
import type { Constants, Kernel, Uses } from "./kernel.ts";
import { knownOptions, requireBoolean, shown } from "./options.ts";
import { Pipelines } from "./pipelines.ts";
import { memoryBytes, settle } from "./platform.ts";
import { BufferPool } from "./pool.ts";
import { Queue, refusedWork } from "./queue.ts";
import type { Binding, LaunchListener } from "./types.ts";
import { MAX_DISPATCH_WORK } from "./work.ts";

export interface DeviceOptions extends AdapterOptions {
  /**
   * Bytes that buffers may take in all. Default: 80 % of main memory on a software adapter, 90 % of the GPU's own memory if the platform
   * reports its size (`capabilities.memoryBytes`), no bound elsewhere. There the GPU's first out-of-memory error sets it.
   */
  readonly memoryBudget?: number;
  /**
   * Operations that one dispatch may have; the default is 10¹¹. Matrix products, convolutions and attention with more are cut into several
   * launches, which changes no bit; any other launch with more is refused.
   */
  readonly maxDispatchWork?: number;
  /** Limits to hold instead of the adapter's (never above it); `"default"` for those that every WebGPU device has. */
  readonly limits?: WantedLimits;
  /** Features not to use, e.g. `["subgroups"]`; kernels then take another variant. */
  readonly without?: readonly string[];
  /** Capabilities of the null device. */
  readonly capabilities?: Capabilities;
  /**
   * For debugging and tests: out-of-range ids (embedding, gather, indexSelect, scatter, targets of losses, …) are an `ArgumentError` at the next
   * `sync()` or read-back. It costs a launch for each such input, and a small read-back for each synchronisation. Without it such an id has the
   * effect that its op documents: a row of zeros, or no effect.
   */
  readonly checks?: boolean;
  /** For tests: fill every new storage with NaN bits, so that an element no kernel wrote is seen. */
  readonly poison?: boolean;
}

const DEVICE_OPTIONS: readonly (keyof DeviceOptions)[] = [
  "adapter",
  "backend",
  "boundsChecks",
  "memoryBudget",
  "maxDispatchWork",
  "limits",
  "without",
  "capabilities",
  "checks",
  "poison",
];

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

const WANTED_FEATURES = [
  "shader-f16",
  "subgroups",
  "subgroup-size-control",
  "timestamp-query",
  "chromium-experimental-subgroup-matrix",
];

let defaultDevice: Device | null = null;
let nextDevice = 0;

/** The device that tensors are created on when none is named: the first one created, or the one set. */
export function getDevice(): Device {
  if (!defaultDevice) throw new DeviceError("no device yet; call `await Device.create()` first");
  return defaultDevice;
}

/** Makes `device` the one that tensors are created on when none is named. */
export function setDevice(device: Device | null): void {
  if (device !== null && !(device instanceof Device))
    throw new ArgumentError(
      `setDevice: the device must be a Device or null; got ${shown(device)}. Pass what Device.create() resolves to.`,
    );
  defaultDevice = device;
}

export class Device {
  /** Counts devices, to distinguish two of one adapter. */
  readonly id = nextDevice++;
  readonly capabilities: Capabilities;
  readonly pool: BufferPool;
  /** What the engine itself does on the device: launches, captures, uploads. Programs call the device's own methods. */
  readonly queue: Queue;
  /** The GPU's own device; null on the null device. */
  readonly gpu: GPUDevice | null;
  readonly poison: boolean;
  /** What checks of values found, on a device with `checks`; else null. */
  readonly faults: Faults | null;
  /** Operations that one dispatch may have. */
  readonly maxDispatchWork: number;
  private readonly pipelines: Pipelines;
  private readonly allocations: Allocations | null;
  /** What went wrong and was not thrown yet. */
  private errors: JanusError[] = [];
  /** Verdicts on submitted work that are not known yet. */
  private readonly verdicts = new Set<Promise<void>>();
  private gone: JanusError | null = null;
  private leaks = 0;

  private constructor(gpu: GPUDevice | null, capabilities: Capabilities, options: DeviceOptions) {
    this.gpu = gpu;
    this.capabilities = capabilities;
    this.poison = options.poison ?? false;
    this.maxDispatchWork = options.maxDispatchWork ?? MAX_DISPATCH_WORK;
    if (!(this.maxDispatchWork > 0))
      throw new ArgumentError(`maxDispatchWork must be a number of operations above 0; got ${this.maxDispatchWork}`);
    // A kernel that does not compile explains what else went wrong: it comes first.
    this.pipelines = new Pipelines(gpu, capabilities, (error) => this.errors.unshift(error));
    const allocations =
      gpu &&
      new Allocations(
        gpu,
        () => this.pool,
        (error) => this.errors.push(error),
      );
    this.allocations = allocations;
    this.queue = new Queue(this, this.pipelines, (size) =>
      allocations!.createOther({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST }, "read-back"),
    );
    this.pool = new BufferPool(
      {
        create: (buffer, label) => allocations?.create(buffer, label) ?? null,
        destroy: (buffer) => this.queue.destroyBuffer(buffer),
      },
      options.memoryBudget ?? defaultBudget(capabilities),
      capabilities.limits.maxBufferSize,
    );
    if (gpu) this.watch(gpu);
    this.faults = options.checks ? new Faults(this.pool, this.queue) : null;
  }

  /** Opens a device and loads all kernels declared so far; it becomes the default device if there is none. */
  static async create(options: DeviceOptions = {}): Promise<Device> {
    knownOptions("Device.create", options, DEVICE_OPTIONS);
    for (const name of ["checks", "poison", "boundsChecks"] as const)
      requireBoolean("Device.create", name, options[name] ?? false);
    const { memoryBudget = Infinity } = options;
    if (typeof memoryBudget !== "number" || !(memoryBudget > 0))
      throw new ArgumentError(
        `Device.create: memoryBudget must be a number of bytes above 0; got ${String(memoryBudget)}. Change it.`,
      );
    await loadKernels();
    const device =
      options.backend === "null"
        ? new Device(null, options.capabilities ?? nullCapabilities(), options)
        : await Device.open(options);
    defaultDevice ??= device;
    return device;
  }

  private static async open(options: DeviceOptions): Promise<Device> {
    const adapter = await chooseAdapter(options);
    const without = options.without ?? [];
    const features = WANTED_FEATURES.filter((f) => adapter.features.has(f as GPUFeatureName) && !without.includes(f));
    const limits = heldLimits(limitsOf(adapter.limits), options.limits, adapter.info.description);
    // An artificially small binding limit is held by us; the GPU's own device keeps at least the defaults.
    const requiredLimits = Object.fromEntries(
      Object.entries(limits).map(([k, v]) => [
        k,
        k.startsWith("min") ? v : Math.max(v, options.limits ? DEFAULT_LIMITS[k as keyof Limits] : v),
      ]),
    );
    const gpu = await adapter
      .requestDevice({ requiredFeatures: features as GPUFeatureName[], requiredLimits })
      .catch((error: unknown) => {
        throw new DeviceError(
          `Device.create: the adapter must give a device; got a refusal of ${adapter.info.description || adapter.info.vendor}: ${messageOf(error)}. Ask for fewer limits, or name another adapter.`,
        );
      });
    return new Device(gpu, capabilitiesOf(adapter, features, limits), options);
  }

  private watch(gpu: GPUDevice): void {
    gpu.addEventListener("uncapturederror", ({ error }) => {
      this.errors.push(error instanceof GPUOutOfMemoryError ? new OutOfMemoryError(error.message) : refusedWork(error));
    });
    void gpu.lost.then((info) => {
      this.gone ??= new DeviceLostError(
        `${this.name}: the device was lost (${info.message || info.reason}); create a new one and load the last checkpoint`,
      );
    });
  }

  get name(): string {
    return this.capabilities.name;
  }

  /** It was destroyed, or lost. */
  get isGone(): boolean {
    return this.gone !== null;
  }

  /** Ids were checked since the last look; the null device computes nothing. */
  private get hasChecked(): boolean {
    return !this.isNull && (this.faults?.isPending ?? false);
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
      pipelinesCreated: this.pipelines.created,
      caughtByCollector: this.leaks,
      ...this.queue.stats,
    };
  }

  toString(): string {
    return `Device(${this.id}: ${this.name})`;
  }

  /** Throws if the device is lost or destroyed. */
  check(): void {
    if (this.gone) throw this.gone;
  }

  /** Counts a tensor that the garbage collector found undisposed. */
  noteLeak(): void {
    this.leaks++;
  }

  /** Calls `listener` with every launch before it is queued, those of replays too. */
  onLaunch(listener: LaunchListener): void {
    this.queue.onLaunch(listener);
  }

  /** Ends `onLaunch(listener)`. */
  offLaunch(listener: LaunchListener): void {
    this.queue.offLaunch(listener);
  }

  /**
   * Runs `fn` (synchronous): if it throws, none of its launches runs, and what they would have changed in place is as before. The launches wait on
   * the host until it returns; reading back, replaying a capture, and uploading to what they use are refused in it with `DeviceError`.
   */
  atomic<T>(fn: () => T): T {
    return this.queue.atomic(fn);
  }

  /** Submits every launch so far; inside `atomic`, none. */
  flush(): void {
    this.queue.flush();
  }

  /**
   * Flushes, waits until the GPU is done, and throws what went wrong since the last call: `KernelError`, `OutOfMemoryError` with a table of
   * what was alive, or with `checks` `ArgumentError` for the first out-of-range id.
   */
  async sync(): Promise<void> {
    // Buffers that the GPU refused are created once more as long as nothing refers to them, so their verdicts come first.
    await this.allocated();
    this.queue.flush();
    this.check();
    await this.pipelines.settled();
    await this.queue.done();
    await Promise.all(this.verdicts);
    await this.allocated();
    this.check();
    const fault = this.hasChecked && !this.queue.isCapturing ? await this.faults!.take() : null;
    if (fault) this.errors.push(fault);
    this.raise();
  }

  /** Watches a verdict that comes later, for the queue; an error it gives is thrown at the next synchronisation. */
  expectVerdict(verdict: Promise<JanusError | null>): void {
    const seen: Promise<void> = verdict
      .then((error) => {
        if (error) this.errors.push(error);
      })
      .catch(() => undefined) // the device is lost: its own error reports it
      .finally(() => this.verdicts.delete(seen));
    this.verdicts.add(seen);
  }

  private async allocated(): Promise<void> {
    if (this.allocations?.isPending) await settle(this.allocations.settled(), this.capabilities.software);
  }

  /** Throws the first error so far, and forgets all. */
  private raise(): void {
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
    if (this.errors.length) await this.sync();
    await this.queue.throttle();
  }

  /** Compiles one variant now and waits for the verdict; throws `KernelError` with the lines around the mistake. */
  async compile(kernel: Kernel, constants?: Constants, uses?: Uses): Promise<void> {
    if (!this.pipelines.find(kernel, constants, uses)) this.pipelines.compile(kernel, constants, uses);
    await this.sync();
  }

  /** Writes host bytes into a storage. Throws `CaptureError` inside a capture. */
  write(binding: Binding, bytes: Uint8Array): void {
    this.check();
    this.queue.write(binding, bytes);
  }

  /** Reads bytes back. Offset and size are multiples of 4. Rejects with whatever went wrong before it. */
  async read(binding: Binding): Promise<Uint8Array> {
    this.check();
    const parts = this.queue.startRead(binding);
    const bytes = await this.queue.finishRead(parts).catch(async (cause: unknown) => {
      this.check();
      await this.sync(); // an error that explains it comes first
      throw new DeviceError(`reading back failed: ${String(cause)}`);
    });
    if (
      this.pipelines.isPending ||
      this.errors.length ||
      this.allocations?.isPending ||
      this.hasChecked ||
      this.verdicts.size
    )
      await this.sync();
    return bytes;
  }

  /** Frees everything; tensors of the device cannot be used any more. */
  destroy(): void {
    this.gone ??= new DisposedError(`${this.name}: the device was destroyed`);
    if (defaultDevice === this) defaultDevice = null;
    this.queue.close();
    this.gpu?.destroy();
  }
}

function defaultBudget({ software, memoryBytes: own }: Capabilities): number {
  if (software) return 0.8 * (memoryBytes() ?? Infinity);
  return own === null ? Infinity : 0.9 * own;
}
