import { defineConfig } from "vitest/config";

// Ends what hangs. The longest test takes 60 s on two quiet cores with a cold shader cache; on a loaded machine any takes ten times as long.
const WATCHDOG_MS = 20 * 60_000;

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
          testTimeout: WATCHDOG_MS,
          hookTimeout: WATCHDOG_MS,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: "tier1",
          include: ["tests/tier1/**/*.test.ts"],
          testTimeout: WATCHDOG_MS,
          hookTimeout: WATCHDOG_MS,
          // Software Vulkan uses every core by itself: more workers would only take memory.
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
