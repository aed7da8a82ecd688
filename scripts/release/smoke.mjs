// `node scripts/release/smoke.mjs [--built] [RUNTIME …]`: the packed package in an empty folder, on every runtime that it is made for, each
// from npm: node 20, 22, 24 and 26, Deno, Bun. Computes on the adapter, draws with `shapes` by the command, trains a step on the null device.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ensureSetup, npm, root } from "../setup.mjs";

/** Package of npm with each runtime, and how it runs a file and the command. */
const RUNTIMES = {
  "node 20": { install: "node@20", file: ["node"] },
  "node 22": { install: "node@22", file: ["node"] },
  "node 24": { install: "node@24", file: ["node"] },
  "node 26": { install: "node@26", file: ["node"] },
  deno: { install: "deno", file: ["deno", "run", "-A", "--unstable-webgpu", "--node-modules-dir=manual"] },
  bun: { install: "bun", file: ["bun", "run"] },
};

const program = `
import { Device, F, Janus, nn, tensor } from "janus-webgpu";
import { loadConfig } from "janus-webgpu/train";
const device = await Device.create();
const sum = await tensor([1, 2, 3, 4]).square().sum().item();
if (sum !== 30) throw new Error("1 + 4 + 9 + 16 gave " + sum);
const layer = new nn.Linear(2, 1);
const optimizer = new nn.AdamW(layer.parameters());
optimizer.step(() => F.mseLoss(layer.call(tensor([[1, 2]])), tensor([[3]])));
if (loadConfig("stage3").stage !== 3) throw new Error("loadConfig");
const janus = await Janus.fromPretrained("shapes");
const [picture] = await janus.generate("two red squares", { seed: 1 }).images();
if (picture.image.width !== 32) throw new Error("no image");
console.log("computes: " + device);
process.exit(0);
`;

/** Packages whose install scripts put a program in its place. */
const allowScripts = { node: true, deno: true, bun: true, webgpu: true, koffi: true };

const isWindows = process.platform === "win32";

function run(title, command, args, options) {
  const { status, signal, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8", timeout: 600_000, ...options }); // prettier-ignore
  if (status === 0) return stdout;
  throw new Error(`${title}: ${signal ?? `exit code ${status}`}\n${stdout ?? ""}${stderr ?? ""}${error ?? ""}`);
}

function check(name, { install, file }, tarball, folder) {
  const home = join(folder, name.replace(" ", ""));
  mkdirSync(home);
  writeFileSync(join(home, "package.json"), JSON.stringify({ private: true, type: "module", allowScripts }));
  const options = { cwd: home, encoding: "utf8" };
  const installed = npm(["install", tarball, install, "--prefer-offline", "--no-audit", "--no-fund"], options);
  if (installed.status !== 0) throw new Error(`npm install: exit code ${installed.status}\n${installed.stderr}`);
  const unpacked = join(root, ".cache", "swiftshader");
  const env = existsSync(unpacked) ? { JANUS_VULKAN_DIR: unpacked, ...process.env } : { ...process.env };
  const bin = join(home, "node_modules", ".bin", file[0] + (isWindows ? ".cmd" : ""));
  const version = run("version", bin, ["--version"], { cwd: home, env }).split("\n")[0];
  writeFileSync(join(home, "smoke.mjs"), program);
  const said = run("a program", bin, [...file.slice(1), "smoke.mjs"], { cwd: home, env }).trim();
  const main = join("node_modules", "janus-webgpu", "dist", "cli", "main.js");
  const { version: own } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const asked = run("janus --version", bin, [...file.slice(1), main, "--version"], { cwd: home, env }).trim();
  if (asked !== own) throw new Error(`janus --version says ${asked}; the package is ${own}`);
  const drawn = ["generate", "two red squares", "--model", "shapes", "--out", "images", "--seed", "1"];
  run("janus generate", bin, [...file.slice(1), main, ...drawn], { cwd: home, env });
  if (readdirSync(join(home, "images")).length !== 1) throw new Error("janus generate wrote no image");
  return `${version}: ${said.split("\n").at(-1)}`;
}

ensureSetup({ quiet: true });
const isBuilt = process.argv.includes("--built");
const asked = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
const temporary = mkdtempSync(join(tmpdir(), "janus-smoke-"));
let failed = 0;
try {
  const packed = npm(["pack", "--pack-destination", temporary, ...(isBuilt ? ["--ignore-scripts"] : [])], {
    cwd: root,
    encoding: "utf8",
  });
  if (packed.status !== 0) throw new Error(`npm pack: ${packed.stderr}`);
  const tarball = join(
    temporary,
    readdirSync(temporary).find((name) => name.endsWith(".tgz")),
  );
  for (const [name, runtime] of Object.entries(RUNTIMES)) {
    if (asked.length > 0 && !asked.some((part) => name.includes(part))) continue;
    try {
      console.log(`smoke: ${name}: ok (${check(name, runtime, tarball, temporary)})`);
    } catch (error) {
      failed++;
      console.log(`smoke: ${name}: FAILED\n${error.message}`);
    }
  }
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
console.log(`smoke: ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
