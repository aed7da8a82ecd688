/** The files that other programs made (data_files/make.py), and what these say their rows are. */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

/** A row as make.py writes it: images by the start of their hash, or by their path. */
export interface Row {
  readonly prompt?: string;
  readonly text?: string;
  readonly image?: string;
  readonly path?: string;
  readonly turns?: readonly (readonly [role: string, text: string])[];
  readonly images?: readonly string[];
}

const { files, rows } = JSON.parse(
  gunzipSync(readFileSync(new URL("data_files/files.json.gz", import.meta.url))).toString(),
) as { files: Record<string, string>; rows: Record<string, Row[]> };

export const dataFileNames = Object.keys(files);
export const dataFile = (name: string): Buffer => Buffer.from(files[name]!, "base64");
export const dataRows = (name: string): readonly Row[] => rows[name]!;
