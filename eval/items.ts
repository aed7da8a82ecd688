/** Items: the rows of a benchmark's file as questions with images, options and answers, checked. Bad rows are set aside with the reason. */
import { stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { EvalDataError, RowError } from "./errors.ts";
import { pythonList } from "./read/table.ts";
import type { ImageCell, RawRow, Table } from "./read/table.ts";
import type { AskRecipe } from "./recipe.ts";
import { strip } from "./python.ts";
import { imageBytes } from "../model/node/image_file.ts";

export interface Item {
  readonly id: string;
  /** Row of the file, from 1. */
  readonly at: number;
  readonly question: string;
  readonly hint: string | null;
  /** Letter → text, in order; empty for questions without options. */
  readonly options: ReadonlyMap<string, string>;
  readonly answer: string;
  readonly category: string | null;
  /** Items of one group are scored together: rotations of a question, questions about one image. */
  readonly group: string | null;
  readonly images: readonly ImageCell[];
}

export interface BadRow {
  readonly at: number;
  readonly id: string | null;
  readonly reason: string;
}

export interface Items {
  readonly items: readonly Item[];
  readonly bad: readonly BadRow[];
  /** Rows of the file that the recipe's split leaves out. */
  readonly otherSplits: number;
}

/** What `pandas.read_csv` reads as NaN. */
const NAN = new Set(["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]); // prettier-ignore

/** Columns that contain images by the recipe. */
export const imageColumns = (recipe: AskRecipe): readonly string[] => recipe.columns.image;

type Columns = AskRecipe["columns"];

/** In a recipe: the number of the row, for files without a column of ids. */
const ROW = "@row";

/** Checks the rows of a table. Throws `EvalDataError` for a missing column or an id that two rows share. */
export function itemsOf(table: Table, recipe: AskRecipe): Items {
  const need = ["id", "question", "answer"] as const;
  for (const purpose of need) requireColumn(table, purpose, recipe.columns[purpose]);
  requireColumn(table, "image", recipe.columns.image);
  if (recipe.scorer.name === "mme") requireColumn(table, "group", recipe.columns.group ?? []);
  const read = new RowReader(table, recipe);
  const byId = new Map<string, RawRow>();
  for (const row of table.rows) {
    const id = read.value(row, recipe.columns.id);
    if (id === null && recipe.scorer.name === "circular")
      throw new EvalDataError(`${table.path}, row ${row.at}: an index is required, since it says which rows are rotations of one question; got none`); // prettier-ignore
    if (id === null) continue;
    const other = byId.get(id);
    if (other) throw new EvalDataError(`${table.path}: each row must have its own ${read.name(recipe.columns.id)}; rows ${other.at} and ${row.at} both have ${JSON.stringify(id)}. Remove one`); // prettier-ignore
    byId.set(id, row);
  }
  const items: Item[] = [];
  const bad: BadRow[] = [];
  let otherSplits = 0;
  for (const row of table.rows) {
    const { split } = recipe.columns;
    if (recipe.split && split && table.columns.some((name) => split.includes(name)) && read.value(row, split) !== recipe.split) {
      otherSplits++;
      continue;
    } // prettier-ignore
    try {
      items.push(read.item(row, byId));
    } catch (error) {
      if (!(error instanceof RowError)) throw error;
      bad.push({ at: row.at, id: read.value(row, recipe.columns.id), reason: error.reason });
    }
  }
  if (items.length === 0 && bad.length === 0)
    throw new EvalDataError(`${table.path}: at least one row is required${recipe.split === undefined ? "" : ` with the split ${JSON.stringify(recipe.split)}`}; got none`); // prettier-ignore
  return { items, bad, otherSplits };
}

function requireColumn({ path, columns }: Table, purpose: keyof Columns, names: readonly string[]): void {
  if (names.some((name) => name === ROW || columns.includes(name))) return;
  throw new EvalDataError(
    `${path}: a column for the ${purpose} is required (${names.join(" or ")}); got ${columns.join(", ")}. Use the file that the recipe names, or set columns.${purpose}`,
  );
}

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

class RowReader {
  private readonly table: Table;
  private readonly recipe: AskRecipe;

  constructor(table: Table, recipe: AskRecipe) {
    this.table = table;
    this.recipe = recipe;
  }

  /** The first of `names` that the file has. */
  name(names: readonly string[] = []): string | undefined {
    return names.find((name) => name === ROW || this.table.columns.includes(name));
  }

  /** A text of the row, null if it is absent by the recipe's rule. */
  value(row: RawRow, names?: readonly string[]): string | null {
    const name = this.name(names);
    if (name === ROW) return String(row.at);
    const text = name === undefined ? undefined : row.fields.get(name);
    if (text === undefined || text === "") return null;
    return this.recipe.missing === "pandas" && NAN.has(text) ? null : text;
  }

  item(row: RawRow, byId: ReadonlyMap<string, RawRow>): Item {
    const { columns, scorer } = this.recipe;
    const need = (purpose: "id" | "question" | "answer"): string => {
      const value = this.value(row, columns[purpose]);
      if (value === null) throw this.bad(row, `the ${this.name(columns[purpose])} is missing`);
      return value;
    };
    const id = need("id");
    const options = this.options(row);
    const item = {
      id,
      at: row.at,
      question: need("question"),
      hint: this.value(row, columns.hint),
      options,
      answer: this.answer(row, need("answer"), options),
      category: this.value(row, columns.category),
      group: this.group(row, id),
      images: this.images(row, byId),
    };
    if (options.size === 0 && (scorer.name === "circular" || scorer.name === "choice"))
      throw this.bad(row, "a multiple-choice question must have options; got none");
    return item;
  }

  private bad(row: RawRow, reason: string): RowError {
    return new RowError(`${this.table.path}, row ${row.at}`, reason);
  }

  private options(row: RawRow): Map<string, string> {
    const { columns } = this.recipe;
    const options = new Map<string, string>();
    for (const [letter, names] of Object.entries(columns.options ?? {})) {
      const text = this.value(row, names);
      if (text !== null) options.set(letter, text);
    }
    const list = options.size === 0 ? this.value(row, columns.optionList) : null;
    if (list === null) return options;
    const texts = pythonList(list);
    if (!texts || texts.length > LETTERS.length) throw this.bad(row, `the options must be a list of at most ${LETTERS.length}; got ${JSON.stringify(list.slice(0, 80))}`); // prettier-ignore
    for (const [i, text] of texts.entries()) options.set(LETTERS[i]!, text);
    return options;
  }

  private answer(row: RawRow, answer: string, options: ReadonlyMap<string, string>): string {
    const { name } = this.recipe.scorer;
    if (name === "yes-no" || name === "mme") {
      const word = strip(answer).toLowerCase();
      if (word === "yes") return "Yes";
      if (word === "no") return "No";
      throw this.bad(row, `the answer must be Yes or No; got ${JSON.stringify(answer.slice(0, 80))}`);
    }
    const isChoice = name === "circular" || name === "choice" || (name === "mmmu" && options.size > 0);
    if (isChoice && !options.has(answer))
      throw this.bad(row, `the answer must be one of the letters ${[...options.keys()].join(", ") || "of its options"}; got ${JSON.stringify(answer.slice(0, 80))}`); // prettier-ignore
    return answer;
  }

  private group(row: RawRow, id: string): string | null {
    const { columns, scorer } = this.recipe;
    if (scorer.name === "circular") {
      if (!/^(0|[1-9]\d{0,14})$/.test(id)) throw new EvalDataError(`${this.table.path}, row ${row.at}: the index must be a whole number of at most 15 digits, since rotations of a question have the index + 1,000,000 k; got ${JSON.stringify(id)}`); // prettier-ignore
      return String(Number(id) % 1_000_000);
    }
    if (!columns.group) return null;
    const group = this.value(row, columns.group);
    if (group === null) throw this.bad(row, `the ${this.name(columns.group)} is missing`);
    return group;
  }

  /** The images of a row; a value that is the id of another row stands for the images of that one. */
  private images(row: RawRow, byId: ReadonlyMap<string, RawRow>): readonly ImageCell[] {
    if (row.images.length === 0) throw this.bad(row, "an image is required; got an empty cell");
    return row.images.flatMap((cell) => {
      const other = cell.short === null ? undefined : byId.get(cell.short);
      if (!other) return [cell];
      if (other.images.length === 0 || other.images.some(({ short }) => short !== null && byId.has(short)))
        throw this.bad(row, `its image is that of row ${JSON.stringify(cell.short)}, which has none of its own`);
      return other.images;
    });
  }
}

/** Number of questions with fewer rows than options: each option should be the first once. */
export function withoutRotations({ items }: Items): number {
  const rows = new Map<string | null, number>();
  for (const { group } of items) rows.set(group, (rows.get(group) ?? 0) + 1);
  return items.filter(({ id, group, options }) => id === group && rows.get(group)! < options.size).length;
}

const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

/** The bytes of the image file of a cell: base64, a data URL, or a path beside the benchmark's file. Throws `RowError`. */
export async function imageFile(cell: ImageCell, table: string, where: string): Promise<Uint8Array> {
  const value = await cell.load();
  if (typeof value !== "string") {
    if (value.length === 0) throw new RowError(where, "its image is empty");
    return value;
  }
  const text = value.replace(/^data:[a-z0-9/.+-]*;base64,/i, "").replace(/\s+/g, "");
  if (cell.short !== null && !value.startsWith("data:")) {
    const path = join(dirname(table), value);
    if (value !== "" && (await stat(path).then((there) => there.isFile(), () => false))) return imageBytes(path); // prettier-ignore
  }
  if (text.length % 4 !== 0 || !BASE64.test(text))
    throw new RowError(where, `its image must be base64; got ${JSON.stringify(value.slice(0, 40))}${cell.short === null ? "…" : ", and no row or file of that name"}`); // prettier-ignore
  return Buffer.from(text, "base64");
}
