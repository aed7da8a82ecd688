// `npm run test:subgroup-matrix`: the kernels on subgroup matrices, forced on the rows of the table of cases, on the software Vulkan of a newer Mesa
// (8×8×8, f16 with f32 sums), at each subgroup size that it has. A lane of its own: `npm test` runs on the system's driver.
// Exit code 0: all rows pass; 1: some fail; 77: nothing could be run here, and why is said.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { NoMesa, ensureMesa, softwareVulkan } from "./mesa.mjs";
import { ensureSetup, root } from "./setup.mjs";

const DID_NOT_RUN = 77;
/** Subgroup sizes, by the vector width (bits) that makes software Vulkan take them. */
const SIZES = [
  [4, 128],
  [8, 256],
  [16, 512],
];
const CHILD = join(root, "tests", "subgroup_matrix_child.ts");
/** A driver that crashes may as well hang. */
const PROBE_MS = 120_000;

/** Runs the child on Mesa's software Vulkan; its last line is JSON. Null if the process died. */
function runChild(start, width, args, timeout) {
  const { status, signal, stdout } = spawnSync(start.command, [...start.args, "--import", "tsx", CHILD, ...args], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 1 << 26,
    timeout,
    env: { ...process.env, ...start.env, LP_NATIVE_VECTOR_WIDTH: String(width) },
  });
  if (signal) return { died: signal };
  if (status !== 0) throw new Error(`${CHILD} ended with exit code ${status}`);
  return JSON.parse(stdout.trim().split("\n").at(-1));
}

/** Runs one subgroup size: the number of failures, or null if it has no matrices that work. */
function runSize(start, size, width, args) {
  const probe = runChild(start, width, ["--probe"], PROBE_MS);
  const skip = (why) => {
    console.log(`size ${size}: did not run: ${why}`);
    return null;
  };
  if (probe.died) return skip(`a bare product of two 8×8 matrices ends the driver (${probe.died})`);
  if (probe.subgroups?.join() !== `${size},${size}`)
    return skip(`${probe.adapter} has subgroups of ${probe.subgroups ?? "none"}`);
  if (!probe.configs) return skip(`${probe.adapter} lists no f16 matrices with f32 sums at this size`);
  if (probe.wrong) return skip(`a bare product of two 8×8 matrices is wrong on ${probe.adapter}`);
  const found = runChild(start, width, args);
  if (found.died) {
    console.log(`size ${size}: FAILED: the run ended with ${found.died}`);
    return 1;
  }
  for (const problem of found.problems) console.log(`  ${problem}`);
  console.log(`size ${size}, ${found.adapter}, ${found.configs}`);
  for (const [op, { rows, passed, checks }] of Object.entries(found.ops))
    console.log(`  ${op}: ${passed} of ${rows} rows pass, ${checks} checks`);
  console.log(`  kernels: ${found.kernels.join(", ")}`);
  return found.rows === 0 ? 1 : found.problems.length;
}

/** Sizes and pattern of the command line: [--size=8] [regular expression for names of rows]. */
function parse(args) {
  const sizes = args.filter((arg) => arg.startsWith("--size=")).map((arg) => Number(arg.slice("--size=".length)));
  const known = SIZES.map(([size]) => size);
  const patterns = args.filter((arg) => !arg.startsWith("--size="));
  if (sizes.some((size) => !known.includes(size)))
    throw new Error(`--size must be one of ${known.join(", ")}; got ${sizes.join(", ")}. Leave it out for all.`);
  if (patterns.length > 1 || patterns[0]?.startsWith("-"))
    throw new Error(`arguments must be --size=N and one regular expression; got ${args.join(" ")}. Change them.`);
  return { wanted: SIZES.filter(([size]) => sizes.length === 0 || sizes.includes(size)), patterns };
}

function main({ wanted, patterns }) {
  ensureSetup({ adapter: false, quiet: true });
  const start = softwareVulkan(ensureMesa());
  const failures = wanted.map(([size, width]) => runSize(start, size, width, patterns));
  const ran = failures.filter((n) => n !== null);
  if (ran.length === 0) throw new NoMesa("no subgroup size has matrices that work");
  const failed = ran.reduce((sum, n) => sum + n, 0);
  console.log(`\n${ran.length} of ${wanted.length} subgroup sizes run, ${failed} failures`);
  return failed > 0 ? 1 : 0;
}

try {
  process.exitCode = main(parse(process.argv.slice(2)));
} catch (error) {
  if (error instanceof NoMesa) {
    console.log(`subgroup-matrix lane: did not run: ${error.message}`);
    process.exitCode = DID_NOT_RUN;
  } else {
    console.error(`subgroup-matrix lane: ${error.message}`);
    process.exitCode = 1;
  }
}
