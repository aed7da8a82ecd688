/** The rows of some families of the table of cases, forward and gradients, on the GPU of this machine. */
import "./quick_compile.ts";
import { afterAll, describe, expect, it } from "vitest";
import { Device } from "../index.ts";
import { families } from "./cases.ts";
import type { Family } from "./cases.ts";
import { caseName, runCase } from "./harness.ts";
import type { Case } from "./harness.ts";
import { isLong } from "./long.ts";
import { chooseRuns, runsOf } from "./short_form.ts";

/** The same inputs every time, so that a change is judged and not chance; JANUS_TEST_SEED asks for others (docs/kernels.md). */
const seed = Number(process.env["JANUS_TEST_SEED"] ?? 1);

/**
 * The rows of an op. In the short form those with 16-bit inputs are of one 16-bit type if the op has rows of both: f16 and bf16 turn about, op by
 * op, for what differs between them is how a kernel loads and stores, and all kernels do that by the same libraries. Subgroup matrices take f16 alone.
 */
function rowsInTurn(rows: readonly Case[], turn: number, { capabilities }: Device): readonly Case[] {
  const [kept, left] = turn % 2 ? (["f16", "bf16"] as const) : (["bf16", "f16"] as const);
  const has = ({ inputs }: Case, dtype: string): boolean => inputs.some((input) => input.dtype === dtype);
  if (isLong || capabilities.subgroupMatrix.length || !rows.some((row) => has(row, kept))) return rows;
  return rows.filter((row) => has(row, kept) || !has(row, left));
}

export async function testOps(names: readonly Family[]): Promise<void> {
  const byOp = new Map<string, Case[]>();
  for (const c of names.flatMap((name) => families[name])) byOp.set(c.op, [...(byOp.get(c.op) ?? []), c]);
  const device = await Device.create({ poison: true });
  const small = await Device.create({
    poison: true,
    limits: { maxStorageBufferBindingSize: 4096, minStorageBufferOffsetAlignment: 256 },
  });
  console.log(`seed ${seed} (JANUS_TEST_SEED=${seed} repeats the inputs)`);
  let checks = 0;
  afterAll(() => {
    console.log(`${checks} checks of ${byOp.size} ops`);
    device.destroy();
    small.destroy();
  });

  for (const [turn, [op, all]] of [...byOp].entries()) {
    const runs = isLong ? all.flatMap(runsOf) : await chooseRuns(rowsInTurn(all, turn, device), [device, small]);
    const byRow = all.map((row) => runs.filter((run) => run.row === row)).filter((some) => some.length);
    describe(op, () => {
      it.each(byRow.map((some) => [caseName(some[0]!.row), some] as const))("%s", async (name, some) => {
        const live = device.pool.stats.liveBytes;
        const problems: string[] = [];
        for (const { row, force, windows } of some) {
          const result = await runCase(row, windows ? small : device, seed, force);
          checks += result.checks;
          const where = windows ? "windows" : force ? `${force.family} ${force.name}` : "default";
          problems.push(...result.failures.map((failure) => `${where}: ${failure}`));
        }
        await device.sync();
        await small.sync();
        expect(problems, `${name}, seed ${seed}`).toEqual([]);
        expect(device.pool.stats.liveBytes, "bytes left over").toBe(live);
      });
    });
  }
}
