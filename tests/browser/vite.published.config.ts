/** Bundles a page that imports the package as it is published: `dist/`, by the exports of package.json. */
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

export default defineConfig({
  root: fileURLToPath(new URL("published", import.meta.url)),
  base: "./",
  logLevel: "warn",
  worker: { format: "es" },
  build: {
    target: "es2023",
    outDir: fileURLToPath(new URL("../../.cache/browser_published", import.meta.url)),
    emptyOutDir: true,
    minify: false,
    chunkSizeWarningLimit: 5000,
    modulePreload: { polyfill: false },
  },
});
