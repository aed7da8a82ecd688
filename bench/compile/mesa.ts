/** The compilers: a Mesa that is unpacked into `.cache/compile/`, and the layer that stands between it and Dawn, built there. Debian with gcc. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
export const root = join(here, "..", "..");
const cache = join(root, ".cache", "compile");
/**
 * For AMD the Mesa of Debian 13, 25.0, whose RADV takes the name of a chip (newer ones do not); for NVIDIA that of its backports, 26.1 or
 * newer, whose compiler knows workgroup memory, subgroup matrices and chips up to Blackwell.
 */
const RELEASES = {
  amd: { suite: "trixie", packages: ["mesa-vulkan-drivers", "libvulkan1"] },
  nvidia: { suite: "trixie-backports", packages: ["mesa-vulkan-drivers", "mesa-drm-shim", "libvulkan1"] },
} as const;

/** A machine that lacks what the lane needs. */
export class MissingError extends Error {}

export interface Mesa {
  /** Folder of its libraries, and of descriptions of its drivers. */
  readonly libraries: string;
  readonly drivers: string;
  readonly headers: string;
}

const mesaIn = (folder: string): Mesa => ({
  libraries: join(folder, "usr", "lib", "x86_64-linux-gnu"),
  drivers: join(folder, "usr", "share", "vulkan", "icd.d"),
  headers: join(folder, "usr", "include"),
});

function call(command: string, args: readonly string[], cwd: string, env: Record<string, string> = {}): string {
  const done = spawnSync(command, args, { cwd, encoding: "utf8", maxBuffer: 1 << 26, env: { ...process.env, ...env } });
  if (done.error) throw new MissingError(`${command}: ${done.error.message}`);
  if (done.status !== 0) throw new Error(`${command} ${args.join(" ")}: ${done.stderr.trim()}`);
  return done.stdout;
}

/** A state of apt of its own in `apt`, on the mirror that this system uses; nothing counts as installed, so that all libraries come along. */
function aptState(apt: string, suite: string): Record<string, string> {
  rmSync(apt, { recursive: true, force: true });
  for (const name of ["lists/partial", "archives/partial", "packages", "root"])
    mkdirSync(join(apt, name), { recursive: true });
  const listed = call("apt-get", ["indextargets", "--format", "$(REPO_URI)"], apt).split("\n");
  const mirror = listed.find((uri) => /\/debian\/?$/.test(uri));
  if (!mirror) throw new MissingError("apt has no mirror of Debian");
  const keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
  const sources = ["trixie", "trixie-backports"].map((s) => `deb [signed-by=${keys}] ${mirror} ${s} main\n`);
  writeFileSync(join(apt, "sources.list"), sources.join(""));
  writeFileSync(join(apt, "status"), "");
  const settings = {
    "Dir::Etc::sourcelist": join(apt, "sources.list"),
    "Dir::Etc::sourceparts": "/dev/null",
    "Dir::State::Lists": join(apt, "lists"),
    "Dir::State::status": join(apt, "status"),
    "Dir::Cache": apt,
    "Dir::Cache::archives": join(apt, "archives"),
    "APT::Default-Release": suite,
    "Acquire::Languages": "none",
  };
  const lines = Object.entries(settings).map(([key, value]) => `${key} "${value}";\n`);
  writeFileSync(join(apt, "conf"), lines.join(""));
  return { APT_CONFIG: join(apt, "conf") };
}

/** Mesa in the cache, fetched there the first time (about 65 MB from the mirror that apt uses; no root, nothing is installed). */
export function findMesa(vendor: keyof typeof RELEASES): Mesa {
  const { suite, packages: wanted } = RELEASES[vendor];
  const folder = join(cache, `mesa-${vendor}`);
  if (existsSync(folder)) return mesaIn(folder);
  const apt = join(cache, "apt");
  const packages = join(apt, "packages");
  mkdirSync(cache, { recursive: true });
  const env = aptState(apt, suite);
  call("apt-get", ["update"], apt, env);
  const plan = call("apt-get", ["install", "--yes", "--no-install-recommends", "--print-uris", ...wanted], apt, env);
  const names = [...plan.matchAll(/^'\S+' ([^_\s]+)_/gm)].map((m) => m[1]!);
  const needed = names.filter((name) => !/^(gcc-|.*-(data|common)$)/.test(name));
  call("apt-get", ["download", ...needed, "libvulkan-dev"], packages, env);
  for (const file of readdirSync(packages)) call("dpkg", ["-x", file, join(apt, "root")], packages);
  renameSync(join(apt, "root"), folder);
  rmSync(apt, { recursive: true });
  return mesaIn(folder);
}

/** The folder with the layer and the chip's stand-in, built once for each version of their sources. */
export function buildLayer(mesa: Mesa): string {
  const sources = ["layer.c", "chip.c"].map((file) => join(here, file));
  const hash = createHash("sha256");
  for (const file of sources) hash.update(readFileSync(file));
  const folder = join(cache, `layer-${hash.digest("hex").slice(0, 12)}`);
  const manifest = join(folder, "layer.json");
  if (existsSync(manifest)) return folder;
  mkdirSync(folder, { recursive: true });
  for (const file of sources) {
    const library = join(folder, file.endsWith("layer.c") ? "liblayer.so" : "libchip.so");
    const flags = ["-O1", "-shared", "-fPIC", "-I", mesa.headers, "-o", library, file, "-ldl"];
    call(process.env["CC"] ?? "cc", flags, folder);
  }
  const layer = {
    name: "VK_LAYER_compile",
    type: "GLOBAL",
    library_path: "./liblayer.so",
    api_version: "1.3.0",
    implementation_version: "1",
    description: "compiles without a GPU",
  };
  writeFileSync(manifest, JSON.stringify({ file_format_version: "1.1.2", layer }));
  return folder;
}
