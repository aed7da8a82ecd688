// A newer Mesa than the system's, unpacked with its C library and loader into the project's cache: nothing is installed, no root is needed, and the
// state of the system's apt is not touched. For lanes that need what Debian's stable Mesa lacks. Plain Node without dependencies.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./setup.mjs";

/** The release of Debian whose backports have Mesa 26.1 or newer. */
const SUITE = "trixie";
const KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg";
const PACKAGES = ["mesa-vulkan-drivers", "libvulkan1"];
const cache = join(root, ".cache", "mesa");

/** Thrown if Mesa cannot be had here; the message says why. */
export class NoMesa extends Error {}

/** The folder of the unpacked Mesa, fetched if it is absent (63 MB). `JANUS_MESA_DIR` names another one. Throws `NoMesa`. */
export function ensureMesa() {
  const configured = process.env.JANUS_MESA_DIR;
  const folder = configured ?? cache;
  if (existsSync(join(librariesOf(folder), "libvulkan_lvp.so"))) return folder;
  if (configured) throw new NoMesa(`JANUS_MESA_DIR=${configured} has no libvulkan_lvp.so in usr/lib/x86_64-linux-gnu`);
  fetchMesa();
  return folder;
}

/** The command, its first arguments and the environment that start Node on the software Vulkan of `folder`. */
export function softwareVulkan(folder) {
  const libraries = librariesOf(folder);
  const driver = join(folder, "usr", "share", "vulkan", "icd.d", "lvp_icd.json");
  return {
    // Mesa is built for a newer C library than the system's may be: its own loader starts Node.
    command: join(libraries, "ld-linux-x86-64.so.2"),
    args: ["--library-path", libraries, process.execPath],
    env: { VK_ICD_FILENAMES: driver, VK_DRIVER_FILES: driver },
  };
}

const librariesOf = (folder) => join(folder, "usr", "lib", "x86_64-linux-gnu");

function fetchMesa() {
  if (process.platform !== "linux" || process.arch !== "x64") throw new NoMesa("Mesa is unpacked on Linux x64 only");
  if (!existsSync("/usr/bin/apt-get") || !existsSync(KEYRING))
    throw new NoMesa("Mesa comes from Debian's packages, and this system has no apt-get with Debian's keyring");
  const mirror = debianMirror();
  // Unpacked beside its final place and renamed last: what is there is whole.
  const staging = `${cache}.partial`;
  rmSync(staging, { recursive: true, force: true });
  const debs = join(staging, "debs");
  for (const name of ["debs", "apt/lists/partial", "apt/archives/partial"])
    mkdirSync(join(staging, name), { recursive: true });
  const env = privateApt(join(staging, "apt"), mirror);
  const run = (command, args) => output(command, args, { cwd: debs, env });
  run("apt-get", ["update"]);
  const uris = run("apt-get", ["install", "--yes", "--no-install-recommends", "--print-uris", ...PACKAGES]);
  // Of the C library's and the compiler's packages only the libraries are wanted.
  const names = [...uris.matchAll(/^'\S+' ([^_\s]+)_/gm)]
    .map((m) => m[1])
    .filter((name) => !/^(gcc-|.*-(data|common)$)/.test(name));
  run("apt-get", ["download", ...names]);
  for (const file of readdirSync(debs)) run("dpkg", ["-x", file, join(staging, "mesa")]);
  rmSync(cache, { recursive: true, force: true });
  renameSync(join(staging, "mesa"), cache);
  rmSync(staging, { recursive: true });
}

/** The mirror from which this system takes Debian's own packages. */
function debianMirror() {
  const targets = output("apt-get", ["indextargets", "--format", "$(LABEL)\t$(REPO_URI)"]);
  const mirror = targets.split("\n").find((line) => line.startsWith("Debian\t"));
  if (!mirror) throw new NoMesa("the sources of apt name no mirror of Debian");
  return mirror.split("\t")[1];
}

/** An apt with lists, archives and a record of installed packages of its own; the environment that selects it. */
function privateApt(folder, mirror) {
  const suites = [SUITE, `${SUITE}-backports`];
  writeFileSync(
    join(folder, "sources.list"),
    suites.map((suite) => `deb [signed-by=${KEYRING}] ${mirror} ${suite} main\n`).join(""),
  );
  writeFileSync(join(folder, "status"), ""); // as if nothing were installed: every library is fetched
  const settings = {
    "Dir::Etc::sourcelist": join(folder, "sources.list"),
    "Dir::Etc::sourceparts": "/dev/null",
    "Dir::State::Lists": join(folder, "lists"),
    "Dir::State::status": join(folder, "status"),
    "Dir::Cache": folder,
    "Dir::Cache::archives": join(folder, "archives"),
    "APT::Default-Release": suites[1],
    "APT::Sandbox::User": "root",
    "Acquire::Languages": "none",
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} "${value}";\n`);
  writeFileSync(join(folder, "apt.conf"), lines.join(""));
  return { APT_CONFIG: join(folder, "apt.conf") };
}

function output(command, args, { cwd, env = {} } = {}) {
  const done = spawnSync(command, args, { cwd, encoding: "utf8", maxBuffer: 1 << 26, env: { ...process.env, ...env } });
  if (done.status === 0) return done.stdout;
  const said = (done.stderr || String(done.error ?? "")).trim().split("\n").slice(-3).join("; ");
  throw new NoMesa(`${command} ${args[0]} failed: ${said}`);
}
