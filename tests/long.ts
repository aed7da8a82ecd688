/** Whether tests take their long form, which `npm run test:long` asks for: more kills, whole grids. */
export const isLong = Boolean(process.env["JANUS_TEST_LONG"]);

/** Rows of an op that each of its variants is forced to in the short form. */
const ROWS_EACH = 4;

/**
 * Variants that a row is forced to, the `row`th of `rows` of its op that have some: all of them in the long form; in the short one each variant
 * in its turn, to a few rows from the first to the last.
 */
export function variantsInTurn<T>(variants: readonly T[] | undefined, row: number, rows: number): readonly T[] {
  if (!variants?.length || isLong) return variants ?? [];
  const turns = Math.min(rows, ROWS_EACH * variants.length);
  const turn = Math.ceil((row * turns) / rows);
  return Math.floor((turn * rows) / turns) === row ? [variants[turn % variants.length]!] : [];
}
