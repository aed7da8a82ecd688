/** Where a loader is in its data, as checkpoints have it, and whether that is of the same data. */
import { LoaderStateError } from "../../data/errors.ts";
import { TASKS } from "../../samples.ts";
import type { Task } from "../../samples.ts";
import type { SourceIndex } from "./index_file.ts";
import type { OrderVersion } from "./order.ts";

/** All that resuming needs; JSON. */
export interface LoaderState {
  /** How the orders of samples and of the tasks in a step are computed. A run keeps the version that it began with. */
  readonly version: OrderVersion;
  /** Steps that are done. */
  readonly step: number;
  /** Samples of each task that were met, bad ones too. */
  readonly cursors: Readonly<Record<Task, number>>;
  /** Samples that were bad, over all tasks and epochs. */
  readonly skipped: number;
  /**
   * Records of each task that were bad, in the order in which they were met, separated by commas: one string, because a list of a million numbers
   * would take a line of the file each. A record counts once in all epochs. Absent in states of earlier versions.
   */
  readonly bad?: Readonly<Record<Task, string>>;
  /** Distinguishes seed, batch, ratios and sources from others. */
  readonly data: string;
  /** What `data` is a hash of, to say what differs (absent in states of earlier versions). */
  readonly of?: DataParts;
}

/** What the samples of a run depend on. */
export interface DataParts {
  readonly seed: number;
  readonly batch: number;
  /** In the order of `TASKS`, as are the sources. */
  readonly ratios: readonly number[];
  readonly sources: readonly (readonly { readonly hash: string; readonly count: number }[])[];
}

/** Throws `LoaderStateError` for a state that is damaged or of other data than `data` is the hash of. `differences` says what differs. */
export function checkState(state: LoaderState, data: string, differences: () => string): void {
  const isCount = (value: unknown): boolean => typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
  const isWhole =
    [state.step, state.skipped, ...TASKS.map((task) => state.cursors?.[task])].every(isCount) &&
    TASKS.every((task) => !/[^\d,]/.test(state.bad?.[task] ?? ""));
  if (![1, 2].includes(state.version) || !isWhole)
    throw new LoaderStateError(
      `the saved state of the data has version ${String(state.version)} or is damaged; this release reads versions 1 and 2. Resume from another checkpoint`,
    );
  if (state.data !== data)
    throw new LoaderStateError(
      `the state is of other data: ${differences()}. Restore the data to resume, or begin a new run`,
    );
}

/** What of the data is not as it was saved. */
export function differences(
  saved: DataParts | undefined,
  current: DataParts,
  sources: readonly (readonly Pick<SourceIndex, "spec">[])[],
): string {
  if (!saved) return "sources, seed, batch or ratios are not those it was saved with";
  const found: string[] = [];
  for (const name of ["seed", "batch"] as const)
    if (saved[name] !== current[name]) found.push(`${name} was ${saved[name]} and is ${current[name]}`);
  for (const [t, task] of TASKS.entries()) {
    if (saved.ratios[t] !== current.ratios[t])
      found.push(`the ratio of ${task} was ${saved.ratios[t]} and is ${current.ratios[t]}`);
    const [before, after] = [saved.sources[t] ?? [], current.sources[t]!];
    if (before.length !== after.length) found.push(`${task} had ${before.length} sources and has ${after.length}`);
    else if (isReordered(before, after)) found.push(`the sources of ${task} are in another order`);
    else
      for (const [i, { hash, count }] of after.entries())
        if (hash !== before[i]!.hash)
          found.push(
            `${sources[t]![i]!.spec.path} has other content: ${before[i]!.count} records were indexed, now ${count}`,
          );
  }
  return found.join("; ");
}

const isReordered = (before: DataParts["sources"][number], after: DataParts["sources"][number]): boolean => {
  const [a, b] = [before, after].map((list) => list.map(({ hash }) => hash));
  return a!.join() !== b!.join() && [...a!].sort().join() === [...b!].sort().join();
};
