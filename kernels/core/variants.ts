/**
 * Which variant of a kernel runs: each family states a pure function (capabilities, dtypes, shape) → variant; tests and the bench force one.
 */
const forced = new Map<string, string>();

/** Runs `fn` (synchronous) with the kernel family `family` held to `variant`. */
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

/** The variant that a test or bench asked for; undefined in ordinary runs. */
export const forcedVariant = (family: string): string | undefined => forced.get(family);
