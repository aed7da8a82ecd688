/** Opens a benchmark's file, whatever its format. */
import { EvalDataError } from "../errors.ts";
import type { Table, TableOptions } from "./table.ts";

/** Opens a file by the end of its name. Throws `EvalDataError`, `FileError`. */
export async function openTable(path: string, options: TableOptions): Promise<Table> {
  if (/\.tsv$/i.test(path)) return (await import("./tsv.ts")).openTsv(path, options);
  if (/\.jsonl?$/i.test(path)) return (await import("./jsonl.ts")).openJsonl(path, options);
  if (/\.parquet$/i.test(path)) return (await import("./parquet.ts")).openParquet(path, options);
  throw new EvalDataError(`${path}: a benchmark's file must end in .tsv, .jsonl or .parquet; rename or convert it`);
}
