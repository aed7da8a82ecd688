/**
 * The one place of the engine that knows where it runs: how to reach a GPU and how to read a text file, in Node and in browsers.
 * Node's modules are reached at run time only, so that a bundler for browsers never sees them.
 */
import { ArgumentError, DeviceError } from "./errors.ts";

const inNode =
  typeof process !== "undefined" &&
  process.versions?.node !== undefined &&
  typeof process.getBuiltinModule === "function";

/** The text of a file beside a module, at once. Browsers cannot, see `readText`. */
export function readTextSync(url: URL): string | null {
  if (!inNode || url.protocol !== "file:") return null;
  return process.getBuiltinModule("node:fs").readFileSync(url, "utf8");
}

/** The text of a file beside a module. */
export async function readText(url: URL): Promise<string> {
  const text = readTextSync(url);
  if (text !== null) return text;
  const response = await fetch(url);
  if (!response.ok) throw new DeviceError(`cannot load ${url.href}: HTTP ${response.status}`);
  return response.text();
}

/** Milliseconds of a monotonic clock. */
export const now = (): number => performance.now();

/** Gives the event loop `ms` milliseconds; Dawn in Node polls for completion from the loop and would burn a core otherwise. */
export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

// Dawn dies with the process if the object that create() returned is collected: keep each for good.
const instances = new Set<GPU>();
// Instances by backend; promises, so that two callers at once get one instance.
const requested = new Map<string, Promise<GPU>>();

const toggles = (boundsChecks: boolean): string[] => [
  `enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia${boundsChecks ? "" : ",disable_robustness"}`,
  "disable-dawn-features=timestamp_quantization",
];

/**
 * The `GPU` object: the browser's, or Dawn's in Node. `backend: "null"` (Node only) compiles everything and computes nothing. Without
 * `boundsChecks` (Node only; else `ArgumentError`) shaders are compiled without checks of their indices.
 */
export async function requestGPU(backend?: "null" | "vulkan" | "metal" | "d3d12", boundsChecks = true): Promise<GPU> {
  if (!inNode) {
    if (!boundsChecks)
      throw new ArgumentError(
        "Device.create: boundsChecks must be true in a browser, which always checks; got false. Leave it out.",
      );
    if (typeof navigator === "undefined" || !navigator.gpu) {
      throw new DeviceError(
        "this browser has no WebGPU (navigator.gpu is absent); use a browser that has it, over HTTPS or localhost",
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

/** `gpu.requestAdapter(options)`, without the notices that Dawn prints from native code while it looks for adapters. */
export async function requestAdapter(gpu: GPU, options?: GPURequestAdapterOptions): Promise<GPUAdapter | null> {
  if (!inNode) return gpu.requestAdapter(options);
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

/** Bytes of main memory; null if a program cannot know (browsers). */
export const memoryBytes = (): number | null => (inNode ? process.getBuiltinModule("node:os").totalmem() : null);

const cell = inNode ? new Int32Array(new SharedArrayBuffer(4)) : null;

/**
 * Waits for a promise of the GPU. In Node, Dawn polls from the event loop and would take a whole core from a software device:
 * for one of those (`gently`) each turn of the loop sleeps a little, up to a millisecond.
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
 * Has JavaScript free unreachable objects, if a program may ask for that (Node). Handles of GPU objects are a few bytes to JavaScript, which
 * lets tens of thousands of them lie; what stands behind each is not small to the driver.
 */
export function collectGarbage(): void {
  if (!inNode) return;
  if (!collect) {
    process.getBuiltinModule("node:v8").setFlagsFromString("--expose-gc");
    collect = process.getBuiltinModule("node:vm").runInNewContext("gc") as () => void;
  }
  collect();
}
