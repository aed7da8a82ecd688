// `npm run check:package`: builds and packs the package, checks it with publint and attw, then uses it as a stranger would:
// installed in an empty folder, its command run, imported by Node, type-checked, the programs of the documentation too, bundled by Vite and loaded from Vite's
// development server. Computes on the adapter each time.

import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { modules } from "./docs/blocks.mjs";
import { loadProblems } from "./release/loads.mjs";
import { ensureSetup, npm, root, tool } from "./setup.mjs";

const useOfEach = `
import { Device, F, load, save, setDevice, tensor } from "janus-webgpu";
import * as engine from "janus-webgpu/engine";
import * as kernels from "janus-webgpu/kernels";
import * as nn from "janus-webgpu/nn";

if (engine.Device !== Device || kernels.square !== F.square) throw new Error("an entry has its own copy of a module");
if (Object.keys(nn).length === 0) throw new Error("janus-webgpu/nn is empty");
setDevice(await Device.create());
`;

// The same program in TypeScript and JavaScript: it is type-checked, run by Node, and bundled.
const consumer = `${useOfEach}
const sum = await tensor([1, 2, 3, 4]).square().sum().item();
if (sum !== 30) throw new Error("1 + 4 + 9 + 16 gave " + String(sum));
const net = new nn.Sequential(new nn.Linear(2, 2), new nn.BatchNorm1d(2));
await load(net, await save(net));
`;

// Training loads in a browser too: a step of a small model, taken on a device that only counts.
const training = `
import { tinyConfig } from "janus-webgpu/model";
import * as training from "janus-webgpu/train";

const { AdamW, Batcher, RecordEncoder, Trainer, VqTraining, checkConfig, estimateStep, textSample, totalLoss } = training;
for (const part of [AdamW, Batcher, RecordEncoder, Trainer, VqTraining, textSample, totalLoss])
  if (typeof part !== "function") throw new Error("janus-webgpu/train lacks a part");
if ("train" in training) throw new Error("the browser's janus-webgpu/train has what only Node can do");
const config = checkConfig({ stage: 2, batch: 2, length: 128, steps: 1, ratios: { und: 0, text: 1, gen: 0 }, optimizer: { lr: 1e-3 } });
const { launches } = await estimateStep(tinyConfig(), config);
if (!(launches > 100)) throw new Error("a step of training has " + launches + " launches");
`;

// In Node the entry also reads files; browsers get the one above.
const nodeOnly = `
import { Janus } from "janus-webgpu";
import { loadConfig, train } from "janus-webgpu/train";
if (typeof train !== "function" || loadConfig("stage3").stage !== 3) throw new Error("janus-webgpu/train does not train");
if (typeof Janus.fromPretrained !== "function") throw new Error("the entry for Node has no Janus.fromPretrained");
`;

const typeScriptOnly = `
const gpu: GPUDevice | null = engine.getDevice().gpu;
gpu?.destroy();
`;

const compilerOptions = { target: "es2023", module: "nodenext", strict: true, noEmit: true };
const typesConfigs = {
  // TypeScript 6 with its default libraries: the DOM brings the WebGPU types. Every declaration is checked, ours too.
  dom: { ...compilerOptions, types: [] },
  // Without the DOM (or before TypeScript 6) a consumer names the WebGPU types, which are installed with the package.
  // The package cannot do this for the user: the types clash with those of the DOM. They refer to the DOM, hence
  // skipLibCheck.
  "no dom": {
    ...compilerOptions,
    lib: ["es2023", "esnext.disposable"],
    types: ["node", "@webgpu/types"],
    typeRoots: [join(root, "node_modules", "@types"), "node_modules"],
    skipLibCheck: true,
  },
};

// The programs of the documentation compile as they stand, in each way in which TypeScript finds packages, with the types of Node and of browsers.
const resolutions = {
  bundler: { module: "esnext", moduleResolution: "bundler" },
  node16: { module: "node16" },
  nodenext: { module: "nodenext" },
};

// Vite's development server: the same training program, and the text of every kernel.
const development = `import { loadKernels } from "janus-webgpu/engine";${training}
await loadKernels();
console.log("trained with " + launches + " launches");
`;

