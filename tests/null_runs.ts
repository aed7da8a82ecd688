/**
 * Runs rows of the table of cases on the null device, to see what they would launch: pipelines, sizes, parameters. No data, no GPU.
 */
import { Device, backward, empty, isFloat, nullCapabilities, scope } from "../index.ts";
import type { Capabilities, Launch, Tensor } from "../index.ts";
import { forceVariant } from "../kernels/core/variants.ts";
import { caseName, channelsLast } from "./harness.ts";
import type { Case, Input } from "./harness.ts";

/** Devices that kernels choose their variants for. */
export const PROFILES: Readonly<Record<string, Capabilities>> = {
  "WebGPU defaults": nullCapabilities({ limits: { maxStorageBufferBindingSize: 134217728, maxBufferSize: 268435456 } }),
  "software Vulkan": nullCapabilities({
    name: "llvmpipe",
    software: true,
    f16: true,
    subgroups: [8, 8],
    timestamps: true,
    features: ["shader-f16", "subgroups", "timestamp-query"],
    limits: {
      maxStorageBufferBindingSize: 134217728,
      maxStorageBuffersPerShaderStage: 16,
      maxComputeInvocationsPerWorkgroup: 1024,
      maxComputeWorkgroupSizeX: 1024,
      maxComputeWorkgroupStorageSize: 32768,
      minStorageBufferOffsetAlignment: 16,
    },
  }),
  NVIDIA: nullCapabilities({
    name: "NVIDIA",
    vendor: "nvidia",
    architecture: "hopper",
    f16: true,
    subgroups: [32, 32],
    subgroupSizeControl: true,
    timestamps: true,
    features: ["shader-f16", "subgroups", "subgroup-size-control", "timestamp-query"],
    limits: {
      maxStorageBuffersPerShaderStage: 16,
      maxComputeInvocationsPerWorkgroup: 1024,
      maxComputeWorkgroupSizeX: 1024,
      maxComputeWorkgroupStorageSize: 49152,
      minStorageBufferOffsetAlignment: 16,
    },
  }),
};

function place(input: Input, device: Device): Tensor {
  const { shape, dtype = "f32", layout = "contiguous" } = input;
  if (layout === "contiguous") return empty(shape, { dtype, device });
  if (layout === "reversed") {
    using whole = empty([...shape].reverse(), { dtype, device });
    return whole.strided(shape, [...whole.strides].reverse());
  }
  if (layout === "channels last") {
    using whole = empty([shape[0]!, ...shape.slice(2), shape[1]!], { dtype, device });
    return whole.strided(shape, channelsLast(whole.strides));
  }
  using whole = empty(
    shape.map((n) => n + 3),
    { dtype, device },
  );
  return whole.strided(
    shape,
    whole.strides,
    whole.strides.reduce((a, b) => a + b, 0),
  );
}

/** Runs one row, forward and backward, with `force` held if it is given; gives dtype and shape of its result. */
export function runOnNull(
  c: Case,
  device: Device,
  force?: { readonly family: string; readonly name: string },
): Pick<Input, "shape" | "dtype"> {
  const run = (): Pick<Input, "shape" | "dtype"> => {
    const inputs = c.inputs.map((input) => {
      const t = place(input, device);
      t.requiresGrad = c.gradient !== false && !input.constant && isFloat(t.dtype);
      return t;
    });
    const result = scope(() => {
      const y = c.run(inputs);
      if (y.requiresGrad && y.size > 0) backward(y, empty(y.shape, { dtype: y.dtype, device }));
      return { shape: y.shape, dtype: y.dtype };
    });
    for (const t of inputs) t.dispose();
    return result;
  };
  return force ? forceVariant(force.family, force.name, run) : run();
}

/**
 * Calls `see` for every launch of `rows` on a device of these capabilities: the default variants and, if it has subgroups, each forced
 * one. Returns what went wrong, by row.
 */
export async function launchesOf(
  rows: readonly Case[],
  capabilities: Capabilities,
  see: (launch: Launch, row: Case) => void,
): Promise<string[]> {
  const device = await Device.create({ backend: "null", capabilities, checks: true });
  const problems: string[] = [];
  for (const row of rows) {
    const listener = (launch: Launch): void => see(launch, row);
    device.onLaunch(listener);
    for (const force of [undefined, ...(capabilities.subgroups ? (row.variants ?? []) : [])]) {
      try {
        runOnNull(row, device, force);
      } catch (error) {
        problems.push(`${caseName(row)}${force ? ` (${force.family} ${force.name})` : ""}: ${String(error)}`);
      }
    }
    device.offLaunch(listener);
  }
  device.destroy();
  return problems;
}
