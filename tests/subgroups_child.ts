/**
 * Run by tier1/subgroups.test.ts in a process of its own, since the environment sets the subgroup size of software Vulkan when it is loaded:
 * checks a sample of the rows whose launches use subgroups and prints what it found as one line of JSON.
 */
import { Device, specialise } from "../index.ts";
import type { Launch } from "../index.ts";
import { cases } from "./cases.ts";
import { caseName, runCase } from "./harness.ts";
import type { Case } from "./harness.ts";
import { runOnNull } from "./null_runs.ts";
import { usesSubgroups } from "./reflection.ts";

type Force = NonNullable<Case["variants"]>[number];

const device = await Device.create({ poison: true });
const seed = Number(process.env["JANUS_TEST_SEED"] ?? 1);

// Which rows use subgroups on this device, and with which variant: as on the null device of the same capabilities.
const found = new Map<string, { row: Case; force: Force | undefined; kernels: Set<string> }[]>();
const problems: string[] = [];
const paper = await Device.create({ backend: "null", capabilities: device.capabilities });
for (const row of cases) {
  for (const force of [undefined, ...(row.variants ?? [])]) {
    const kernels = new Set<string>();
    const listener = ({ pipeline: { kernel, constants, uses } }: Launch): void => {
      if (usesSubgroups(specialise(kernel, constants, uses))) kernels.add(kernel.name);
    };
    paper.onLaunch(listener);
    try {
      runOnNull(row, paper, force);
    } catch (error) {
      problems.push(`${caseName(row)}${force ? ` (${force.name})` : ""}: ${String(error)}`);
    }
    paper.offLaunch(listener);
    const key = [force?.name ?? "default", ...[...kernels].toSorted()].join(" ");
    if (kernels.size) found.set(key, [...(found.get(key) ?? []), { row, force, kernels }]);
  }
}
paper.destroy();

let checks = 0;
const covered = new Set<string>();
for (const all of found.values()) {
  // The middle one of those that launch the same kernels.
  for (const { row, force, kernels } of [all[all.length >> 1]!]) {
    const result = await runCase(row, device, seed, force);
    await device.sync();
    checks += result.checks;
    for (const name of kernels) covered.add(name);
    problems.push(
      ...result.failures.map((text) => `${caseName(row)}${force ? ` (${force.name})` : ""}, seed ${seed}: ${text}`),
    );
  }
}
console.log(
  JSON.stringify({
    adapter: device.name,
    subgroups: device.capabilities.subgroups,
    checks,
    kernels: [...covered].toSorted(),
    problems,
  }),
);
device.destroy();
