/** Finds the files of a benchmark in a person's folder. Nothing is downloaded; a missing file is an error that says what to get. */
import { createHash } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { EvalDataError } from "./errors.ts";
import { openTable } from "./read/open.ts";
import type { RawRow, Table } from "./read/table.ts";
import type { AskRecipe, DataFile, Recipe } from "./recipe.ts";
import { imageColumns } from "./items.ts";

const ENDINGS = ["tsv", "jsonl", "parquet"];

const isThere = (path: string): Promise<"file" | "folder" | null> =>
  stat(path).then((there) => (there.isDirectory() ? "folder" : there.isFile() ? "file" : null), () => null); // prettier-ignore

/** `12.3 MB` or that it is not known. */
export const sizeText = (bytes: number | null): string =>
  bytes === null ? "size not known" : bytes < 1e6 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

/** What is known of a file to get. */
export const detailsText = ({ bytes, md5, license, note }: DataFile): string =>
  `${sizeText(bytes)}; licence ${license ?? "not known"}; MD5 ${md5 ?? "not known"}${note ? `; ${note}` : ""}`;

const fileText = (file: DataFile): string => `${file.name} from ${file.url} (${detailsText(file)})`;

/** The paths of a benchmark's data. Throws `EvalDataError` with what to get. */
export async function findData(folder: string, recipe: Recipe): Promise<readonly string[]> {
  const { benchmark, files } = recipe;
  if (recipe.kind === "draw") return findDrawn(folder, recipe);
  for (const name of [...files.map((file) => file.name), ...ENDINGS.map((ending) => `${benchmark}.${ending}`)]) {
    const path = join(folder, name);
    if ((await isThere(path)) === "file") return [path];
  }
  const parts = join(folder, benchmark);
  if ((await isThere(parts)) === "folder") {
    const names = (await readdir(parts)).filter((name) => name.endsWith(".parquet")).sort();
    if (names.length > 0) return names.map((name) => join(parts, name));
  }
  throw new EvalDataError(
    `${benchmark}: a data file is required in ${folder}; got none. Get ${files.map(fileText).join(", or ")}; or put the same data there as ${ENDINGS.map((ending) => `${benchmark}.${ending}`).join(", ")} or ${benchmark}/*.parquet`,
  );
}

/** GenEval's metadata; DPG's prompts and its CSV, if it is there (it is needed only to score). */
async function findDrawn(folder: string, { benchmark, files }: Recipe): Promise<readonly string[]> {
  const paths: string[] = [];
  for (const { name } of files) {
    const path = [join(folder, name), join(folder, benchmark, name)];
    for (const one of path) if ((await isThere(one)) !== null && !paths.some((other) => basename(other) === name)) paths.push(one); // prettier-ignore
  }
  if (paths.length > 0 && basename(paths[0]!) === files[0]!.name) return paths;
  throw new EvalDataError(`${benchmark}: ${files[0]!.name} is required in ${folder}; got none. Get ${files.map(fileText).join(" and ")}`); // prettier-ignore
}

/** Opens the files of a benchmark as one table. */
export async function openData(paths: readonly string[], recipe: AskRecipe): Promise<Table> {
  const options = { images: imageColumns(recipe) };
  const [first, ...rest] = paths;
  const table = await openTable(first!, options);
  if (rest.length === 0) return table;
  const tables = [table];
  try {
    for (const path of rest) tables.push(await openTable(path, options));
  } catch (error) {
    for (const one of tables) await one.close();
    throw error;
  }
  const rows: RawRow[] = [];
  for (const one of tables) for (const row of one.rows) rows.push({ ...row, at: rows.length + 1 });
  return {
    path: table.path,
    md5: createHash("md5").update(tables.map(({ md5 }) => md5).join("")).digest("hex"),
    columns: [...new Set(tables.flatMap(({ columns }) => columns))],
    rows,
    close: async () => {
      for (const one of tables) await one.close();
    },
  }; // prettier-ignore
}

/** The recipe's MD5 of a file of this name; null if it is not known. */
export const expectedMd5 = (path: string, { files }: Recipe): string | null =>
  files.find(({ name }) => name === basename(path))?.md5 ?? null;
