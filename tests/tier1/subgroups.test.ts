/** Kernels that use subgroups, at the sizes 4, 8 and 16: software Vulkan takes its vector width from the environment, once a process. */
import "../quick_compile.ts";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { isLong } from "../long.ts";

const child = fileURLToPath(new URL("../subgroups_child.ts", import.meta.url));

interface Found {
  readonly adapter: string;
  readonly subgroups: readonly [number, number] | null;
  readonly checks: number;
  readonly kernels: readonly string[];
  readonly problems: readonly string[];
}

async function runWith(width: number): Promise<Found> {
  const env = { ...process.env, LP_NATIVE_VECTOR_WIDTH: String(width) };
  const { stdout } = await promisify(execFile)(process.execPath, ["--import", "tsx", child], {
    env,
    maxBuffer: 1 << 26,
  });
  return JSON.parse(stdout.trim().split("\n").at(-1)!) as Found;
}

const SIZES = [
  [4, 128],
  [8, 256],
  [16, 512],
] as const;

// Most processors have 8, at which every other test runs; kernels for 16 take long to compile.
it.each(isLong ? SIZES : SIZES.slice(0, 1))("size %d", async (size, width) => {
  const found = await runWith(width);
  expect(found.problems).toEqual([]);
  // Another adapter has its own size and does not listen to the variable; nothing to check on one without subgroups.
  if (/llvmpipe/.test(found.adapter)) expect(found.subgroups).toEqual([size, size]);
  if (found.subgroups) expect(found.checks).toBeGreaterThan(0);
  console.log(
    `subgroups of ${found.subgroups?.join("–") ?? "none"}: ${found.checks} checks of ${found.kernels.join(", ")}`,
  );
});
