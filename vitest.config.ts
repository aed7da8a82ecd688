import { readFileSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { defineConfig } from "vitest/config";
import type { TestProjectInlineConfiguration } from "vitest/config";
import { BaseSequencer } from "vitest/node";
import type { TestSpecification } from "vitest/node";

// Ends what hangs. The longest test takes 75 s on two quiet cores with a cold shader cache; on a loaded machine any takes ten times as long.
const WATCHDOG_MS = 20 * 60_000;

/**
 * Files that take longest, so that none of them is left alone at the end. The first three compile other kernels: those that follow find in the
 * driver's cache what files before them have compiled.
 */
const SLOW = [
  "examples",
  "ops_large",
  "ops_small",
  "train_run",
  "trainer",
  "train_tokenizer",
  "train_command",
  "commands",
  "preferences",
  "resume",
  "mpi",
  "ranks",
  "dry_run",
  "generation",
  "verify",
  "verify_models",
  "doctor",
  "not_finite_generation",
  "export",
  "vq_training",
  "lora_commands",
  "nonfinite",
  "training_golden",
  "discriminator",
  "sampling",
  "ranks_run",
  "serve",
  "subgroups",
  "save",
  "kernel_variants",
  "cli",
  "run_crash",
  "imports",
  "shapes_judge",
];

/** With JANUS_TEST_AS_GPU tests choose kernels as a GPU would; `npm run test:long` runs some files so. */
const setupFiles = [
  "tests/default_device.ts",
  "tests/equal_bytes.ts",
  ...(process.env["JANUS_TEST_AS_GPU"] ? ["tests/as_gpu.ts"] : []),
];

/** Files that declare kernels of their own, which every device that is created later in the process would load. */
const DECLARES = /^import [^;]*\b(kernel|library)\b[^;]*from/m;
const tier0 = readdirSync(join(import.meta.dirname, "tests", "tier0"))
  .filter((name) => name.endsWith(".test.ts"))
  .map((name) => `tests/tier0/${name}`);
const declaring = tier0.filter((file) => DECLARES.test(readFileSync(join(import.meta.dirname, file), "utf8")));

/**
 * Files of tier 0 share processes: loading the package takes as long as most of them need for their tests. With files of tier 1, which run drivers
 * and start programs, a read of a file was once seen to wait until something else woke the process.
 */
function project(name: string, include: readonly string[], isolate: boolean): TestProjectInlineConfiguration {
  return {
    extends: true,
    test: {
      name,
      include: [...include],
      isolate,
      setupFiles,
      testTimeout: WATCHDOG_MS,
      hookTimeout: WATCHDOG_MS,
      maxWorkers: 3,
    },
  };
}

const projects = [
  project(
    "tier0",
    tier0.filter((file) => !declaring.includes(file)),
    false,
  ),
  project("tier0 alone", declaring, true),
  project("tier1", ["tests/tier1/**/*.test.ts"], true),
];

/** Files of one project in a row, which share their processes; among them those that take longest first. Short ones of tier 0 end the run. */
class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    const inOrder = projects.map(({ test }) => test?.name).toReversed();
    const place = ({ moduleId, project }: TestSpecification): number =>
      inOrder.indexOf(project.name) * (SLOW.length + 1) +
      ((SLOW.indexOf(basename(moduleId, ".test.ts")) + SLOW.length + 1) % (SLOW.length + 1));
    return sorted.toSorted((a, b) => place(a) - place(b));
  }
}

// Forks, not worker threads: Dawn and the Vulkan drivers are not made to be loaded by several threads of one process.
// Three workers on two cores: software Vulkan uses every core by itself, but not while a test computes in JavaScript or waits for a program.
export default defineConfig({
  test: {
    pool: "forks",
    teardownTimeout: 120_000, // a worker on a loaded machine takes long to end
    sequence: { sequencer: SlowFirst },
    projects,
  },
});
