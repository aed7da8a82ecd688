import { basename } from "node:path";
import { defineConfig } from "vitest/config";
import { BaseSequencer } from "vitest/node";
import type { TestSpecification } from "vitest/node";

// Ends what hangs. The longest test takes 60 s on two quiet cores with a cold shader cache; on a loaded machine any takes ten times as long.
const WATCHDOG_MS = 20 * 60_000;

/** Files that take longest, so that none of them is left alone at the end. */
const SLOW = [
  "examples",
  "trainer",
  "train_run",
  "ops_large",
  "ops_small",
  "train_tokenizer",
  "train_command",
  "commands",
  "generation",
  "verify_models",
  "verify",
  "dry_run",
  "cli",
  "kernel_variants",
  "shapes_judge",
  "vq_training",
  "discriminator",
  "save",
  "sampling",
  "muon",
  "not_finite_generation",
  "resume",
  "export",
  "nonfinite",
  "limits",
  "training_golden",
  "dispatch_work",
];

class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const place = ({ moduleId }: TestSpecification): number =>
      (SLOW.indexOf(basename(moduleId, ".test.ts")) + SLOW.length + 1) % (SLOW.length + 1);
    return sorted.toSorted((a, b) => place(a) - place(b));
  }
}

/** Tests choose kernels as a GPU would; `npm run test:long` runs some files so. */
const setupFiles = process.env["JANUS_TEST_AS_GPU"] ? ["tests/as_gpu.ts"] : [];
const shared = { setupFiles, testTimeout: WATCHDOG_MS, hookTimeout: WATCHDOG_MS, maxWorkers: 2 };

// Forks, not worker threads: Dawn and the Vulkan drivers are not made to be loaded by several threads of one process.
// Two workers: software Vulkan uses every core by itself, and more would only take memory.
export default defineConfig({
  test: {
    pool: "forks",
    teardownTimeout: 120_000, // a worker on a loaded machine takes long to end
    sequence: { sequencer: SlowFirst },
    projects: [
      { extends: true, test: { ...shared, name: "tier0", include: ["tests/tier0/**/*.test.ts"] } },
      { extends: true, test: { ...shared, name: "tier1", include: ["tests/tier1/**/*.test.ts"] } },
    ],
  },
});
