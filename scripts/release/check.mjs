// `npm run release:check`: everything that a release needs, in one command: a clean checkout, a version with its section in CHANGELOG.md and no
// changes left to describe, licences, all tests, the documentation, and the packed package on every runtime. Takes an hour on two cores.

import { spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { npm, root } from "../setup.mjs";

const steps = [];

function step(name, fn) {
  console.log(`\n— ${name}`);
  const started = performance.now();
  let problem = null;
  try {
    problem = fn() ?? null;
  } catch (error) {
    problem = error.message;
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  steps.push({ name, problem, seconds });
  console.log(`— ${name}: ${problem === null ? "ok" : `FAILED: ${problem}`} (${seconds} s)`);
}

const node = (...args) => spawnSync(process.execPath, args, { cwd: root, stdio: "inherit" }).status === 0 ? null : "see above"; // prettier-ignore
const script = (...args) => (npm(["run", "--silent", ...args], { cwd: root, stdio: "inherit" }).status === 0 ? null : "see above"); // prettier-ignore

function isClean() {
  const { stdout } = spawnSync("git", ["status", "--porcelain"], { cwd: root, encoding: "utf8" });
  return stdout.trim() === "" ? null : `there are changes that are not committed:\n${stdout}`;
}

/** The version has a section in the changelog, and every changeset is part of a version. */
export function versionProblem(
  files = readdirSync(join(root, ".changeset")),
  changelog = readFileSync(join(root, "CHANGELOG.md"), "utf8"),
) {
  // prettier-ignore
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const left = files.filter((name) => name.endsWith(".md") && name !== "README.md");
  if (left.length > 0) return `${left.length} changesets are part of no version (${left.join(", ")}); run npm run release:version`; // prettier-ignore
  if (!new RegExp(`^## ${version.replaceAll(".", "\\.")}$`, "m").test(changelog)) return `CHANGELOG.md has no section "## ${version}"`; // prettier-ignore
  return null;
}

step("clean checkout", isClean);
step("version and changelog", versionProblem);
step("licences", () => node(join("scripts", "release", "licences.mjs")));
step("tests, types, lint, format, package", () => script("test"));
step("long tests", () => script("test:long"));
step("documentation: every command", () => script("test:docs", "--", "--long"));
step("documentation: the site", () => script("docs"));
step("runtimes", () => node(join("scripts", "release", "smoke.mjs")));

const failed = steps.filter(({ problem }) => problem !== null);
console.log(`\n${steps.map(({ name, problem, seconds }) => `${problem === null ? "ok    " : "FAILED"} ${name} (${seconds} s)`).join("\n")}`); // prettier-ignore
console.log(failed.length === 0 ? "\nready: npm publish" : `\nnot ready: ${failed.length} of ${steps.length} failed`);
process.exitCode = failed.length > 0 ? 1 : 0;
