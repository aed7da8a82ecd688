/** The path of names (`layers.0.mlp/linear`) that launches carry. */

let label = "";

/** Returns the current path, which launches record. */
export const currentLabel = (): string => label;

/** Runs `fn` with `name` appended to the path. */
export function withLabel<T>(name: string, fn: () => T, separator = "."): T {
  const before = label;
  label = label ? `${label}${separator}${name}` : name;
  try {
    return fn();
  } finally {
    label = before;
  }
}
