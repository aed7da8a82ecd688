/** Under which circumstances a run was made: adapter, driver, limits, commit, versions. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { availableParallelism, release } from "node:os";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { adapterId } from "../index.ts";
import type { AdapterId, Device } from "../index.ts";
import type { Ceilings } from "./ceilings.ts";
import type { LaunchCost } from "./launches.ts";
import { FORMAT } from "./results.ts";
import type { Question, RunInfo, Settings } from "./results.ts";

const require = createRequire(import.meta.url);

/** The folder of the checkout that this file is in; null in an installed package. */
export function checkoutFolder(): string | null {
  const root = fileURLToPath(new URL("..", import.meta.url));
  return existsSync(join(root, "tsconfig.build.json")) ? root : null;
}

/** The adapter of a device; the null device has only a name. */
export function adapterOf(device: Device): AdapterId {
  const { name, vendor, architecture } = device.capabilities;
  return device.gpu ? adapterId(device.gpu.adapterInfo) : { name, vendor, architecture, driver: name };
}

export const adapterText = ({ name, driver }: AdapterId): string =>
  name === driver || driver.startsWith(name) ? driver : `${name} (driver ${driver})`;

/** Bytes of the last-level cache of the CPU as Linux reports it; null elsewhere. */
function cpuCacheBytes(): number | null {
  const sizes = [0, 1, 2, 3, 4].flatMap((i) => {
    const file = `/sys/devices/system/cpu/cpu0/cache/index${i}/size`;
    const found = existsSync(file) ? /^(\d+)K/.exec(readFileSync(file, "utf8")) : null;
    return found ? [Number(found[1]) * 1024] : [];
  });
  return sizes.length ? Math.max(...sizes) : null;
}

/** Bytes of the largest last-level cache of a GPU that is sold (AMD's 256 MB of Infinity Cache). */
const GPU_CACHE = 256 << 20;
const CPU_CACHE = 64 << 20;

/** What cold calls rotate through: a quarter more than the last-level cache, which on a GPU is not reported. */
export function coldBytesOf(device: Device): number {
  const cache = device.capabilities.software ? (cpuCacheBytes() ?? CPU_CACHE) : GPU_CACHE;
  return Math.ceil(1.25 * cache);
}

function commitOf(folder: string | null): string | null {
  if (!folder) return null;
  const git = (...args: string[]): string | null => {
    const { status, stdout } = spawnSync("git", args, { cwd: folder, encoding: "utf8" });
    return status === 0 ? stdout.trim() : null;
  };
  const commit = git("rev-parse", "--short=12", "HEAD");
  return commit && (git("status", "--porcelain", "--untracked-files=no") ? `${commit}+` : commit);
}

const versionOf = (name: string): string => {
  for (const folder of require.resolve.paths(name) ?? []) {
    const file = join(folder, name, "package.json");
    if (existsSync(file)) return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
  }
  return "unknown";
};

export interface RunOptions {
  readonly question: Question;
  readonly settings: Settings;
  readonly ceilings: Ceilings;
  readonly launch: LaunchCost | null;
  readonly coldBytes: number | null;
}

export function runInfo(device: Device, { question, settings, ceilings, launch, coldBytes }: RunOptions): RunInfo {
  return {
    kind: "run",
    format: FORMAT,
    question,
    date: new Date().toISOString(),
    adapter: adapterOf(device),
    isSoftware: device.capabilities.software,
    features: device.capabilities.features,
    limits: device.limits,
    commit: commitOf(checkoutFolder()),
    versions: {
      janus: (require("janus-webgpu/package.json") as { version: string }).version,
      webgpu: versionOf("webgpu"),
      node: process.version,
    },
    platform: `${process.platform} ${release()} ${process.arch}, ${availableParallelism()} CPUs`,
    settings,
    ceilings,
    launch,
    coldBytes,
  };
}
