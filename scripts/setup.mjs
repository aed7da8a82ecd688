// Prepares a bare machine: installs node_modules, and a software Vulkan driver if there is no WebGPU adapter.
// Plain Node without dependencies, safe to run again: existing installations are not changed. Every command calls
// `ensureSetup()` first; `npm run setup` runs it by itself. It leaves the use of the driver to engine/.

import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { brotliDecompressSync } from "node:zlib";

export const root = fileURLToPath(new URL("..", import.meta.url));

// SwiftShader (software Vulkan) and a Vulkan loader, built for any Linux x64 with glibc, are part of this npm package.
const swiftShader = {
  spec: "@sparticuz/chromium@153.0.0",
  sha512: "jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA==",
  file: "package/bin/swiftshader.tar.br",
  dir: join(root, ".cache", "swiftshader"),
};

let isQuiet = false;

/**
 * Installs what is missing. `adapter: false` stops after node_modules, for work that needs no GPU; `quiet: true` prints
 * nothing if nothing is missing.
 */
export function ensureSetup({ adapter = true, quiet = false } = {}) {
  isQuiet = quiet;
  installDependencies();
  if (adapter) installAdapter();
}

/** The script of a locally installed tool, to be run by `process.execPath`: `tool("typescript", "tsc")`. */
export function tool(packageName, bin = packageName) {
  // Through the file system, since packages with `exports` hide their package.json from `require.resolve`.
  const dir = join(root, "node_modules", packageName);
  const entry = JSON.parse(readFileSync(join(dir, "package.json"), "utf8")).bin;
  return join(dir, typeof entry === "string" ? entry : entry[bin]);
}

/** Runs npm without a shell where possible: inside `npm run` npm says where its own script is. */
export function npm(args, options = {}) {
  const script = process.env.npm_execpath;
  return script?.endsWith(".js")
    ? spawnSync(process.execPath, [script, ...args], { cwd: root, ...options })
    : spawnSync("npm", args, { cwd: root, shell: process.platform === "win32", ...options });
}

/** Prints to stderr, as child processes do: stdout belongs to the program that runs after the set-up. */
function say(text) {
  console.error(`setup: ${text}`);
}

// ---- node_modules ------------------------------------------------------------------------------------------------

function installDependencies() {
  const reason = staleDependencies();
  if (!reason) return;
  say(`${reason}: running "npm ci"`);
  const { status, error } = npm(["ci", "--no-audit", "--no-fund"], { stdio: ["inherit", 2, 2] });
  if (status !== 0) throw new Error(`"npm ci" failed${error ? `: ${error.message}` : ""}`);
}

/** Returns the reason why node_modules differs from package-lock.json, or null. npm keeps a list of installed packages. */
function staleDependencies() {
  const installedList = join(root, "node_modules", ".package-lock.json");
  if (!existsSync(installedList)) return "node_modules is absent";
  const packages = (file) => JSON.parse(readFileSync(file, "utf8")).packages;
  const installed = packages(installedList);
  for (const [path, wanted] of Object.entries(packages(join(root, "package-lock.json")))) {
    // Optional packages are mostly builds for other platforms, which npm rightly leaves out.
    if (path === "" || wanted.optional || wanted.devOptional) continue;
    if (installed[path]?.version !== wanted.version) return `node_modules differs from package-lock.json (${path})`;
  }
  return null;
}

// ---- adapter -----------------------------------------------------------------------------------------------------

function installAdapter() {
  if (probe()) return;
  say("no WebGPU adapter found: a software Vulkan driver is needed");
  if (process.platform === "linux") {
    if (installByApt() && probe()) return;
    if (unpackSwiftShader() && probe()) return;
  }
  throw new Error(`no WebGPU adapter, and none could be set up here.\n${advice()}`);
}

/** Asks for an adapter and runs a small kernel on it, in a child process: a bad driver may crash or hang. */
function probe() {
  const script = join(root, "scripts", "probe_adapter.mjs");
  const tsx = pathToFileURL(createRequire(import.meta.url).resolve("tsx")).href;
  const child = spawnSync(process.execPath, ["--import", tsx, script], {
    cwd: root,
    encoding: "utf8",
    timeout: 60_000,
    killSignal: "SIGKILL",
  });
  if (child.status === 0) {
    if (!isQuiet) say(`WebGPU adapter: ${child.stdout.trim()}`);
    return true;
  }
  const reason =
    child.error?.message ?? (child.signal ? `died of ${child.signal}` : child.stderr.trim().split("\n").at(-1));
  say(`adapter probe: ${reason}`);
  return false;
}

