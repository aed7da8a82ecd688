/**
 * Choice of kernel variants: each family has one table of variants, and the first that runs on the device and is
 * preferred for the problem is taken. Only this module lets tests and the bench force a variant by name.
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

/** A family of kernels: its variants, of which the last always runs, and how its problems are classed for measurements. */
export interface Family<P, C> {
  readonly name: string;
  readonly table: readonly Variant<P, C>[];
  /** Problems of one class have the same best variant on a device; `bucket` rounds sizes for it. */
  readonly classOf: (problem: P) => string;
}

/** Returns the choice of `family` for `problem`. Throws `ArgumentError` if a forced variant is not in the table. */
export function chooseVariant<P, C>(family: Family<P, C>, capabilities: Capabilities, problem: P): C {
  const { name: of, table } = family;
  const runs = (v: Variant<P, C>): boolean => v.runs?.(capabilities, problem) ?? true;
  const wantedBy = forced.get(of);
  const isForced = wantedBy && (wantedBy.problem === undefined || wantedBy.problem === family.classOf(problem));
  let name = isForced ? wantedBy.variant : undefined;
  while (name !== undefined) {
    const wanted = table.find((v) => v.name === name);
    if (!wanted)
      throw new ArgumentError(
        `${of}: the variant must be one of ${table.map((v) => v.name).join(", ")}; got "${name}". Force one of these.`,
      );
    if (runs(wanted)) return wanted.choose(capabilities, problem);
    name = wanted.instead;
  }
  const tuned = capabilities.tuned[of]?.[family.classOf(problem)];
  // A table may be of another release, whose variants have other names: then our preference holds.
  const best =
    table.find((v) => v.name === tuned && runs(v)) ??
    table.find((v) => v.preferred !== false && runs(v) && (v.preferred?.(capabilities, problem) ?? true))!;
  observer?.({
    family: of,
    problem: family.classOf(problem),
    chosen: best.name,
    candidates: table.filter(runs).map((v) => v.name),
  });
  return best.choose(capabilities, problem);
}

/** `n` rounded up to a power of two, at most `most`: problems of like sizes are of one class. */
export const bucket = (n: number, most = 8192): number => Math.min(most, 2 ** Math.ceil(Math.log2(Math.max(1, n))));

/** A choice that a call made. */
export interface Choice {
  readonly family: string;
  /** Class of the problem. */
  readonly problem: string;
  readonly chosen: string;
  /** The variants that run. */
  readonly candidates: readonly string[];
}

let observer: ((choice: Choice) => void) | null = null;

/** Runs `fn` (synchronous) and returns the choices of variants that it made, each once. */
export function observeVariants(fn: () => void): Choice[] {
  const found = new Map<string, Choice>();
  observer = (choice) => void found.set(`${choice.family} ${choice.problem}`, choice);
  try {
    fn();
  } finally {
    observer = null;
  }
  return [...found.values()];
}

const forced = new Map<string, { readonly variant: string; readonly problem: string | undefined }>();

/** Runs `fn` (synchronous) with the kernel family `family` restricted to `variant`; with `problem`, for problems of that class only. */
export function forceVariant<T>(family: string, variant: string, fn: () => T, problem?: string): T {
  const before = forced.get(family);
  forced.set(family, { variant, problem });
  try {
    return fn();
  } finally {
    if (before === undefined) forced.delete(family);
    else forced.set(family, before);
  }
}
