/** Packages that the command uses: their versions, and loading them on demand. */
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(import.meta.url);

/** Loads a CommonJS package at once; for what most runs never need. */
export const loadPackage = (name: string): unknown => require(name);

/** Version of the package that this file belongs to, in a checkout and in dist/. */
export const ownVersion = (): string => (require("janus-webgpu/package.json") as { version: string }).version;

/** Folders of the code that computes, beside the folder of this file. */
const COMPUTING = ["engine", "kernels", "model", "train"];

/** Hash of the code that computes: checkouts of one version differ. */
export function codeHash(): string {
  const root = join(import.meta.dirname, "..");
  const hash = createHash("sha256");
  for (const folder of COMPUTING)
    for (const name of (readdirSync(join(root, folder), { recursive: true }) as string[]).sort())
      if (/\.(ts|js|wgsl)$/.test(name))
        hash.update(`${folder}/${name}\n`).update(readFileSync(join(root, folder, name)));
  return hash.digest("hex").slice(0, 16);
}

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
