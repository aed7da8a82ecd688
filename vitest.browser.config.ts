/** Tests in a real browser: `npm run test:browser`. They are no part of `npm test`. Two at once: SwiftShader compiles on one core. */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/browser/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 20 * 60_000,
    hookTimeout: 20 * 60_000,
  },
});
