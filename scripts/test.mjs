// `npm test`: set-up; types, lint, format; tier 0 (no GPU) and tier 1 (software Vulkan or a GPU). `npm test -- --all`: the package and the
// documentation too, as `npm run check:package` and `npm run test:docs` check them alone.
// `npm run test:fast`: tier 0 alone, without a driver. `npm run test:long`: proofs that have a short form in `npm test` in their long one, then
// files that train and generate with the kernels that a GPU would choose.
// Further arguments go to vitest (a file name, `-t`).
// The last line is always "N passed, N failed".

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ensureSetup, root, tool } from "./setup.mjs";

const fast = process.argv.includes("--fast");
const long = process.argv.includes("--long");
const all = process.argv.includes("--all") || long;
const vitestArguments = process.argv.slice(2).filter((argument) => !["--fast", "--long", "--all"].includes(argument));
if (long) process.env.JANUS_TEST_LONG = "1";
const report = join(root, ".cache", "vitest.json");

let passed = 0;
let failed = 0;

/** Runs a Node script with its output shown; true when it succeeds. */
async function run(title, script, args = []) {
  console.log(`\n— ${title}`);
  const started = performance.now();
  const [status] = await once(spawn(process.execPath, [script, ...args], { cwd: root, stdio: "inherit" }), "close");
  console.log(`— ${title}: ${status === 0 ? "ok" : "FAILED"} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  return status === 0;
}

/** Runs checks one after the other, each of which counts as one; their output comes when they end, for tests run beside them. */
async function runChecks(checks) {
  for (const [title, script, args = []] of checks) {
    const started = performance.now();
    const child = spawn(process.execPath, [script, ...args], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (said += text));
    const [status] = await once(child, "close");
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(`\n— ${title}\n${said}— ${title}: ${status === 0 ? "ok" : "FAILED"} (${seconds} s)`);
    if (status === 0) passed++;
    else failed++;
  }
}

/** Files that run a second time with JANUS_TEST_AS_GPU (tests/as_gpu.ts): together they launch every kernel that models and training need. */
const AS_GPU = [
  "trainer",
  "discriminator",
  "vq_training",
  "training_golden",
  "training_golden_models",
  "verify",
  "verify_models",
  "generation",
  "not_finite_generation",
  "sampling",
  "model",
  "llama",
  "export",
  "modules",
  "nn",
].map((name) => `tests/tier1/${name}.test.ts`);

async function runVitest(title, projects, files = []) {
  rmSync(report, { force: true });
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
  const ok = await run(title, tool("vitest"), ["run", ...reporters, ...projects, ...files, ...vitestArguments]);
  const result = existsSync(report) ? JSON.parse(readFileSync(report, "utf8")) : { numPassedTests: 0, testResults: [] };
  passed += result.numPassedTests;
  const failedTests = result.numFailedTests ?? 0;
  // A file that does not load, or an error outside of any test, fails the run without failing a test.
  const brokenFiles = result.testResults.filter(
    (file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed"),
  ).length;
  failed += Math.max(failedTests + brokenFiles, ok ? 0 : 1);
}

try {
  ensureSetup({ adapter: !fast });
  const published = [
    ["package", join(root, "scripts", "check_package.mjs")],
    ["documentation", join(root, "scripts", "docs", "test.mjs"), ["--built"]], // dist/ is that of the package
  ];
  // The checks wait for the network and use one core each: they run beside the tests.
  const checks = fast
    ? null
    : runChecks([
        ["types", tool("typescript-7", "tsc"), ["-p", "tsconfig.json"]],
        ["lint", tool("oxlint"), ["--type-aware", "--deny-warnings"]],
        ["format", tool("oxfmt"), ["--check"]],
        ...(all ? published : []),
      ]);
  if (fast) await runVitest("tier 0", ["--project", "tier0*"]);
  else await runVitest("tier 0 and tier 1", []);
  await checks;
  if (long) {
    delete process.env.JANUS_TEST_LONG;
    process.env.JANUS_TEST_AS_GPU = "1";
    await runVitest("as on a GPU", ["--project", "tier1", "--passWithNoTests"], vitestArguments.length ? [] : AS_GPU);
  }
} catch (error) {
  console.error(error.message);
  failed++;
}
process.exitCode = failed > 0 ? 1 : 0;
console.log(`\n${passed} passed, ${failed} failed`);
