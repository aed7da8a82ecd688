/**
 * A device: its capabilities, lifetime and errors. The pool manages its memory, the queue its launches, and the
 * pipelines its compiled kernels. The null device runs the same program without a GPU and counts.
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
import { checkVariants, findTuned } from "./tuned.ts";
import type { TunedVariants } from "./tuned.ts";
import type { Binding, LaunchListener } from "./types.ts";
import { MAX_DISPATCH_WORK } from "./work.ts";

export interface DeviceOptions extends AdapterOptions {
  /**
   * Bytes that all buffers together may take. Default: 80 % of main memory on a software adapter, 90 % of the GPU's own
   * memory if the platform reports its size (`capabilities.memoryBytes`), otherwise no limit until the first
   * out-of-memory error of the GPU sets one.
   */
  readonly memoryBudget?: number;
  /**
   * Maximum operations of one dispatch (default: 10¹¹). Matrix products, convolutions and attention with more are split
   * into several launches with the same bits; any other launch with more is refused.
   */
  readonly maxDispatchWork?: number;
  /** Limits to use instead of the adapter's (never above them); `"default"`: the limits that every WebGPU device has. */
  readonly limits?: WantedLimits;
  /** Features to leave out, e.g. `["subgroups"]`; kernels then use another variant. */
  readonly without?: readonly string[];
  /** Capabilities of the null device. */
  readonly capabilities?: Capabilities;
  /**
   * For debugging and tests: out-of-range ids (embedding, gather, indexSelect, scatter, targets of losses, …) cause an
   * `ArgumentError` at the next `sync()` or read-back. This costs a launch for each such input, and a small read-back
   * for each synchronisation. Without `checks` such an id has the effect that its op documents: a row of zeros, or
   * none.
   */
  readonly checks?: boolean;
  /**
   * Kernel variants to use, by family and class of problem; `false` for the package's own preferences only. Default: the table that `janus tune`
   * wrote into the user's cache for this adapter and driver (Node), else one that comes with the package for this family of adapters.
   */
  readonly tuned?: TunedVariants | false;
  /** For tests: fill new storages with NaN bits, but for those made inside `atomic`, to expose elements that no kernel wrote. */
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
  "tuned",
  "poison",
];

function checkTuned(tuned: DeviceOptions["tuned"]): void {
  if (tuned === undefined || tuned === false) return;
  checkVariants(tuned, (got) => {
    throw new ArgumentError(
      `Device.create: tuned must be false or have names of variants by family and class; got ${got}. Pass variants of a table of janus tune.`,
    );
  });
}

function nullDeviceCapabilities({ capabilities = nullCapabilities(), tuned }: DeviceOptions): Capabilities {
  return tuned === undefined ? capabilities : { ...capabilities, tuned: tuned || {} };
}

/** Counts since the device was created; a steady loop must not raise the first three. */
export interface DeviceStats {
  readonly buffersCreated: number;
  readonly bindGroupsCreated: number;
  readonly pipelinesCreated: number;
  readonly launches: number;
  readonly submits: number;
  /** Tensors that were garbage-collected without `dispose()`: leaks that a scope would have freed. */
  readonly caughtByCollector: number;
  /** Bytes of uploads that wait in host memory, and their maximum so far. */
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

/** Returns the default device: the one that was set, or else the first one created. Throws `DeviceError` if there is none. */
export function getDevice(): Device {
  if (!defaultDevice)
    throw new DeviceError("getDevice: a device must exist; got none. Call `await Device.create()` first.");
  return defaultDevice;
}

/** Sets the default device, on which tensors are created if the call names none. */
export function setDevice(device: Device | null): void {
  if (device !== null && !(device instanceof Device))
    throw new ArgumentError(
      `setDevice: the device must be a Device or null; got ${shown(device)}. Pass what Device.create() resolves to.`,
    );
  defaultDevice = device;
}

/**
 * A GPU, or the null device, which only counts. `Device.create()` opens the fastest adapter and makes the first one the default
 * of the program; `destroy()` frees all that it has.
 */
export class Device {
  /** Number of the device, to distinguish two of one adapter. */
  readonly id = nextDevice++;
  readonly capabilities: Capabilities;
  readonly pool: BufferPool;
  /** Launches, captures and uploads of the engine itself. Programs call the methods of the device. */
  readonly queue: Queue;
  /** The `GPUDevice`; null on the null device. */
  readonly gpu: GPUDevice | null;
  readonly poison: boolean;
  /** Results of the checks of values, on a device with `checks`; else null. */
  readonly faults: Faults | null;
  /** Maximum operations of one dispatch. */
  readonly maxDispatchWork: number;
  private readonly pipelines: Pipelines;
  private readonly allocations: Allocations | null;
  /** Errors that were not thrown yet. */
  private errors: JanusError[] = [];
  /** Pending verdicts on submitted work. */
  private readonly verdicts = new Set<Promise<void>>();
  private gone: JanusError | null = null;
  private leaks = 0;

