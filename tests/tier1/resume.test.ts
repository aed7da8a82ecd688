/**
 * A run that is killed and resumed ends bit for bit as one that is not: one cell of the grid (nine in the long form, of them six
 * with adapters; how DPO and GRPO stop and resume preferences.test.ts has), of fewer steps than in tests/resume_grid.ts.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { Device } from "../../index.ts";
import { isLong } from "../long.ts";
import { prepare, runCell } from "../resume_grid.ts";

const home = mkdtempSync(join(tmpdir(), "janus-resume-"));

beforeAll(async () => {
  const device = await Device.create();
  await prepare(home, device);
  device.destroy();
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

const CELLS = [
  [{ stage: 3, accumulation: 1, recompute: false }, "f16", { muon: true }, 12], // stage 1 has no matrix that Muon moves
  [{ stage: 2, accumulation: 1, recompute: false }, "bf16", { objective: "dpo", lora: "plain", steps: 6 }, 6],
  [{ stage: 2, accumulation: 1, recompute: false }, "f32", { objective: "grpo", lora: "plain", steps: 6 }, 6],
  [{ stage: 2, accumulation: 4, recompute: true }, "f16", { objective: "dpo", steps: 6 }, 12],
  [{ stage: 2, accumulation: 4, recompute: true }, "bf16", { objective: "grpo", lora: "int4", steps: 6 }, 6],
  [{ stage: 1, accumulation: 1, recompute: false }, "bf16", { lora: "int4", steps: 6 }, 6],
  [{ stage: 2, accumulation: 4, recompute: true }, "bf16", { lora: "int4" }, 6],
  [{ stage: 1, accumulation: 4, recompute: true }, "bf16", { int8: true }, 12],
  [{ stage: 3, accumulation: 1, recompute: false }, "f16", { lora: "plain" }, 6],
] as const;

it.each(isLong ? CELLS : CELLS.slice(0, 1))(
  "%j in %s with %j: killed by SIGKILL after a save, resumed, equal in every byte and loss",
  async (cell, dtype, more, files) => {
    const options = { steps: 8, dtype, ...more, random: Math.random };
    const outcome = await runCell(home, cell, options);
    expect(outcome.differing).toEqual([]);
    expect(outcome.killedAfter).toBeGreaterThan(options.steps / 2);
    expect(outcome.files).toBe(files);
  },
);
