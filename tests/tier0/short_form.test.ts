/** What the short form of the suite leaves of an op: fewer runs, and with them all that the op's rows prove of its kernels. */
import { expect, it } from "vitest";
import { Device } from "../../index.ts";
import type { Launch } from "../../index.ts";
import { cases } from "../cases.ts";
import { PROFILES, runOnNull } from "../null_runs.ts";
import { chooseRuns, runsOf } from "../short_form.ts";
import type { Run } from "../short_form.ts";

const NARROW = ["f16", "bf16"];

/** Kernels that `runs` launch, each by itself, for a forced variant, with 16-bit inputs, and with a dimension of more than 4 that 4 does not divide. */
function proofsOf(runs: readonly Run[], device: Device): Set<string> {
  const found = new Set<string>();
  for (const { row, force } of runs) {
    const listener = ({ pipeline: { kernel } }: Launch): void => {
      found.add(kernel.name);
      if (force) found.add(`${kernel.name} for ${force.name}`);
      if (row.inputs.some(({ dtype }) => NARROW.includes(dtype ?? "f32"))) found.add(`${kernel.name} 16-bit`);
      if (row.inputs.some(({ shape }) => shape.some((n) => n > 4 && n % 4))) found.add(`${kernel.name} odd`);
    };
    device.onLaunch(listener);
    runOnNull(row, device, force);
    device.offLaunch(listener);
  }
  return found;
}

it.each(["attention", "softmax", "conv2d", "add"])(
  "%s: every kernel, variant, width and odd shape stays",
  async (op) => {
    const device = await Device.create({ backend: "null", capabilities: PROFILES["software Vulkan"]! });
    const rows = cases.filter((row) => row.op === op);
    const [all, chosen] = [rows.flatMap(runsOf), await chooseRuns(rows, [device, device])];
    expect(chosen.length).toBeLessThan(all.length / 3);
    expect(proofsOf(chosen, device)).toEqual(proofsOf(all, device));
    device.destroy();
  },
);