// ---- a driver from the distribution ------------------------------------------------------------------------------

function osRelease() {
  if (!existsSync("/etc/os-release")) return { names: [], version: 0 };
  const text = readFileSync("/etc/os-release", "utf8");
  const field = (name) => text.match(new RegExp(`^${name}="?([^"\n]*)`, "m"))?.[1] ?? "";
  return { names: [field("ID"), ...field("ID_LIKE").split(" ")], version: parseInt(field("VERSION_ID")) };
}

/** A function that runs a command as root, or null where neither root nor a sudo without password is at hand. */
function rootRunner() {
  const works = (command, args) => spawnSync(command, args, { stdio: "ignore" }).status === 0;
  let prefix;
  if (process.getuid() === 0) prefix = [];
  else if (works("sudo", ["-n", "true"])) prefix = ["sudo", "-n"];
  else return null;
  return (args, options = {}) => {
    const [command, ...rest] = [...prefix, ...args];
    return spawnSync(command, rest, { stdio: ["ignore", 2, 2], ...options }).status === 0;
  };
}

function installByApt() {
  const { names, version } = osRelease();
  const isBookworm = names[0] === "debian" && version === 12;
  if (names[0] === "debian" && version < 12) return false;
  // Debian 12's own Mesa 22.3 is too old: Dawn refuses it.
  const from = isBookworm ? ["-t", "bookworm-backports"] : [];
  const prepare = (asRoot) => !isBookworm || addBackports(asRoot);
  return aptInstall(["mesa-vulkan-drivers", "libvulkan1"], { from, prepare });
}

