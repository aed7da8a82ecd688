/** Builds the page into `dist/app`: static files, the model `shapes` among them. */
import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import type { Plugin } from "vite";

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** The checkpoint of the demo's model as files of the page. */
const shapes: Plugin = {
  name: "shapes",
  generateBundle() {
    const folder = at("../examples/shapes/checkpoint/");
    for (const name of readdirSync(folder))
      this.emitFile({ type: "asset", fileName: `shapes/${name}`, source: readFileSync(`${folder}${name}`) });
  },
};

export default defineConfig({
  root: at("."),
  base: "./",
  logLevel: "warn",
  worker: { format: "es" },
  plugins: [shapes],
  build: {
    target: "es2023",
    outDir: at("../dist/app"),
    emptyOutDir: true,
    chunkSizeWarningLimit: 2000,
    modulePreload: { polyfill: false },
  },
});
