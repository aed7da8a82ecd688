// `npm run test:docs [-- --long] [PAGE …]`: runs the shell commands and TypeScript programs of README.md and docs/ in a
// folder of its own for each page, with small models in place of the published ones, compares what they print with the
// page, and checks links and anchors. Blocks that do not run carry the reason on the page (blocks.mjs) and are counted.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { ensureSetup, root, tool } from "../setup.mjs";
import { RUNNABLE, blocksOf, pages, placeOf } from "./blocks.mjs";
import { brokenLinks } from "./links.mjs";

const TIMEOUT_MS = 15 * 60_000; // ends what hangs
/** Copied, not linked: programs compare the path that started them with that of their module. */
const COPIED = ["scripts", "examples", "package.json", "package-lock.json", "tsconfig.json"];
const CHECKPOINT = join("examples", "shapes", "checkpoint");

/** Names of published models that stand for a small one in the tests. */
const MODELS = ["Janus-Pro-1B", "deepseek-ai/Janus-Pro-1B"];

const isLong = process.argv.includes("--long") || Boolean(process.env.JANUS_TEST_LONG);
const isBuilt = process.argv.includes("--built");
const only = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));

/** A folder that looks like a checkout, with an image and a file of data: what programs write into it stays there. */
async function makeWorkspace() {
  const folder = mkdtempSync(join(tmpdir(), "janus-docs-"));
  for (const name of readdirSync(root)) {
    if ([".git", "demo", "out"].includes(name)) continue;
    const filter = (path) => path !== join(root, CHECKPOINT);
    if (COPIED.includes(name)) cpSync(join(root, name), join(folder, name), { recursive: true, filter });
    else symlinkSync(join(root, name), join(folder, name));
  }
  symlinkSync(join(root, CHECKPOINT), join(folder, CHECKPOINT));
  for (const name of MODELS) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    symlinkSync(join(root, CHECKPOINT), join(folder, name));
  }
  mkdirSync(join(folder, "bin"));
  const main = join(root, "dist", "cli", "main.js");
  writeFileSync(join(folder, "bin", "janus"), `#!/bin/sh\nexec "${process.execPath}" "${main}" "$@"\n`, {
    mode: 0o755,
  });
  const { default: sharp } = await import("sharp");
  await sharp(join(root, "docs", "pictures", "squares.png"))
    .jpeg({ quality: 100 })
    .toFile(join(folder, "photo.jpg"));
  writeFileSync(join(folder, "my.jsonl"), '{"prompt": "two red squares", "image": "photo.jpg"}\n');
  return folder;
}

const environment = (folder) => ({
  ...process.env,
  PATH: `${join(folder, "bin")}${delimiter}${process.env.PATH}`,
  INIT_CWD: folder,
  HF_HUB_OFFLINE: "1", // nothing is downloaded
  JANUS_VULKAN_DIR: process.env.JANUS_VULKAN_DIR ?? join(root, ".cache", "swiftshader"),
  NO_COLOR: "1",
});

async function run(command, args, folder) {
  const child = spawn(command, args, { cwd: folder, env: environment(folder), stdio: ["ignore", "pipe", "pipe"] });
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) child[name].setEncoding("utf8").on("data", (text) => (said[name] += text));
  const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
  const [status, signal] = await once(child, "close");
  clearTimeout(timer);
  return { ...said, status: signal ?? status };
}

/** A program as JavaScript: Node 20 does not parse `using`. */
async function compiled(code) {
  const { default: ts } = await import("typescript");
  const { ModuleKind, ScriptTarget } = ts;
  const compilerOptions = { module: ModuleKind.ESNext, target: ScriptTarget.ES2022, verbatimModuleSyntax: true };
  return ts.transpileModule(code, { compilerOptions }).outputText;
}

/** Runs a block. Returns null, or what is wrong. */
async function check(block, folder) {
  if (block.file) {
    mkdirSync(dirname(join(folder, block.file)), { recursive: true });
    writeFileSync(join(folder, block.file), `${block.code}\n`);
    if (block.language !== "ts" || /^export /m.test(block.code)) return null; // other blocks use it
  }
  let result;
  if (block.language === "ts") {
    const file = join(folder, `block_${block.line}.mjs`);
    // Programs of a page import each other's files as TypeScript.
    const needsTsx = /from "\.\//.test(block.code);
    writeFileSync(file, await compiled(block.code));
    const path = needsTsx ? ["--import", "tsx", file] : [file];
    result = await run(process.execPath, path, folder);
  } else result = await run("bash", ["-euo", "pipefail", "-c", block.code], folder);
  const { status, stdout, stderr } = result;
  if (status !== 0) return `ended with ${status}\n${stdout}${stderr}`;
  if (block.output !== null && !matches(stdout, block.output))
    return `printed something else than the page says\n— page:\n${block.output}\n— printed:\n${stdout}`;
  return null;
}

/** True if `text` is `pattern`, in which … stands for anything. */
function matches(text, pattern) {
  const parts = pattern.trim().split("…").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")); // prettier-ignore
  return new RegExp(`^${parts.join("[^]*?")}$`).test(text.trim());
}

const counts = { sh: 0, ts: 0, file: 0, output: 0, long: 0, skipped: 0, shown: 0 };
const reasons = new Map();
const problems = [];

const isProgram = (block) => RUNNABLE.includes(block.language) || block.file !== null;

async function checkPage(page) {
  const blocks = blocksOf(page);
  const runs = blocks.filter((block) => isProgram(block) && !block.skip && (isLong || !block.long));
  counts.shown += blocks.filter((block) => !isProgram(block)).length;
  for (const { skip } of blocks) if (skip) reasons.set(skip, (reasons.get(skip) ?? 0) + 1);
  counts.skipped += blocks.filter(({ skip }) => skip).length;
  if (!isLong) counts.long += blocks.filter(({ long }) => long).length;
  if (runs.length === 0) return;
  const folder = await makeWorkspace();
  const started = performance.now();
  try {
    for (const block of runs) {
      const problem = await check(block, folder);
      if (problem) {
        problems.push(`${placeOf(block)}: ${problem}`);
        console.log(`${placeOf(block)}: FAILED`);
        continue;
      }
      counts[RUNNABLE.includes(block.language) ? block.language : "file"]++;
      if (block.output !== null) counts.output++;
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(`${page}: ${runs.length} blocks, ${((performance.now() - started) / 1000).toFixed(1)} s`);
}

ensureSetup({ quiet: true });
if (!isBuilt) {
  const { status } = await run(process.execPath, [join(root, "scripts", "build.mjs")], root);
  if (status !== 0) throw new Error("npm run build failed");
}
tool("typescript", "tsc"); // fails early if it is missing
problems.push(...brokenLinks());
const queue = pages().filter((page) => only.length === 0 || only.some((name) => page.includes(name)));
await Promise.all([0, 1].map(async () => { for (let page; (page = queue.shift()); ) await checkPage(page); })); // prettier-ignore

for (const [reason, count] of [...reasons].toSorted(([a], [b]) => (a < b ? -1 : 1)))
  console.log(`not run (${count}): ${reason}`);
for (const problem of problems) console.error(`\n${problem}`);
console.log(
  `docs: ${counts.sh + counts.ts} blocks run (${counts.sh} of commands, ${counts.ts} programs), ${counts.output} outputs compared, ` +
    `${counts.file} files written, ${counts.long} left to the long tests, ${counts.skipped} not run, ${counts.shown} shown only, ` +
    `${problems.length} problems`,
);
process.exitCode = problems.length > 0 ? 1 : 0;
