// Loads a software Vulkan driver that is not installed in the system: scripts/setup.mjs unpacks SwiftShader into the
// project's cache, and this module loads it into the process before Dawn looks for Vulkan. Node only; platform.ts
// imports it on demand if no adapter is found. It has no static imports, so that browser bundles work.

const libraries: unknown[] = []; // kept reachable: a collected library may be unloaded

/**
 * Loads the software Vulkan driver from the folder `JANUS_VULKAN_DIR`, else `.cache/swiftshader` below the working
 * folder. Call Dawn's `create()` after it: an instance made earlier does not see the driver.
 * @returns the folder, or null if there is no driver in it
 * @throws Error if `JANUS_VULKAN_DIR` is set but has no driver
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
    throw new Error(
      `JANUS_VULKAN_DIR must be a folder with libvulkan.so.1 and vk_swiftshader_icd.json; got ${configured}. Correct or unset it.`,
    );
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
