/** What a device can do: read once from the adapter, then plain data, so that variants are a pure function of it. */

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
  readonly features: readonly string[];
  readonly limits: Limits;
}

interface InfoWithMatrix extends GPUAdapterInfo {
  readonly subgroupMatrixConfigs?: readonly SubgroupMatrixConfig[];
}

/** Capabilities of a device that was created from `adapter` with `features` and `limits`. */
export function capabilitiesOf(info: GPUAdapterInfo, features: readonly string[], limits: Limits): Capabilities {
  const name = info.description || info.device || info.vendor || "unknown adapter";
  const has = (feature: string): boolean => features.includes(feature);
  return {
    name,
    vendor: info.vendor,
    architecture: info.architecture,
    software: info.architecture === "software" || /llvmpipe|swiftshader|lavapipe/i.test(`${name} ${info.device}`),
    f16: has("shader-f16"),
    subgroups: has("subgroups") ? [info.subgroupMinSize ?? 4, info.subgroupMaxSize ?? 128] : null,
    subgroupSizeControl: has("subgroup-size-control"),
    subgroupMatrix: has("chromium-experimental-subgroup-matrix") ? [...((info as InfoWithMatrix).subgroupMatrixConfigs ?? [])] : [],
    timestamps: has("timestamp-query"),
    features,
    limits,
  };
}

/** Capabilities of a device that exists on paper only; `overrides` make it look like a given GPU. */
export function nullCapabilities(overrides: Partial<Omit<Capabilities, "limits">> & { limits?: Partial<Limits> } = {}): Capabilities {
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
    features: [],
    ...overrides,
    limits: { ...DEFAULT_LIMITS, maxStorageBufferBindingSize: 2147483644, maxBufferSize: 2 ** 40, ...overrides.limits },
  };
}
