/**
 * Choice of kernel variants: each family has one table of variants, and the first that runs on the device and is
 * preferred for the problem is taken. Subgroup matrices and quantised weights will be additional rows. Only this module
 * lets tests and the bench force a variant by name.
 */
import { ArgumentError } from "../../engine/index.ts";
import type { Capabilities } from "../../engine/index.ts";

/** One row of a family's table: a way to compute problems `P`, and the choice `C` that a launch needs. Its functions are pure. */
export interface Variant<P, C> {
  readonly name: string;
  /** False if the device lacks a requirement, or if the problem is of another kind; default: always true. */
  readonly runs?: (capabilities: Capabilities, problem: P) => boolean;
  /** True if no later row of the table is better; default: always. `false` for variants that are only forced. */
  readonly preferred?: false | ((capabilities: Capabilities, problem: P) => boolean);
  /** Kernels and constants. */
  readonly choose: (capabilities: Capabilities, problem: P) => C;
  /** The variant that replaces it if it is forced and does not run; default: the one that runs unforced. */
  readonly instead?: string;
}

/** Returns the choice of the table of `family` for `problem`. Throws `ArgumentError` if a forced variant is not in the table. */
export function chooseVariant<P, C>(
  family: string,
  table: readonly Variant<P, C>[],
  capabilities: Capabilities,
  problem: P,
): C {
  const runs = (v: Variant<P, C>): boolean => v.runs?.(capabilities, problem) ?? true;
  let name = forced.get(family);
  while (name !== undefined) {
    const wanted = table.find((v) => v.name === name);
    if (!wanted)
      throw new ArgumentError(
        `${family}: the variant must be one of ${table.map((v) => v.name).join(", ")}; got "${name}". Force one of these.`,
      );
    if (runs(wanted)) return wanted.choose(capabilities, problem);
    name = wanted.instead;
  }
  const best = table.find((v) => v.preferred !== false && runs(v) && (v.preferred?.(capabilities, problem) ?? true));
  return best!.choose(capabilities, problem); // the last row of a table always runs
}

const forced = new Map<string, string>();

/** Runs `fn` (synchronous) with the kernel family `family` restricted to `variant`. */
export function forceVariant<T>(family: string, variant: string, fn: () => T): T {
  const before = forced.get(family);
  forced.set(family, variant);
  try {
    return fn();
  } finally {
    if (before === undefined) forced.delete(family);
    else forced.set(family, before);
  }
}