const viteConfig = `export default {
  base: "./",
  logLevel: "warn",
  build: { target: "es2023", assetsInlineLimit: 0, rollupOptions: { input: ["consumer.js", "training.js"] } },
};`;

/** Runs a Node script and returns its output; if it fails, throws an error with the output. */
function node(title, script, args, options) {
  return finish(title, spawnSync(process.execPath, [script, ...args], { encoding: "utf8", ...options }));
}

function finish(title, { status, signal, stdout, stderr, error }) {
  if (status !== 0)
    throw new Error(`${title} failed (${signal ?? `exit code ${status}`})\n${stdout}${stderr}${error ?? ""}`);
  console.log(`package: ${title}: ok`);
  return stdout + stderr;
}

/** The installed command, by the link that npm made for it. */
function checkCommand(home, env) {
  const isWindows = process.platform === "win32";
  const janus = (...args) => {
    const bin = join(home, "node_modules", ".bin", isWindows ? "janus.cmd" : "janus");
    return finish(
      `janus ${args.join(" ")}`,
      spawnSync(bin, args, { cwd: home, env, encoding: "utf8", shell: isWindows }),
    );
  };
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const said = janus("--version");
  if (said !== `${version}\n`)
    throw new Error(`janus --version says ${JSON.stringify(said)}, the package is ${version}`);
  if (!janus("inspect", "--help").startsWith("Usage: janus inspect "))
    throw new Error("janus inspect --help is no help");
  // The bench has its kernels and its references with it; other engines are measured in a checkout only.
  if (
    !janus("bench", "kernels", "--filter", "sampleTokens", "--repeat", "1", "--seconds", "0.02", "--no-cold").includes(
      "of FMA",
    )
  )
    // prettier-ignore
    throw new Error("janus bench kernels shows no shares");
  // The model that comes with the package speaks without a download.
  const drawn = janus("generate", "circle", "--model", "shapes", "--out", "pictures", "--json");
  const { images } = JSON.parse(drawn.slice(drawn.indexOf("{"), drawn.lastIndexOf("\n}") + 2));
  if (!existsSync(join(home, images[0].path))) throw new Error("janus generate --model shapes wrote no image");
}

/** Most bytes of the packed package: the model shapes is most of them. */
const MAX_PACKED = 20e6;

function checkSize(tarball) {
  const { size } = statSync(tarball);
  if (size > MAX_PACKED) throw new Error(`the package has ${size} bytes packed; at most ${MAX_PACKED} are allowed`);
  console.log(`package: ${(size / 1e6).toFixed(1)} MB packed, of ${MAX_PACKED / 1e6}: ok`);
}

/** Compiles the TypeScript programs of the documentation against the installed package. */
function checkDocs(home) {
  const files = modules().map(({ page, line, file, code }) => {
    const folder = page.replace(/[^a-z_]+/gi, "_"); // the error names page and line
    const name = `${folder}/${file ?? `${line}.ts`}`;
    mkdirSync(join(home, folder), { recursive: true });
    writeFileSync(join(home, name), `${code}\nexport {};\n`);
    return name;
  });
  if (files.length < 20) throw new Error(`the documentation has ${files.length} programs in TypeScript; it had 20`);
  for (const [name, resolution] of Object.entries(resolutions)) {
    const typeRoots = [join(root, "node_modules", "@types")];
    const options = {
      target: "es2023",
      strict: true,
      noEmit: true,
      allowImportingTsExtensions: true,
      ...resolution,
      types: ["node"],
      typeRoots,
    };
    writeFileSync(join(home, "tsconfig.json"), JSON.stringify({ compilerOptions: options, files }));
    node(`${files.length} programs of the documentation (${name})`, tool("typescript-7", "tsc"), ["-p", "."], { cwd: home }); // prettier-ignore
  }
}

/** Loads the page's module from Vite's development server, without Node's modules and globals. */
function checkViteDev(home) {
  writeFileSync(join(home, "development.js"), development);
  writeFileSync(join(home, "index.html"), '<script type="module" src="/development.js"></script>\n');
  const script = join(root, "scripts", "vite_dev.mjs");
  const vite = join(dirname(tool("vite")), "..", "dist", "node", "index.js");
  const args = ["--no-warnings", script, home, "/development.js", vite];
  const said = node("load from vite dev", "--experimental-vm-modules", args, { cwd: home });
  if (!said.includes("trained with")) throw new Error(`vite dev: training did not run\n${said}`);
}

