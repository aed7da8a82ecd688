/** All rows, and which of them are asked for. */
import { ArgumentError } from "../../index.ts";
import { modelShapeRows } from "./model_shapes.ts";
import { opRows } from "./ops.ts";
import { ROW_SETS, dtypeOf } from "./row.ts";
import type { Row, RowSet } from "./row.ts";
import { largeRows, tableRows } from "./table.ts";

export { ROW_SETS } from "./row.ts";
export type { Row, RowSet } from "./row.ts";

export interface RowFilter {
  /** Part of the name, in any case. */
  readonly filter?: string;
  readonly dtype?: string;
  readonly sets?: readonly RowSet[];
}

const MAKERS: Readonly<Record<RowSet, () => Row[]>> = {
  table: tableRows,
  ops: opRows,
  "1B": modelShapeRows,
  large: largeRows,
};

/** Rows that fit. Throws `ArgumentError` if none does. */
export function selectRows({ filter = "", dtype, sets = ["table"] }: RowFilter): Row[] {
  const all = sets.flatMap((set) => MAKERS[set]());
  const wanted = filter.toLowerCase();
  const found = all.filter((row) => row.name.toLowerCase().includes(wanted) && (!dtype || dtypeOf(row) === dtype));
  if (found.length) return found;
  throw new ArgumentError(
    `bench: --filter ${JSON.stringify(filter)}${dtype ? ` with --dtype ${dtype}` : ""} must name rows of ${sets.join(", ")}; got none. Sets are ${ROW_SETS.join(", ")}; names begin with the op, e.g. ${all[0]!.name}.`,
  );
}
