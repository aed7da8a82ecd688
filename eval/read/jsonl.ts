/** JSONL: an object per line; images as base64 texts, data URLs or paths beside the file, several as a list. */
import { createHash } from "node:crypto";
import { openFile } from "../../model/node/files.ts";
import { notContent } from "../../model/io/small_file.ts";
import { isObject } from "../../model/io/unknown.ts";
import { messageOf } from "../../engine/errors.ts";
import { EvalDataError } from "../errors.ts";
import { isStruct, keyOf } from "./table.ts";
import type { ImageCell, RawRow, Table, TableOptions } from "./table.ts";
import type { RandomAccess } from "../../model/io/bytes.ts";

const WINDOW = 4 * 2 ** 20; // bytes
const MAX_LINE = 256 * 2 ** 20;
/** Longer values cannot be a path. */
const MAX_PATH = 1024;

/** The lines of a file that are not empty, with their places. Throws `EvalDataError` for a line longer than `maxLine`. */
export async function* linesOf(
  file: RandomAccess,
  hash?: ReturnType<typeof createHash>,
  maxLine = MAX_LINE,
): AsyncGenerator<{ at: number; offset: number; bytes: Buffer }> {
  let rest = Buffer.alloc(0);
  let [base, at] = [0, 0];
  for (let read = 0; ;) {
    const newline = rest.indexOf(0x0a);
    const isLast = read === file.size;
    if (newline >= 0 || (isLast && rest.length > 0)) {
      const end = newline < 0 ? rest.length : newline;
      const bytes = rest.subarray(0, end);
      at++;
      if (bytes.some((byte) => byte > 0x20)) yield { at, offset: base, bytes };
      base += end + 1;
      rest = rest.subarray(end + 1);
      continue;
    }
    if (isLast) return;
    if (rest.length > maxLine)
      throw new EvalDataError(`${file.name}:${at + 1}: a line must have at most ${maxLine} bytes; got more`);
    const bytes = await file.read(read, Math.min(Math.max(WINDOW, rest.length), file.size - read));
    hash?.update(bytes);
    if (read === 0) {
      const problem = notContent(bytes);
      if (problem) throw new EvalDataError(`${file.name} ${problem}`);
    }
    read += bytes.length;
    rest = Buffer.concat([rest, bytes]);
  }
}

/** An object on a line. Throws `EvalDataError` with the line. */
export function parseLine(bytes: Uint8Array, where: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new EvalDataError(`${where}: a JSON object is required; ${messageOf(error)}`);
  }
  if (!isObject(value) || Array.isArray(value)) throw new EvalDataError(`${where}: a JSON object is required`);
  return value;
}

export async function openJsonl(path: string, { images, maxRecord }: TableOptions): Promise<Table> {
  const file = await openFile(path);
  try {
    const hash = createHash("md5");
    const columns = new Set<string>();
    const rows: RawRow[] = [];
    for await (const { at, offset, bytes } of linesOf(file, hash, maxRecord)) {
      const value = parseLine(bytes, `${path}:${at}`);
      const length = bytes.length;
      const again = async (): Promise<Record<string, unknown>> => parseLine(await file.read(offset, length), `${path}:${at}`); // prettier-ignore
      const fields = new Map<string, string>();
      const cells: ImageCell[] = [];
      for (const [name, cell] of Object.entries(value)) {
        columns.add(name);
        if (images.includes(name)) cells.push(...imageCells(cell, async (k) => listOf((await again())[name])[k]!));
        else if (cell !== null && !isStruct(cell))
          fields.set(name, typeof cell === "string" ? cell : JSON.stringify(cell));
      }
      rows.push({ at, fields, images: cells });
    }
    return { path, md5: hash.digest("hex"), columns: [...columns], rows, close: async () => file.close?.() };
  } catch (error) {
    await file.close?.();
    throw error;
  }
}

const listOf = (cell: unknown): string[] =>
  (Array.isArray(cell) ? cell : [cell]).map((one) => (typeof one === "string" ? one : ""));

const imageCells = (cell: unknown, load: (k: number) => Promise<string>): ImageCell[] =>
  cell === null
    ? []
    : listOf(cell).map((value, k) => ({
        key: keyOf(value),
        short: value.length <= MAX_PATH ? value : null,
        load: () => load(k),
      }));