const filesIn = (dir, ending) => readdirSync(dir, { recursive: true }).filter((path) => path.endsWith(ending));

function checkPackage(temporary) {
  node("build", join(root, "scripts", "build.mjs"), [], { cwd: root });
  finish("npm pack", npm(["pack", "--ignore-scripts", "--pack-destination", temporary], { encoding: "utf8" }));
  const tarball = join(temporary, filesIn(temporary, ".tgz")[0]);
  checkSize(tarball);
  node("publint", tool("publint"), ["run", tarball, "--strict"]);
  node("attw", tool("@arethetypeswrong/cli", "attw"), [tarball, "--profile", "esm-only", "--no-emoji"]);

  const home = join(temporary, "consumer");
  mkdirSync(home);
  writeFileSync(join(home, "package.json"), JSON.stringify({ private: true, type: "module" }));
  const install = ["install", tarball, "--prefer-offline", "--no-audit", "--no-fund"];
  finish("install in an empty folder", npm(install, { cwd: home, encoding: "utf8" }));
  // The engine looks for SwiftShader below the working folder, which is another one here.
  const unpacked = join(root, ".cache", "swiftshader");
  const env = existsSync(unpacked) ? { JANUS_VULKAN_DIR: unpacked, ...process.env } : process.env;
  checkCommand(home, env);

  writeFileSync(join(home, "consumer.ts"), consumer + typeScriptOnly);
  for (const [name, options] of Object.entries(typesConfigs)) {
    const config = { compilerOptions: options, files: ["consumer.ts"] };
    writeFileSync(join(home, "tsconfig.json"), JSON.stringify(config));
    node(`types of a consumer (${name})`, tool("typescript", "tsc"), ["-p", "."], { cwd: home });
  }
  checkDocs(home);
  const tooMuch = loadProblems(home);
  if (tooMuch.length > 0) throw new Error(tooMuch.join("\n"));
  console.log("package: imports load only what they use: ok");

  // An import of the entries does not reach modules that are imported on demand.
  const installed = join(home, "node_modules", "janus-webgpu");
  const late = filesIn(installed, ".js").filter((path) => /\bimport\("\.[^"]*\.ts"\)/.test(readFileSync(join(installed, path), "utf8"))); // prettier-ignore
  if (late.length > 0) throw new Error(`these import TypeScript, which is not published: ${late.join(", ")}`);

  writeFileSync(join(home, "node_only.js"), nodeOnly);
  node("the entry for Node", "node_only.js", [], { cwd: home });
  writeFileSync(join(home, "consumer.js"), `${consumer}\nengine.getDevice().destroy();\nprocess.exit(0);\n`);
  node("import in Node", "consumer.js", [], { cwd: home, env });

  writeFileSync(join(home, "training.js"), training);
  writeFileSync(join(home, "vite.config.js"), viteConfig);
  const said = node("bundle by Vite", tool("vite"), ["build"], { cwd: home });
  if (said.trim() !== "") throw new Error(`Vite warns\n${said}`);
  // Those of the bench belong to the command and those of the page are copies: programs import neither.
  const published = filesIn(join(home, "node_modules", "janus-webgpu"), ".wgsl").filter(
    (path) => !path.split(/[\\/]/).some((folder) => folder === "bench" || folder === "app"),
  );
  const bundled = filesIn(join(home, "dist"), ".wgsl");
  if (published.length === 0 || bundled.length !== published.length) {
    throw new Error(`the package has ${published.length} .wgsl files, the bundle ${bundled.length}`);
  }
  const entry = (name) =>
    join(
      home,
      "dist",
      filesIn(join(home, "dist"), ".js").find((path) => path.includes(name)),
    );
  node(`run the bundle (with ${bundled.length} .wgsl files)`, entry("consumer"), [], { cwd: home, env });
  node("run the bundle of training", entry("training"), [], { cwd: home, env });
  checkViteDev(home);
}

const temporary = mkdtempSync(join(tmpdir(), "janus-package-"));
try {
  ensureSetup();
  checkPackage(temporary);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