/** Installs packages with apt, as root or with sudo; false if that is not possible. `prepare` may add sources first. */
export function aptInstall(packages, { from = [], prepare = () => true } = {}) {
  if (!existsSync("/usr/bin/apt-get")) return false;
  const asRoot = rootRunner();
  if (!asRoot) {
    say("neither root nor a sudo without password: leaving the system's packages alone");
    return false;
  }
  if (!prepare(asRoot)) return false;
  const quiet = ["-q", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"];
  const aptGet = (...args) => asRoot(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", ...quiet, ...args]);
  say(`apt-get update && apt-get install ${[...from, ...packages].join(" ")}`);
  // A broken third-party source fails the update although Debian's own lists arrived: the install decides.
  aptGet("update");
  if (aptGet("install", "-y", "--no-install-recommends", ...from, ...packages)) return true;
  say("apt-get failed");
  return false;
}

/** Adds bookworm-backports in a separate file, as a copy of the existing entry for bookworm. */
function addBackports(asRoot) {
  const entries = aptEntries();
  if (entries.some((entry) => entry.suites.includes("bookworm-backports"))) return true;
  const base = entries.find((entry) => entry.suites.includes("bookworm") && entry.components.includes("main"));
  if (!base) {
    say("apt has no source for Debian bookworm from which that of bookworm-backports could be derived");
    return false;
  }
  const file = `/etc/apt/sources.list.d/janus-webgpu-backports.${base.form}`;
  say(`writing ${file} (bookworm-backports from the mirror that apt already uses)`);
  return asRoot(["tee", file], { input: base.withSuite("bookworm-backports"), stdio: ["pipe", "ignore", "inherit"] });
}

/** The binary package sources of apt, from both forms in which they are written. */
function aptEntries() {
  const dir = "/etc/apt/sources.list.d";
  const files = existsSync(dir) ? readdirSync(dir).map((name) => join(dir, name)) : [];
  return ["/etc/apt/sources.list", ...files].flatMap((file) => {
    if (!existsSync(file)) return [];
    const text = readFileSync(file, "utf8");
    if (file.endsWith(".list")) return oneLineEntries(text);
    return file.endsWith(".sources") ? deb822Entries(text) : [];
  });
}

/** `deb [signed-by=…] http://host/debian bookworm main contrib` */
function oneLineEntries(text) {
  return [...text.matchAll(/^[ \t]*deb[ \t]+(\[[^\]]*\][ \t]+)?(\S+)[ \t]+(\S+)[ \t]+([^#\n]+)/gm)].map(
    ([, options = "", uri, suite, components]) => ({
      form: "list",
      suites: [suite],
      components: components.trim().split(/\s+/),
      withSuite: (other) => `deb ${options}${uri} ${other} main\n`,
    }),
  );
}

/** Parses stanzas of `Field: value` lines; a value continues in indented lines (`Signed-By` may contain a complete key). */
function deb822Entries(text) {
  const stanzas = text.replace(/^#.*\n?/gm, "").split(/\n\s*\n/);
  return stanzas.flatMap((stanza) => {
    const fields = new Map(
      [...stanza.matchAll(/^([\w-]+):[ \t]*(.*(?:\n[ \t]+.*)*)/gm)].map(([, name, value]) => [
        name.toLowerCase(),
        value,
      ]),
    );
    const words = (name) => (fields.get(name) ?? "").split(/\s+/).filter(Boolean);
    if (!words("types").includes("deb") || /^(no|false|off|0)$/i.test(fields.get("enabled") ?? "")) return [];
    return {
      form: "sources",
      suites: words("suites"),
      components: words("components"),
      withSuite: (other) => {
        const changed = new Map([...fields, ["types", "deb"], ["suites", other], ["components", "main"]]);
        return [...changed].map(([name, value]) => `${name}: ${value}\n`).join("");
      },
    };
  });
}

// ---- a driver from npm -------------------------------------------------------------------------------------------

function unpackSwiftShader() {
  if (process.arch !== "x64") {
    say(`SwiftShader is packaged for x64 only, this machine is ${process.arch}`);
    return false;
  }
  say(`fetching SwiftShader out of the npm package ${swiftShader.spec} into .cache/swiftshader`);
  mkdirSync(join(root, ".cache"), { recursive: true });
  const staging = mkdtempSync(join(root, ".cache", "unpack-"));
  try {
    const packed = npm(["pack", swiftShader.spec, "--loglevel=error", "--pack-destination", staging], {
      encoding: "utf8",
    });
    if (packed.status !== 0) throw new Error(`npm pack failed: ${packed.stderr}`);
    const archive = join(staging, packed.stdout.trim().split("\n").at(-1));
    const sha512 = createHash("sha512").update(readFileSync(archive)).digest("base64");
    if (sha512 !== swiftShader.sha512) throw new Error(`${swiftShader.spec} has an unexpected checksum`);
    untar(archive, staging, swiftShader.file);
    const inner = join(staging, "swiftshader.tar");
    writeFileSync(inner, brotliDecompressSync(readFileSync(join(staging, swiftShader.file))));
    const unpacked = join(staging, "swiftshader");
    mkdirSync(unpacked);
    untar(inner, unpacked, "libvulkan.so.1", "libvk_swiftshader.so", "vk_swiftshader_icd.json");
    rmSync(swiftShader.dir, { recursive: true, force: true });
    renameSync(unpacked, swiftShader.dir);
  } catch (error) {
    say(`SwiftShader: ${error.message}`);
    return false;
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
  say("SwiftShader computes in f32 only: work that needs f16 is not possible with it");
  return true;
}

function untar(archive, dir, ...members) {
  const { status, stderr, error } = spawnSync("tar", ["-xf", archive, "-C", dir, ...members], { encoding: "utf8" });
  if (status !== 0) throw new Error(`tar failed: ${error?.message ?? stderr}`);
}

// ---- nothing worked ----------------------------------------------------------------------------------------------

function advice() {
  const { names } = osRelease();
  /** @type {[string[], string][]} */
  const byFamily = [
    [["debian", "ubuntu"], `sudo ${process.execPath} ${join(root, "scripts", "setup.mjs")}`],
    [["fedora", "rhel", "centos"], "sudo dnf install mesa-vulkan-drivers vulkan-loader"],
    [["arch"], "sudo pacman -S vulkan-swrast vulkan-icd-loader"],
    [["suse", "opensuse"], "sudo zypper install libvulkan_lvp libvulkan1"],
  ];
  const command = byFamily.find(([families]) => families.some((family) => names.includes(family)))?.[1];
  const install = command
    ? `Run:  ${command}`
    : "Install a Vulkan driver (Mesa's software driver will do) and its loader";
  return process.platform === "linux"
    ? `${install}\nor point JANUS_VULKAN_DIR to a folder with libvulkan.so.1 and vk_swiftshader_icd.json. Then run this again.`
    : "WebGPU needs Metal on macOS and Direct3D 12 on Windows: update the system's graphics driver.";
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    ensureSetup();
  } catch (error) {
    console.error(`setup: ${error.message}`);
    process.exitCode = 1;
  }
}
