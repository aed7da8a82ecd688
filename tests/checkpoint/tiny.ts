// The tiny checkpoint of the fixtures, in both layouts, and folders in memory made from it.
import { readdirSync, readFileSync } from "node:fs";
import { bytesFile, fileSet } from "../../model/io/bytes.ts";
import type { FileSource, FolderSink } from "../../model/io/bytes.ts";
import type { Layout } from "../../model/janus/checkpoint/names.ts";
import { encodeSafetensors, readSafetensors } from "../../model/io/safetensors.ts";
import type { StoredDType } from "../../model/io/stored.ts";

const root = new URL("../../../shared/fixtures/tiny/", import.meta.url);
export const tinyFolder = (layout: Layout): URL => new URL(`${layout}/`, root);

export type Files = Map<string, Uint8Array>;

/** All files of the tiny checkpoint in one layout. */
export function tinyFiles(layout: Layout): Files {
  const folder = tinyFolder(layout);
  return new Map(readdirSync(folder).map((name) => [name, new Uint8Array(readFileSync(new URL(name, folder)))]));
}

export const sourceOfFiles = (files: Files): FileSource => fileSet("tiny", files);

/** A folder in memory to write to. */
export function memorySink(): FolderSink & { files: Files } {
  const files: Files = new Map();
  return {
    files,
    write: async (name, content) => {
      const parts: Uint8Array[] = [];
      if (content instanceof Uint8Array) parts.push(content);
      else await content({ write: async (bytes) => void parts.push(bytes.slice()) });
      files.set(name, new Uint8Array(Buffer.concat(parts)));
    },
  };
}

export interface Whole {
  name: string;
  dtype: StoredDType;
  shape: readonly number[];
  data: Uint8Array;
}

/** The tensors of a safetensors file with their bytes. */
export async function tensorsOf(bytes: Uint8Array): Promise<Map<string, Whole>> {
  const { tensors } = await readSafetensors(bytesFile("f", bytes));
  return new Map(
    [...tensors.values()].map(({ name, dtype, shape, offset, bytes: n }) => [
      name,
      { name, dtype, shape, data: bytes.slice(offset, offset + n) },
    ]),
  );
}

/** The tiny hf checkpoint with its tensors changed; a smaller file is quicker to build from than from torch.save. */
export async function changedHf(change: (tensors: Map<string, Whole>) => void): Promise<Files> {
  const files = tinyFiles("hf");
  const tensors = await tensorsOf(files.get("model.safetensors")!);
  change(tensors);
  return files.set("model.safetensors", encodeSafetensors([...tensors.values()]));
}
