/** Packages that the command uses: their versions, and loading them on demand. */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(import.meta.url);

/** Loads a CommonJS package at once; for what most runs never need. */
export const loadPackage = (name: string): unknown => require(name);

/** Version of the package that this file belongs to, in a checkout and in dist/. */
export const ownVersion = (): string => (require("janus-webgpu/package.json") as { version: string }).version;

/** The version of an installed package; null if it is absent. */
export function packageVersion(name: string): string | null {
  // Through the file system, since packages with `exports` hide their package.json from `require`.
  for (const folder of require.resolve.paths(name) ?? []) {
    try {
      return (JSON.parse(readFileSync(join(folder, name, "package.json"), "utf8")) as { version: string }).version;
    } catch {
      // not in this node_modules
    }
  }
  return null;
}
