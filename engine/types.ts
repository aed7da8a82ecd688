/**
 * Plain types that the queue, launches, captures and tensors share: a storage, a range of it that a launch binds, and the launch itself.
 * They name neither a device nor a tensor, so that nothing here imports back.
 */
import type { Constants, Kernel, Uses } from "./kernel.ts";
import type { PoolBuffer } from "./pool.ts";

/** The memory of one or more tensors, as launches see it. `DeviceStorage` is the class. */
export interface Storage {
  /** Bytes with padding. */
  readonly bytes: number;
  /** Bytes of the elements. */
  readonly used: number;
  /** Name in the out-of-memory table. */
  readonly label: string;
  /** Number in the order of creation, over all devices. */
  readonly serial: number;
  /** True for a constant of its device: every function that reads it gets the same values, or no result depends on them. */
  readonly isConstant: boolean;
  /** Number of writes; the tape uses it to detect in-place changes of saved tensors. */
  readonly version: number;
  readonly isLive: boolean;
  /** True if only one tensor or tape entry uses it: it may be written in place. */
  readonly exclusive: boolean;
  /** Returns the buffer. Throws `DisposedError` if the storage was freed. */
  live(): PoolBuffer;
  /** Counts a write. */
  markWritten(): void;
  /** Adds a user. */
  retain(): this;
  /** Removes a user; the last one frees the buffer. */
  release(): void;
}

/** A byte range of a storage, bound to one name of a kernel. */
export interface Binding {
  readonly storage: Storage;
  readonly offset: number;
  readonly size: number;
}

/** Work and traffic of one launch, for profiles, benches and the null device. */
export interface Cost {
  readonly flops: number;
  readonly bytes: number;
}

/** A compiled variant of a kernel on one device; `gpu` is null on the null device. */
export interface Pipeline {
  readonly id: number;
  readonly kernel: Kernel;
  readonly constants: Constants;
  readonly uses: Uses;
  /** Kernel name with its uses and constants: equal keys, equal code. */
  readonly key: string;
  readonly gpu: GPUComputePipeline | null;
  readonly layout: GPUBindGroupLayout | null;
}

/** A launch before the queue finds its pipeline and buffers. */
export interface LaunchRequest {
  readonly kernel: Kernel;
  readonly constants: Constants | undefined;
  readonly uses: Uses | undefined;
  readonly bindings: readonly Binding[];
  readonly params: Uint32Array | null;
  readonly grid: readonly [number, number, number];
  readonly cost: Cost | null;
}

/** A launch as plain data: the same record is encoded, captured, profiled and counted. */
export interface Launch {
  readonly pipeline: Pipeline;
  readonly bindings: readonly Binding[];
  /** The buffers of the bindings' storages at the time of the call: a storage may be freed before the launch is encoded. */
  readonly buffers: readonly PoolBuffer[];
  readonly params: Uint32Array | null;
  readonly grid: readonly [number, number, number];
  /** Module path and op at the time of the call, e.g. `layers.0.mlp/linear`. */
  readonly label: string;
  readonly cost: Cost | null;
}

/** A function that sees each launch before it is encoded. */
export type LaunchListener = (launch: Launch) => void;
