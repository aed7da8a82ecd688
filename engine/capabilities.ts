/** Capabilities of a device: read once from the adapter, then plain data, so that the choice of variants is a pure function of it. */

import type { TunedVariants } from "./tuned.ts";

/** A kind of product that subgroups compute: M × K by K × N, of components such as "f16", with sums such as "f32". */
export interface SubgroupMatrixConfig {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly componentType: string;
  readonly resultComponentType: string;
}

export interface Limits {
  readonly maxStorageBufferBindingSize: number;
  readonly maxBufferSize: number;
  readonly maxStorageBuffersPerShaderStage: number;
  readonly minStorageBufferOffsetAlignment: number;
  readonly minUniformBufferOffsetAlignment: number;
  readonly maxComputeWorkgroupStorageSize: number;
  readonly maxComputeInvocationsPerWorkgroup: number;
  readonly maxComputeWorkgroupSizeX: number;
  readonly maxComputeWorkgroupsPerDimension: number;
}

/** The limits that every WebGPU device has. */
export const DEFAULT_LIMITS: Limits = {
  maxStorageBufferBindingSize: 134217728,
  maxBufferSize: 268435456,
  maxStorageBuffersPerShaderStage: 8,
  minStorageBufferOffsetAlignment: 256,
  minUniformBufferOffsetAlignment: 256,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupsPerDimension: 65535,
};

/** Bytes of the vectors that kernels read: a view may start only at a multiple of it. */
const GRANULE = 16;

/**
 * Raises the offset alignment to a vector: drivers of AMD allow a binding at every fourth byte, where its last vector
 * would be cut off and refused.
 */
export const withGranules = (limits: Limits): Limits => ({
  ...limits,
  minStorageBufferOffsetAlignment: Math.max(GRANULE, limits.minStorageBufferOffsetAlignment),
});

export interface Capabilities {
  /** Name of the adapter, e.g. `llvmpipe: Mesa 25.0.7 …`; benchmark results are stored under it. */
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  /** True if the GPU is emulated on the CPU (lavapipe, SwiftShader), where kernels without workgroup memory are faster. */
  readonly software: boolean;
  readonly f16: boolean;
  /** Smallest and largest subgroup size that kernels can rely on; null without the feature. */
  readonly subgroups: readonly [number, number] | null;
  /** True if `@subgroup_size(n)` is supported. */
  readonly subgroupSizeControl: boolean;
  readonly subgroupMatrix: readonly SubgroupMatrixConfig[];
  readonly timestamps: boolean;
  /** Bytes of the GPU's own memory; null if the platform does not report it. */
  readonly memoryBytes: number | null;
  readonly features: readonly string[];
  /** Variants measured on this device, by kernel family and class of problem (`janus tune`); they come before our own preferences. */
  readonly tuned: TunedVariants;
  readonly limits: Limits;
}

/** A heap of the GPU's memory, as Chromium reports it with its developer features on. */
interface MemoryHeap {
  /** Bytes. */
  readonly size: number;
  /** Bits of `GPUHeapProperty`. */
  readonly properties: number;
}

/** Fields that implementations report beyond the specification. */
interface InfoWithExtensions extends GPUAdapterInfo {
  readonly subgroupMatrixConfigs?: readonly SubgroupMatrixConfig[];
  readonly memoryHeaps?: readonly MemoryHeap[];
  /** Adapter type as a text (older versions). */
  readonly adapterType?: string;
  readonly type?: string;
}

/** Matches the names of rasterizers on the CPU: those of Mesa, Google, Microsoft (WARP), and generic words that drivers use. */
const SOFTWARE_NAMES = /llvmpipe|lavapipe|softpipe|swiftshader|swrast|basic render|\bwarp\b|\bsoftware\b/i;

/**
 * True for an adapter that runs on the CPU: the platform says so (`isFallbackAdapter`, an adapter type), or a name is
 * that of a software rasterizer. Browsers hide some of these, so one sign is enough.
 * @param adapter has `isFallbackAdapter` in browsers older than `info.isFallbackAdapter`
 */
