/** Every row of some families of the table of cases, forward and gradients, on the GPU of this machine. */
import "./quick_compile.ts";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Device } from "../index.ts";
import { families } from "./cases.ts";
import type { Family } from "./cases.ts";
import { caseName, runCase } from "./harness.ts";
import type { Case } from "./harness.ts";
import { isLong, variantsInTurn } from "./long.ts";

/** The same inputs every time, so that a change is judged and not chance; JANUS_TEST_SEED asks for others (docs/kernels.md). */
const seed = Number(process.env["JANUS_TEST_SEED"] ?? 1);

/**
 * The rows of an op. In the short form those with 16-bit inputs are of one 16-bit type if the op has rows of both: f16 and bf16 turn about, op by
 * op, for what differs between them is how a kernel loads and stores, and all kernels do that by the same libraries.
 */
function rowsInTurn(rows: readonly Case[], turn: number): readonly Case[] {
  const [kept, left] = turn % 2 ? (["f16", "bf16"] as const) : (["bf16", "f16"] as const);
  const has = ({ inputs }: Case, dtype: string): boolean => inputs.some((input) => input.dtype === dtype);
  if (isLong || !rows.some((row) => has(row, kept))) return rows;
  return rows.filter((row) => has(row, kept) || !has(row, left));
}

export function testOps(names: readonly Family[]): void {
  const byOp = new Map<string, Case[]>();
  for (const c of names.flatMap((name) => families[name])) byOp.set(c.op, [...(byOp.get(c.op) ?? []), c]);
  let device: Device;
  let small: Device;
  let checks = 0;

  beforeAll(async () => {
    device = await Device.create({ poison: true });
    small = await Device.create({
      poison: true,
      limits: { maxStorageBufferBindingSize: 4096, minStorageBufferOffsetAlignment: 256 },
    });
    console.log(`seed ${seed} (JANUS_TEST_SEED=${seed} repeats the inputs)`);
  });
  afterAll(() => console.log(`${checks} checks of ${byOp.size} ops`));

  for (const [turn, [op, all]] of [...byOp].entries()) {
    const rows = rowsInTurn(all, turn);
    const varied = rows.filter(({ variants }) => variants?.length);
    describe(op, () => {
      it.each(rows.map((row) => [caseName(row), row] as const))("%s", async (name, row) => {
        const live = device.pool.stats.liveBytes;
        const problems: string[] = [];
        const note = (where: string, result: Awaited<ReturnType<typeof runCase>>): void => {
          checks += result.checks;
          problems.push(...result.failures.map((f) => `${where}: ${f}`));
        };
        note("default", await runCase(row, device, seed));
        for (const v of variantsInTurn(row.variants, varied.indexOf(row), varied.length))
          note(`${v.family} ${v.name}`, await runCase(row, device, seed, v));
        if (row.windows) note("windows", await runCase(row, small, seed));
        await device.sync();
        await small.sync();
        expect(problems, `${name}, seed ${seed}`).toEqual([]);
        expect(device.pool.stats.liveBytes, "bytes left over").toBe(live);
      });
    });
  }
}
