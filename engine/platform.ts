/**
 * The only part of the engine that depends on the platform: it finds a GPU and reads text files, in Node and in
 * browsers. Node modules are loaded at run time only, so that bundlers for browsers never see them.
 */
import { ArgumentError, DeviceError } from "./errors.ts";

const inNode =
  typeof process !== "undefined" &&
  process.versions?.node !== undefined &&
  typeof process.getBuiltinModule === "function";

/** Deno has Node's modules and a WebGPU of its own (wgpu), which is used there. */
const inDeno = "Deno" in globalThis;

/** Reads a text file beside a module synchronously; null in browsers, see `readText`. */
export function readTextSync(url: URL): string | null {
  if (!inNode || url.protocol !== "file:") return null;
  return process.getBuiltinModule("node:fs").readFileSync(url, "utf8");
}

/** The user's cache of this package, for what belongs to a machine and its adapters; null in browsers. */
export function userCache(): string | null {
  if (!inNode) return null;
  const path = process.getBuiltinModule("node:path");
  const { homedir } = process.getBuiltinModule("node:os");
  return path.join(process.env["XDG_CACHE_HOME"] || path.join(homedir(), ".cache"), "janus-webgpu");
}

/** Reads a file of the user's cache; null if there is none, and in browsers. */
export function readUserFile(name: string): { readonly path: string; readonly text: string } | null {
  const folder = userCache();
  if (folder === null) return null;
  const path = process.getBuiltinModule("node:path").join(folder, name);
  const { existsSync, readFileSync } = process.getBuiltinModule("node:fs");
  return existsSync(path) ? { path, text: readFileSync(path, "utf8") } : null;
}

/** Reads a text file beside a module. Throws `DeviceError` if it cannot be fetched. */
export async function readText(url: URL): Promise<string> {
  const text = readTextSync(url);
  if (text !== null) return text;
  const response = await fetch(url);
  if (!response.ok)
    throw new DeviceError(
      `loadKernels: ${url.href} must be served; got HTTP ${response.status}. Check the bundle's assets.`,
    );
  return response.text();
}

/** Monotonic time in milliseconds. */
export const now = (): number => performance.now();

/** Sleeps for `ms` milliseconds. Dawn in Node polls from the event loop, which would otherwise occupy a core. */
export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

// Dawn crashes the process if the object that create() returned is collected: keep each one.
const instances = new Set<GPU>();
// Instances by backend; promises, so that simultaneous callers get one instance.
const requested = new Map<string, Promise<GPU>>();

const toggles = (boundsChecks: boolean): string[] => [
  `enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia${boundsChecks ? "" : ",disable_robustness"}`,
  // Contents of the pool's buffers are undefined in any case: docs/decisions/engine/buffers_not_cleared.md.
  "disable-dawn-features=timestamp_quantization,lazy_clear_resource_on_first_use",
];

/**
 * The `GPU` object: the browser's, or Dawn's in Node. `backend: "null"` (Node only) compiles everything and computes nothing. Without
 * `boundsChecks` (Node only; else `ArgumentError`) shaders are compiled without checks of their indices.
 */
export async function requestGPU(backend?: "null" | "vulkan" | "metal" | "d3d12", boundsChecks = true): Promise<GPU> {
  if (!inNode || inDeno) {
    if (!boundsChecks)
      throw new ArgumentError(
        "Device.create: boundsChecks must be true in a browser, which always checks; got false. Leave it out.",
      );
    if (typeof navigator === "undefined" || !navigator.gpu) {
      throw new DeviceError(
        "Device.create: the browser must support WebGPU; got no navigator.gpu. Use a browser that has it, over HTTPS or localhost.",
      );
    }
    return navigator.gpu;
  }
  const key = `${backend ?? "default"} ${boundsChecks}`;
  const known = requested.get(key);
  if (known) return known;
  const opening = openDawn(backend, boundsChecks);
  requested.set(key, opening);
  opening.catch(() => requested.delete(key));
  return opening;
}

/** Calls `gpu.requestAdapter(options)` and suppresses the notices that Dawn prints while it looks for adapters. */
export async function requestAdapter(gpu: GPU, options?: GPURequestAdapterOptions): Promise<GPUAdapter | null> {
  if (!inNode || inDeno) return gpu.requestAdapter(options);
  const { stderrFilter } = await import("./native_log.ts");
  const filtered = await stderrFilter();
  return filtered(() => gpu.requestAdapter(options));
}

async function openDawn(backend: string | undefined, boundsChecks: boolean): Promise<GPU> {
  const name = "webgpu";
  const dawn = (await import(/* @vite-ignore */ name)) as typeof import("webgpu");
  for (const [global, value] of Object.entries(dawn.globals)) {
    if (!(global in globalThis))
      Object.defineProperty(globalThis, global, { value, configurable: true, writable: true });
  }
  const create = (): GPU => {
    const flags = toggles(boundsChecks);
    const gpu = dawn.create(backend ? [`backend=${backend}`, ...flags] : flags);
    instances.add(gpu);
    return gpu;
  };
  const gpu = create();
  if (backend !== undefined || (await requestAdapter(gpu))) return gpu;
  const { preloadSoftwareVulkan } = await import("./software_vulkan.ts");
  return (await preloadSoftwareVulkan()) ? create() : gpu;
}

/** Bytes of main memory; null if unknown (browsers). */
export const memoryBytes = (): number | null => (inNode ? process.getBuiltinModule("node:os").totalmem() : null);

const cell = inNode && !inDeno ? new Int32Array(new SharedArrayBuffer(4)) : null;

/**
 * Waits for a promise of the GPU. In Node, Dawn polls from the event loop, which would take a whole core from a
 * software device. For such a device (`gently`), each turn of the loop sleeps up to a millisecond.
 */
export async function settle<T>(promise: Promise<T>, gently: boolean): Promise<T> {
  if (!gently || !cell) return promise;
  let done = false;
  const finish = (): void => {
    done = true;
  };
  promise.then(finish, finish);
  let ms = 0.05;
  while (!done) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    if (done) break;
    Atomics.wait(cell, 0, 0, ms);
    ms = Math.min(1, ms * 1.5);
  }
  return promise;
}

let collect: (() => void) | null = null;

/**
 * Forces a garbage collection if possible (Node). To JavaScript, handles of GPU objects are only a few bytes, so tens
 * of thousands of them stay uncollected, although each is large to the driver.
 */
export function collectGarbage(): void {
  if (!inNode) return;
  if (!collect) {
    process.getBuiltinModule("node:v8").setFlagsFromString("--expose-gc");
    collect = process.getBuiltinModule("node:vm").runInNewContext("gc") as () => void;
  }
  collect();
}
