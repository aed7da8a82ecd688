/** The files that other programs made (data_files/make.py), and what these say their rows are. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { inlineBytes } from "../model/node/image_file.ts";
import { indexSource } from "../train/node/data/index_file.ts";

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

/** Writes samples about images, and images with captions, in three formats; those of JSONL have the captions in a field TEXT. */
export async function writeSameSamples(
  folder: string,
): Promise<Record<"jsonl" | "tar" | "parquet", readonly string[]>> {
  mkdirSync(folder);
  const write = (name: string, content: string | Uint8Array): string => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };
  const [talk, pairs] = [dataRows("json_records.tar"), dataRows("webdataset.tar")];
  const shard = write("gen.tar", dataFile("webdataset.tar"));
  const images = await indexSource({ path: shard }, join(folder, "cache"));
  for (let i = 0; i < pairs.length; i++) {
    const raw = await images.read(i);
    write(`${i}.png`, inlineBytes(raw.task === "gen" ? raw.image : ""));
  }
  await images.close();
  const lines = (records: readonly object[]): string => records.map((record) => `${JSON.stringify(record)}\n`).join("");
  const spoken = talk.map(({ turns }, i) => ({
    image: `${i}.png`,
    messages: turns!.map(([role, content]) => ({ role, content: role === "user" ? `<image>\n${content}` : content })),
  }));
  const named = pairs.map(({ prompt }, i) => ({ TEXT: prompt, image: `${i}.png` }));
  return {
    jsonl: [write("und.jsonl", lines(spoken)), write("gen.jsonl", lines(named))],
    tar: [write("und.tar", dataFile("json_records.tar")), shard],
    parquet: [
      write("und.parquet", dataFile("conversations.parquet")),
      write("gen.parquet", dataFile("zstd_v2_pages.parquet")),
    ],
  };
}

/** A header of a tar file of the old kind; its checksum is the sum of its bytes with spaces in that place. */
export function tarHeader(path: string, size: number, type = "0"): Buffer {
  const header = Buffer.alloc(512);
  header.write(path);
  header.write(`${size.toString(8).padStart(11, "0")}\0`, 124);
  header.fill(" ", 148, 156);
  header.write(type, 156);
  header.write("ustar\0" + "00", 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return header;
}
