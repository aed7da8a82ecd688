/** The chips that kernels are compiled for, and how a process is started whose only GPU is one of them. */
import { join } from "node:path";
import type { Mesa } from "./mesa.ts";

export interface Chip {
  readonly name: string;
  readonly vendor: "amd" | "nvidia";
  /** What the driver is told. */
  readonly code: string;
  /** Waves a SIMD, or warps a multiprocessor, holds at most; and the fewest that products and attention must reach. */
  readonly most: number;
  readonly least: number;
  /** NVIDIA: workgroups of a multiprocessor, KiB of workgroup memory, KiB that each workgroup takes besides its own. */
  readonly groups?: number;
  readonly kib?: number;
  readonly reserved?: number;
  /** AMD: vector registers of a SIMD for waves of 64, if the driver on its stub counts waves with fewer than the chip has. */
  readonly pool?: number;
  /** Lanes of a subgroup if not the driver's own choice. */
  readonly lanes?: 32 | 64;
}

const amd = (code: string, lanes?: 32 | 64): Chip => ({
  name: lanes ? `${code}-wave${lanes}` : code,
  vendor: "amd",
  code,
  most: 16,
  least: 4,
  ...(lanes && { lanes }),
});
const nvidia = (name: string, code: string, of: Pick<Chip, "most" | "groups" | "kib" | "reserved">): Chip => ({
  name,
  vendor: "nvidia",
  code,
  least: Math.floor(of.most / 3),
  ...of,
});

export const CHIPS: readonly Chip[] = [
  amd("navi21"),
  amd("navi31"),
  // The stub says 512, the compiler allocates by 768, which the chip has.
  { ...amd("gfx1201"), pool: 768 },
  amd("navi31", 32),
  amd("navi31", 64),
  nvidia("tu102", "162", { most: 32, groups: 16, kib: 64, reserved: 0 }),
  nvidia("ga102", "172", { most: 48, groups: 16, kib: 100, reserved: 1 }),
  nvidia("ad102", "192", { most: 48, groups: 24, kib: 100, reserved: 1 }),
  nvidia("gb202", "1b2", { most: 48, groups: 24, kib: 100, reserved: 1 }),
];

export interface Start {
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** Node on this chip. Mesa is built for a newer C library than many systems have: its own loader starts the process. */
export function startOn(chip: Chip, mesa: Mesa, layer: string): Start {
  const driver = join(mesa.drivers, chip.vendor === "amd" ? "radeon_icd.json" : "nouveau_icd.json");
  const stub = [join(layer, "libchip.so"), join(mesa.libraries, "libnouveau_noop_drm_shim.so")];
  const preload = chip.vendor === "amd" ? [] : ["--preload", stub.join(":")];
  // The stub itself knows nothing after Ampere.
  const known = Number.parseInt(chip.code, 16) > 0x177 ? "172" : chip.code;
  const own: Record<string, string> =
    chip.vendor === "amd"
      ? { RADV_FORCE_FAMILY: chip.code, ...(chip.lanes === 32 && { RADV_PERFTEST: "cswave32" }) }
      : { COMPILE_CHIP: chip.code, NOUVEAU_CHIPSET: known, NVK_I_WANT_A_BROKEN_VULKAN_DRIVER: "1" };
  return {
    command: join(mesa.libraries, "ld-linux-x86-64.so.2"),
    args: ["--library-path", mesa.libraries, ...preload, process.execPath],
    env: {
      ...own,
      VK_DRIVER_FILES: driver,
      VK_ICD_FILENAMES: driver,
      VK_LAYER_PATH: layer,
      VK_INSTANCE_LAYERS: "VK_LAYER_compile",
      NODEVICE_SELECT: "1",
      MESA_SHADER_CACHE_DISABLE: "true",
    },
  };
}
