// The way to a software Vulkan driver that is not installed in the system: scripts/setup.mjs unpacks SwiftShader into
// the project's cache, and here it is loaded into the process before Dawn looks for Vulkan. Only for Node; imported on
// demand by platform.ts when no adapter is found. Nothing is imported at the top, so that browser bundles stay whole.

const libraries: unknown[] = []; // kept reachable: a collected library may be unloaded

/**
 * Loads the software Vulkan driver from the folder `JANUS_VULKAN_DIR`, else `.cache/swiftshader` below the working
 * folder. Call Dawn's `create()` after it: an instance made earlier does not see the driver.
 * @returns the folder, or null when there is no driver in it
 * @throws Error when `JANUS_VULKAN_DIR` is set but holds no driver
 */
export async function preloadSoftwareVulkan(): Promise<string | null> {
  const { env, platform } = process; // bundlers replace the words `process.env`
  if (platform !== "linux") return null;
  const fs = process.getBuiltinModule("node:fs");
  const path = process.getBuiltinModule("node:path");
  const configured = env.JANUS_VULKAN_DIR;
  const dir = path.resolve(configured ?? path.join(".cache", "swiftshader"));
  const loader = path.join(dir, "libvulkan.so.1");
  const icd = path.join(dir, "vk_swiftshader_icd.json");
  if (!fs.existsSync(loader) || !fs.existsSync(icd)) {
    if (configured === undefined) return null;
    throw new Error(`JANUS_VULKAN_DIR=${configured} holds no libvulkan.so.1 with vk_swiftshader_icd.json`);
  }
  // The name is a variable so that no bundler follows it.
  const name = "koffi";
  const { default: koffi } = (await import(
    /* @vite-ignore */ /* webpackIgnore: true */ name
  )) as typeof import("koffi");
  env.VK_ICD_FILENAMES = icd;
  // Dawn then asks for "libvulkan.so.1" by its bare name and gets the one that is already loaded.
  libraries.push(koffi.load(loader));
  return dir;
}
