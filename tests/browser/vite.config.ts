/** Bundles the page of the browser tests, with the project's sources. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

/** Readers of image files in Node, which the golden folder takes by default. */
const NODE_ONLY = [/image_file\.ts$/];

export default defineConfig({
  root: fileURLToPath(new URL("page", import.meta.url)),
  base: "./",
  logLevel: "warn",
  worker: { format: "es", rolldownOptions: { external: NODE_ONLY } },
  build: {
    target: "es2023",
    outDir: fileURLToPath(new URL("../../.cache/browser", import.meta.url)),
    emptyOutDir: true,
    minify: false,
    chunkSizeWarningLimit: 5000,
    modulePreload: { polyfill: false },
    rolldownOptions: { external: NODE_ONLY },
  },
});
