/** Adapters: lists them, chooses one, and derives the limits of a device on it. */
import { DEFAULT_LIMITS, withGranules } from "./capabilities.ts";
import type { Limits } from "./capabilities.ts";
import { ArgumentError, DeviceError } from "./errors.ts";
import { requestAdapter, requestGPU } from "./platform.ts";

/** Options that select an adapter. */
export interface AdapterOptions {
  /** Part of the adapter's name, or its index in `listAdapters()`; default: the fastest one. */
  readonly adapter?: string | number;
  /** `"null"`: no GPU, shapes and counts only. */
  readonly backend?: "null" | "vulkan" | "metal" | "d3d12";
  /**
   * Whether the GPU's compiler checks each index of a kernel against its binding; the default is true. Without these checks the kernels of this
   * package compute the same (tests prove that they stay within their bindings), faster on some devices and slower on others: measure. A kernel of
   * your own that leaves its bindings then reads and writes other memory. Node only.
   */
  readonly boundsChecks?: boolean;
}

/** Limits to use instead of the adapter's (never above them); `"default"`: the limits that every WebGPU device has. */
export type WantedLimits = Partial<Limits> | "default";

/** Lists the adapters of this machine, most capable first. */
export async function listAdapters(
  backend?: AdapterOptions["backend"],
  boundsChecks = true,
): Promise<{ adapter: GPUAdapter; name: string }[]> {
  const gpu = await requestGPU(backend, boundsChecks);
  const found: { adapter: GPUAdapter; name: string }[] = [];
  const tries: GPURequestAdapterOptions[] = [
    { powerPreference: "high-performance" },
    {},
    { powerPreference: "low-power" },
    { forceFallbackAdapter: true },
  ];
  for (const options of tries) {
    const adapter = await requestAdapter(gpu, options);
    if (!adapter) continue;
    const name = adapter.info.description || adapter.info.device || adapter.info.vendor;
    if (!found.some((f) => f.name === name)) found.push({ adapter, name });
  }
  return found;
}

/** Returns the adapter that `options` select. Throws `DeviceError` if there is no adapter, `ArgumentError` if none matches. */
export async function chooseAdapter(options: AdapterOptions): Promise<GPUAdapter> {
  if (options.adapter === undefined) {
    const gpu = await requestGPU(options.backend, options.boundsChecks);
    const adapter = await requestAdapter(gpu, { powerPreference: "high-performance" });
    if (adapter) return adapter;
    throw new DeviceError(
      "Device.create: a WebGPU adapter is required; got none. Run `npm run setup` in a checkout, or install a Vulkan driver (Debian: mesa-vulkan-drivers).",
    );
  }
  const all = await listAdapters(options.backend, options.boundsChecks);
  const wanted = options.adapter;
  const found =
    typeof wanted === "number" ? all[wanted] : all.find((a) => a.name.toLowerCase().includes(wanted.toLowerCase()));
  if (!found) {
    throw new ArgumentError(
      `Device.create: adapter must name one of the adapters (${all.map((a, i) => `${i} ${a.name}`).join("; ") || "none"}); got ${JSON.stringify(wanted)}. Pass part of a name, or an index.`,
    );
  }
  // An adapter creates only one device; `listAdapters` requested fresh ones.
  return found.adapter;
}

/** Returns the limits to use: the adapter's, or lower ones if `asked` has them. Throws `DeviceError` if it asks for more. */
export function heldLimits(has: Limits, asked: WantedLimits | undefined, name: string): Limits {
  if (asked === "default") return DEFAULT_LIMITS;
  for (const [key, value] of Object.entries(asked ?? {})) {
    if (!(key in has))
      throw new ArgumentError(`limits: keys must be among ${Object.keys(has).join(", ")}; got ${key}. Remove it.`);
    const most = has[key as keyof Limits];
    if (key.startsWith("min") ? value < most : value > most) {
      throw new DeviceError(
        `limits: ${key} must be within the adapter's limit of ${most} (${name}); got ${value}. Request no more than the adapter has.`,
      );
    }
  }
  return { ...has, ...asked };
}

/** The limits that the engine knows. */
export function limitsOf(limits: GPUSupportedLimits): Limits {
  const out: Record<string, number> = {};
  for (const key of Object.keys(DEFAULT_LIMITS)) out[key] = (limits as unknown as Record<string, number>)[key]!;
  return withGranules(out as unknown as Limits);
}
