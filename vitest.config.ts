import { defineConfig } from "vitest/config";

// Forks, not worker threads: Dawn and the Vulkan drivers are not made to be loaded by several threads of one process.
export default defineConfig({
  test: {
    pool: "forks",
    projects: [
      {
        extends: true,
        test: {
          name: "tier0",
          include: ["tests/tier0/**/*.test.ts"],
          testTimeout: 30_000,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: "tier1",
          include: ["tests/tier1/**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          // Software Vulkan uses every core by itself: more workers would only take memory.
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
