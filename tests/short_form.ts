/** Which runs of the table's rows the short form of the suite makes: a few of each op that together launch all that its rows would. */
import { Device } from "../index.ts";
import type { Constants } from "../engine/index.ts";
import type { Launch } from "../index.ts";
import type { Case, Input } from "./harness.ts";
import { runOnNull } from "./null_runs.ts";
import { sizeOf } from "./reference.ts";

/** One run of a row: with its default variant or a forced one, or on the device whose windows are small. */
export interface Run {
  readonly row: Case;
  readonly force?: NonNullable<Case["variants"]>[number];
  readonly windows?: true;
}

/** All runs of a row. */
export const runsOf = (row: Case): Run[] => [
  { row },
  ...(row.variants ?? []).map((force) => ({ row, force })),
  ...(row.windows ? [{ row, windows: true as const }] : []),
];

type Place = Pick<Input, "shape" | "dtype" | "layout">;

const NARROW = new Set(["f16", "bf16"]);
const isNarrow = ({ inputs }: Case): boolean => inputs.some(({ dtype }) => NARROW.has(dtype ?? "f32"));
const isOdd = ({ inputs }: Case): boolean => inputs.some(({ shape }) => shape.some((n) => n > 4 && n % 4 > 0));
const kind = ({ dtype = "f32" }: Place): string => (NARROW.has(dtype) ? "16-bit" : dtype);
const outline = ({ shape }: Place): string => shape.map((n) => (n > 1 ? "n" : n)).join("");

/** What distinguishes a row from the others of its op, but for sizes: dtypes, outlines of shapes, layouts, options, which inputs have gradients. */
function rowTraits({ inputs, note = "" }: Case, result: Place): string[] {
  return [
    `dtypes ${inputs.map(kind).join()} ${kind(result)}`,
    `shapes ${inputs.map(outline).join()} ${outline(result)}`,
    `note ${note.replaceAll(/\d\d+/g, "n")}`,
    `constant ${inputs.map(({ constant = false }) => constant).join()}`,
    ...inputs.map(({ layout = "contiguous" }) => `layout ${layout}`),
  ];
}

/** Constants by which a kernel takes other paths: 0, 1 or more of something. How many more is a matter of sizes. */
const paths = (constants: Constants): string =>
  Object.entries(constants)
    .map(([name, value]) => `${name} ${typeof value === "number" && value > 1 ? "n" : value}`)
    .join();

/** What a launch adds: its kernel with its paths or for a forced variant, and each of these with odd shapes; with 16-bit inputs, in windows, on a folded grid. */
function launchTraits({ pipeline: { kernel, constants }, grid }: Launch, { row, force, windows }: Run): string[] {
  const variant = force ? `${kernel.name} for ${force.name}` : `${kernel.name} ${paths(constants)}`;
  return [
    variant,
    ...(isOdd(row) ? [`${variant} odd`] : []),
    ...(isNarrow(row) ? [`${kernel.name} 16-bit`] : []),
    ...(windows ? [`${kernel.name} windows`] : []),
    ...(grid[1] > 1 ? [`${kernel.name} folded`] : []),
  ];
}

/** Elements of inputs after which a run counts as two. */
const ELEMENTS = 1000;

/** Runs of one op: the one that adds most for its size, until none adds anything. */
function cover(traits: ReadonlyMap<Run, ReadonlySet<string>>): Run[] {
  const cost = ({ row }: Run): number => 1 + row.inputs.reduce((sum, { shape }) => sum + sizeOf(shape), 0) / ELEMENTS;
  const missing = new Set([...traits.values()].flatMap((of) => [...of]));
  // What runs with odd shapes need not run with even ones too.
  for (const trait of missing) if (missing.has(`${trait} odd`)) missing.delete(trait);
  const chosen: Run[] = [];
  while (missing.size) {
    let best: { run: Run; worth: number } | undefined;
    for (const [run, of] of traits) {
      const worth = [...of].filter((trait) => missing.has(trait)).length / cost(run);
      if (worth > (best?.worth ?? 0)) best = { run, worth };
    }
    chosen.push(best!.run);
    for (const trait of traits.get(best!.run)!) missing.delete(trait);
  }
  return chosen;
}

/**
 * Runs of `rows`, which are of one op, that have every trait between them: found on null devices with the capabilities of `devices`, the second of
 * which has small windows.
 */
export async function chooseRuns(rows: readonly Case[], devices: readonly [Device, Device]): Promise<Run[]> {
  const [whole, small] = await Promise.all(
    devices.map(({ capabilities }) => Device.create({ backend: "null", capabilities })),
  );
  const traits = new Map<Run, Set<string>>();
  for (const run of rows.flatMap(runsOf)) {
    const device = run.windows ? small! : whole!;
    const own = new Set<string>();
    const listener = (launch: Launch): void => launchTraits(launch, run).forEach((trait) => own.add(trait));
    device.onLaunch(listener);
    const result = runOnNull(run.row, device, run.force);
    device.offLaunch(listener);
    rowTraits(run.row, result).forEach((trait) => own.add(trait));
    if (run.row.crossesTiles) own.add(`tiles of ${rows.indexOf(run.row)} for ${run.force?.name}`);
    traits.set(run, own);
  }
  whole!.destroy();
  small!.destroy();
  return cover(traits);
}