export function isSoftware(
  info: Partial<GPUAdapterInfo>,
  adapter: { readonly isFallbackAdapter?: boolean } = {},
): boolean {
  const {
    isFallbackAdapter,
    vendor = "",
    architecture = "",
    device = "",
    description = "",
    adapterType = "",
    type = "",
  } = info as Partial<InfoWithExtensions>;
  if (isFallbackAdapter || adapter.isFallbackAdapter || /^cpu$/i.test(adapterType) || /^cpu$/i.test(type)) return true;
  if ([vendor, architecture, device, description].some((text) => SOFTWARE_NAMES.test(text))) return true;
  // PCI ids: SwiftShader, WARP.
  return (
    (isVendor(vendor, "google", 0x1ae0) && Number(device) === 0xc0de) ||
    (isVendor(vendor, "microsoft", 0x1414) && Number(device) === 0x8c)
  );
}

const isVendor = (vendor: string, name: string, id: number): boolean =>
  vendor.toLowerCase() === name || Number(vendor) === id;

/** `GPUHeapProperty.DEVICE_LOCAL` */
const DEVICE_LOCAL = 1;

/** Returns the bytes of the GPU's own memory if the platform reports them (`memoryHeaps` in Chromium), else null. */
export function heapBytes(info: Partial<GPUAdapterInfo>): number | null {
  const own = ((info as Partial<InfoWithExtensions>).memoryHeaps ?? []).filter(
    ({ properties }) => properties & DEVICE_LOCAL,
  );
  return own.length ? Math.max(...own.map(({ size }) => size)) : null;
}

/** The kinds of subgroup matrices as plain data: the platform's objects have accessors only, which neither JSON nor copies keep. */
const configsOf = (info: GPUAdapterInfo): SubgroupMatrixConfig[] =>
  [...((info as InfoWithExtensions).subgroupMatrixConfigs ?? [])].map(
    ({ M, N, K, componentType, resultComponentType }) => ({ M, N, K, componentType, resultComponentType }),
  );

/** Returns the capabilities of a device created from `adapter`, or from one with this `info`, with `features` and `limits`. */
export function capabilitiesOf(
  adapter: GPUAdapter | GPUAdapterInfo,
  features: readonly string[],
  limits: Limits,
  tuned: TunedVariants = {},
): Capabilities {
  const info = "info" in adapter ? adapter.info : adapter;
  const name = info.description || info.device || info.vendor || "unknown adapter";
  const has = (feature: string): boolean => features.includes(feature);
  return {
    name,
    vendor: info.vendor,
    architecture: info.architecture,
    software: isSoftware(info, adapter as { isFallbackAdapter?: boolean }),
    f16: has("shader-f16"),
    subgroups: has("subgroups") ? [info.subgroupMinSize ?? 4, info.subgroupMaxSize ?? 128] : null,
    subgroupSizeControl: has("subgroup-size-control"),
    subgroupMatrix: has("chromium-experimental-subgroup-matrix") ? configsOf(info) : [],
    timestamps: has("timestamp-query"),
    memoryBytes: heapBytes(info),
    features,
    tuned,
    limits,
  };
}

/** Returns the capabilities of the null device; `overrides` imitate a given GPU. */
export function nullCapabilities(
  overrides: Partial<Omit<Capabilities, "limits">> & { limits?: Partial<Limits> } = {},
): Capabilities {
  return {
    name: "null device",
    vendor: "none",
    architecture: "null",
    software: false,
    f16: false,
    subgroups: null,
    subgroupSizeControl: false,
    subgroupMatrix: [],
    timestamps: false,
    memoryBytes: null,
    features: [],
    tuned: {},
    ...overrides,
    limits: withGranules({
      ...DEFAULT_LIMITS,
      maxStorageBufferBindingSize: 2147483644,
      maxBufferSize: 2 ** 40,
      ...overrides.limits,
    }),
  };
}
