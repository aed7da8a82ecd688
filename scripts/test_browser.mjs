// `npm run test:browser`: tests in a real browser. Finds Chromium (JANUS_CHROMIUM, then the usual names), installs it with apt if it can,
// builds the package if `dist/` is absent, bundles the pages of the tests and runs tests/browser/. Arguments go to vitest.
// The last line is always "N passed, N failed". Without Chromium the tests do not run, which is said, and is no failure.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { delimiter, join } from "node:path";
import { aptInstall, ensureSetup, root, tool } from "./setup.mjs";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/** Path of Chromium; null if there is none. */
function findChromium() {
  if (process.env.JANUS_CHROMIUM) return process.env.JANUS_CHROMIUM;
  const folders = (process.env.PATH ?? "").split(delimiter);
  for (const name of NAMES) for (const folder of folders) if (existsSync(join(folder, name))) return join(folder, name);
  return null;
}

function run(title, script, args, env = {}) {
  console.log(`\n— ${title}`);
  const { status } = spawnSync(process.execPath, [script, ...args], {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...env },
  });
  if (status !== 0) console.log(`— ${title}: FAILED`);
  return status === 0;
}

function build() {
  if (!existsSync(join(root, "dist", "index.js"))) run("build", join(root, "scripts", "build.mjs"), []);
  const vite = tool("vite");
  const pages = ["app/vite.config.ts", "tests/browser/vite.config.ts", "tests/browser/vite.published.config.ts"];
  return pages.every((config) => run(`bundle ${config}`, vite, ["build", "-c", config]));
}

let passed = 0;
let failed = 0;
try {
  ensureSetup({ adapter: false });
  const chromium = findChromium() ?? (aptInstall(["chromium"]) ? findChromium() : null);
  if (!chromium) {
    console.log(
      "There is no Chromium: the tests in a browser did not run. Install it (Debian: apt-get install chromium),",
    );
    console.log("or set JANUS_CHROMIUM to its program.");
  } else if (!build()) failed++;
  else {
    const report = join(root, ".cache", "browser.json");
    rmSync(report, { force: true });
    const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
    const args = ["run", "-c", "vitest.browser.config.ts", ...reporters, ...process.argv.slice(2)];
    const ok = run("browser", tool("vitest"), args, { JANUS_CHROMIUM: chromium });
    const result = existsSync(report) ? JSON.parse(readFileSync(report, "utf8")) : {};
    passed = result.numPassedTests ?? 0;
    failed = Math.max(result.numFailedTests ?? 0, ok ? 0 : 1);
  }
} catch (error) {
  console.error(error.message);
  failed++;
}
process.exitCode = failed > 0 ? 1 : 0;
console.log(`\n${passed} passed, ${failed} failed`);