  private constructor(gpu: GPUDevice | null, capabilities: Capabilities, options: DeviceOptions) {
    this.gpu = gpu;
    this.capabilities = capabilities;
    this.poison = options.poison ?? false;
    this.maxDispatchWork = options.maxDispatchWork ?? MAX_DISPATCH_WORK;
    if (!(this.maxDispatchWork > 0))
      throw new ArgumentError(
        `Device.create: maxDispatchWork must be a number of operations above 0; got ${this.maxDispatchWork}. Change it.`,
      );
    // A kernel that does not compile explains the other errors, so its error comes first.
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

  /**
   * Creates a device and loads all kernels declared so far. It becomes the default device if there is none. Throws `DeviceError` if there is no
   * adapter, or if the adapter refuses; `ArgumentError` for options that are unknown or out of range.
   */
  static async create(options: DeviceOptions = {}): Promise<Device> {
    const device = await Device.make(options);
    defaultDevice ??= device;
    return device;
  }

  /** A null device for counting and planning inside the library: never the default device, of which a program may have none. */
  static createCounting(options: Pick<DeviceOptions, "capabilities" | "memoryBudget"> = {}): Promise<Device> {
    return Device.make({ ...options, backend: "null" });
  }

  private static async make(options: DeviceOptions): Promise<Device> {
    knownOptions("Device.create", options, DEVICE_OPTIONS);
    for (const name of ["checks", "poison", "boundsChecks"] as const)
      requireBoolean("Device.create", name, options[name] ?? false);
    const { memoryBudget = Infinity } = options;
    if (typeof memoryBudget !== "number" || !(memoryBudget > 0))
      throw new ArgumentError(
        `Device.create: memoryBudget must be a number of bytes above 0; got ${String(memoryBudget)}. Change it.`,
      );
    checkTuned(options.tuned);
    await loadKernels();
    return options.backend === "null"
      ? new Device(null, nullDeviceCapabilities(options), options)
      : Device.open(options);
  }

  private static async open(options: DeviceOptions): Promise<Device> {
    const adapter = await chooseAdapter(options);
    const without = options.without ?? [];
    const features = WANTED_FEATURES.filter((f) => adapter.features.has(f as GPUFeatureName) && !without.includes(f));
    const limits = heldLimits(limitsOf(adapter.limits), options.limits, adapter.info.description);
    // An artificially small binding limit is enforced by us; the `GPUDevice` keeps at least the defaults.
    const requiredLimits = Object.fromEntries(
      Object.entries(limits).map(([k, v]) => [
        k,
        k.startsWith("min") ? v : Math.max(v, options.limits ? DEFAULT_LIMITS[k as keyof Limits] : v),
      ]),
    );
    const tuned = options.tuned ?? findTuned(adapter.info)?.table.variants;
    const gpu = await adapter
      .requestDevice({ requiredFeatures: features as GPUFeatureName[], requiredLimits })
      .catch((error: unknown) => {
        throw new DeviceError(
          `Device.create: the adapter must create a device; got a refusal from ${adapter.info.description || adapter.info.vendor}: ${messageOf(error)}. Request lower limits, or name another adapter.`,
        );
      });
    return new Device(gpu, capabilitiesOf(adapter, features, limits, tuned || {}), options);
  }

  private watch(gpu: GPUDevice): void {
    gpu.addEventListener("uncapturederror", ({ error }) => {
      this.errors.push(error instanceof GPUOutOfMemoryError ? new OutOfMemoryError(error.message) : refusedWork(error));
    });
    void gpu.lost.then((info) => {
      this.gone ??= new DeviceLostError(
        `${this.name}: the device must be alive; got a loss of the device (${info.message || info.reason}). Create a new one and load the last checkpoint.`,
      );
    });
  }

  get name(): string {
    return this.capabilities.name;
  }

  /** True if it was destroyed or lost. */
  get isGone(): boolean {
    return this.gone !== null;
  }

  /** True if ids were checked since the last read; never on the null device, which computes nothing. */
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

  /** Counts a tensor that was garbage-collected without `dispose()`. */
  noteLeak(): void {
    this.leaks++;
  }

  /** Calls `listener` with every launch before it is queued, including those of replays. */
  onLaunch(listener: LaunchListener): void {
    this.queue.onLaunch(listener);
  }

  /** Ends `onLaunch(listener)`. */
  offLaunch(listener: LaunchListener): void {
    this.queue.offLaunch(listener);
  }

  /**
   * Runs `fn` (synchronous). If it throws, none of its launches runs, and tensors that they would have changed in place
   * are unchanged. The launches wait on the host until it returns. Inside it, read-backs, replays of captures, and
   * uploads to storages that they use throw `DeviceError`.
   */
  atomic<T>(fn: () => T): T {
    return this.queue.atomic(fn);
  }

  /** Submits the pending launches; inside `atomic`, none. */
  flush(): void {
    this.queue.flush();
  }

  /**
   * Flushes, waits until the GPU is done, and throws the first error since the last call: `KernelError`,
   * `OutOfMemoryError` with a table of live tensors, or with `checks` an `ArgumentError` for the first out-of-range id.
   */
  async sync(): Promise<void> {
    // Buffers that the GPU refused are created again as long as nothing refers to them, so their verdicts come first.
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

  /**
   * `sync` where a verdict on the work so far is not known yet. Else, on a software device, the work is accepted and its end is not awaited: the
   * host records what follows meanwhile.
   */
  async accepted(): Promise<void> {
    this.queue.flush();
    await new Promise((resolve) => setTimeout(resolve)); // errors that are known are reported in between
    if (!this.capabilities.software || this.isUncertain) return this.sync();
    this.check();
  }

  /** True if the next synchronisation may throw. */
  get isUncertain(): boolean {
    const { pipelines, errors, allocations, verdicts } = this;
    return pipelines.isPending || errors.length > 0 || allocations?.isPending === true || this.hasChecked || verdicts.size > 0; // prettier-ignore
  }

  /** Watches a verdict for the queue; if it is an error, the next synchronisation throws it. */
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

  /** Throws the first error so far, and clears all. */
  private raise(): void {
    const all = this.errors;
    this.errors = [];
    // Work on a buffer that does not exist was refused, too: those errors add no information.
    const outOfMemory = all.filter((error) => error instanceof OutOfMemoryError);
    const [first, ...rest] = outOfMemory.length ? outOfMemory : all;
    if (!first) return;
    if (rest.length) first.message += `\n(and ${rest.length} more errors)`;
    throw first;
  }

  /**
   * Waits until at most `bytes` of uploads (default: 128 MiB) are in host memory. `writeBuffer` copies its data at once, and WebGPU keeps
   * the copy until the GPU has taken it. Call `throttle` between the parts of a large upload, and between the steps of
   * a loop that reads nothing back. Throws the errors so far, as `sync` does, e.g. if the GPU has no memory for the
   * upload.
   */
  async throttle(bytes?: number): Promise<void> {
    if (this.errors.length) await this.sync();
    await this.queue.throttle(bytes);
  }

  /** Compiles one variant now and waits for the verdict. Throws `KernelError` with the lines around the mistake. */
  async compile(kernel: Kernel, constants?: Constants, uses?: Uses): Promise<void> {
    this.queue.pipelineOf(kernel, constants, uses);
    await this.sync();
  }

  /**
   * Starts to build, in the background, the pipelines that the null device `recorded` has needed so far. Launches do not wait: one that comes
   * before its pipeline is ready builds its own. A pipeline that cannot be built is left to its launch, which reports the error. Resolves when
   * none is being built any more; callers need not wait for it.
   */
  compileAhead(recorded: Device): Promise<void> {
    this.check();
    return this.pipelines.compileAhead(recorded.pipelines);
  }

  /** Writes host bytes into a storage. Throws `CaptureError` inside a capture. */
  write(binding: Binding, bytes: Uint8Array): void {
    this.check();
    this.queue.write(binding, bytes);
  }

  /** Reads bytes back. Offset and size are multiples of 4. Rejects with the first error before it. */
  async read(binding: Binding): Promise<Uint8Array> {
    this.check();
    const parts = this.queue.startRead(binding);
    const bytes = await this.queue.finishRead(parts).catch(async (cause: unknown) => {
      this.check();
      await this.sync(); // an error that explains it comes first
      throw new DeviceError(
        `Device.read: the GPU must return the data; got ${String(cause)}. Read it again, or create a new device.`,
      );
    });
    if (this.isUncertain) await this.sync();
    return bytes;
  }

  /** Frees everything; tensors of the device can no longer be used. */
  destroy(): void {
    this.gone ??= new DisposedError(
      `${this.name}: the device must be alive; got one that was destroyed. Create a new one.`,
    );
    if (defaultDevice === this) defaultDevice = null;
    this.queue.close();
    this.gpu?.destroy();
  }
}

function defaultBudget({ software, memoryBytes: own }: Capabilities): number {
  if (software) return 0.8 * (memoryBytes() ?? Infinity);
  return own === null ? Infinity : 0.9 * own;
}
