/** Tests in a real browser: `npm run test:browser`. They are no part of `npm test`, and run one after the other: each uses every core. */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["tests/browser/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 1,
    testTimeout: 20 * 60_000,
    hookTimeout: 20 * 60_000,
  },
});
