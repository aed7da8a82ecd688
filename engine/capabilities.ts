/** What a device can do: read once from the adapter, then plain data, so that variants are a pure function of it. */

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

/** Bytes of the vectors in which kernels read: a view may start where one starts. */
const GRANULE = 16;

/** The limits to work with: AMD's drivers let a binding start at each fourth byte, where its last vector would be cut off and refused. */
export const withGranules = (limits: Limits): Limits => ({
  ...limits,
  minStorageBufferOffsetAlignment: Math.max(GRANULE, limits.minStorageBufferOffsetAlignment),
});

export interface Capabilities {
  /** The adapter's own name, e.g. `llvmpipe: Mesa 25.0.7 …`; results of benches are kept under it. */
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  /** A CPU pretends to be a GPU (lavapipe, SwiftShader): kernels without workgroup memory win there. */
  readonly software: boolean;
  readonly f16: boolean;
  /** Subgroups with a size that kernels can rely on: [min, max]; null without the feature. */
  readonly subgroups: readonly [number, number] | null;
  /** `@subgroup_size(n)` may be asked for. */
  readonly subgroupSizeControl: boolean;
  readonly subgroupMatrix: readonly SubgroupMatrixConfig[];
  readonly timestamps: boolean;
  /** Bytes of the GPU's own memory; null if the platform does not report it. */
  readonly memoryBytes: number | null;
  readonly features: readonly string[];
  readonly limits: Limits;
}

/** A heap of the GPU's memory, as Chromium reports it with its developer features on. */
interface MemoryHeap {
  /** Bytes. */
  readonly size: number;
  /** Bits of `GPUHeapProperty`. */
  readonly properties: number;
}

/** What implementations report beyond the specification. */
interface InfoWithExtensions extends GPUAdapterInfo {
  readonly subgroupMatrixConfigs?: readonly SubgroupMatrixConfig[];
  readonly memoryHeaps?: readonly MemoryHeap[];
  /** As older versions have it, in words. */
  readonly adapterType?: string;
  readonly type?: string;
}

/** Names of rasterizers that run on the CPU: Mesa's, Google's, Microsoft's (WARP), and the words that drivers use for themselves. */
const SOFTWARE_NAMES = /llvmpipe|lavapipe|softpipe|swiftshader|swrast|basic render|\bwarp\b|\bsoftware\b/i;

/**
 * True for an adapter whose GPU is the CPU. It is one if the platform says so (`isFallbackAdapter`, an adapter type) or if a name is that of a
 * software rasterizer; browsers hide some of these, so one sign is enough.
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

/** Bytes of the GPU's own memory if the platform reports it (Chromium's `memoryHeaps`), else null. */
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

/** Capabilities of a device that was created from `adapter`, or from one with this `info`, with `features` and `limits`. */
export function capabilitiesOf(
  adapter: GPUAdapter | GPUAdapterInfo,
  features: readonly string[],
  limits: Limits,
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
    limits,
  };
}

/** Capabilities of a device that exists on paper only; `overrides` make it look like a given GPU. */
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
    ...overrides,
    limits: withGranules({
      ...DEFAULT_LIMITS,
      maxStorageBufferBindingSize: 2147483644,
      maxBufferSize: 2 ** 40,
      ...overrides.limits,
    }),
  };
}
