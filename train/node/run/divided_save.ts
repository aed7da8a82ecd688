/** The files of a checkpoint, written by all ranks at the same time: each has every P-th one. Rank 0 has the staged folder and writes the manifest. */
import { messageOf } from "../../../engine/errors.ts";
import type { FolderSink } from "../../../model/io/bytes.ts";
import { FileError } from "../../../model/node/files.ts";
import { RankError } from "../../ranks.ts";
import type { Ranks } from "../../ranks.ts";
import { systemCode } from "./errors.ts";
import type { ManifestEntry } from "./manifest.ts";
import type { StagedFolder } from "./staged_folder.ts";

type Fill = (sink: FolderSink) => Promise<void>;

/** What a rank has written, or why it could not. */
interface Written {
  readonly files: Readonly<Record<string, ManifestEntry>>;
  readonly error?: { readonly message: string; readonly code: string | null };
}

/**
 * In rank 0: fills `staged` together with the others, which `follow` meanwhile. Throws the error of this rank, else that of another with its number: a
 * `FileError` if it is the file system's.
 */
export async function fillTogether(ranks: Ranks, staged: StagedFolder, fill: Fill): Promise<void> {
  await ranks.gather(staged.path);
  const { own, all } = await writeShare(ranks, staged, fill);
  if (own) throw own.error;
  for (const { files, error } of all) {
    if (error?.code) throw new FileError(error.message, error.code);
    if (error) throw new RankError(error.message);
    staged.adopt(files);
  }
}

/** In rank 0, if nothing is to be filled: the others are waiting for a folder. */
export async function cancelFill(ranks: Ranks): Promise<void> {
  await ranks.gather(null);
}

/** In the other ranks: writes this rank's files into the folder that rank 0 names, unless it has none. Throws this rank's error. */
export async function followFill(ranks: Ranks, join: (path: string) => StagedFolder, fill: Fill): Promise<void> {
  const [path] = await ranks.gather<string | null>(null);
  const { own } = path ? await writeShare(ranks, join(path), fill) : { own: null };
  if (own) throw own.error;
}

async function writeShare(
  ranks: Ranks,
  staged: StagedFolder,
  fill: Fill,
): Promise<{ readonly own: { readonly error: unknown } | null; readonly all: readonly Written[] }> {
  const own = await fill(shareOf(staged, ranks)).then(
    () => null,
    (error: unknown) => ({ error }),
  );
  const error = own && { message: `${ranks.name}: ${messageOf(own.error)}`, code: systemCode(own.error) };
  return {
    own,
    all: await ranks.gather<Written>({ files: Object.fromEntries(staged.files), ...(error && { error }) }),
  };
}

/** `sink`, of which this rank writes its share of the files with tensors; rank 0 writes the small ones. */
function shareOf(sink: FolderSink, { rank, size }: Ranks): FolderSink {
  let count = 0;
  return {
    write: async (name, content) => {
      const writer = name.endsWith(".safetensors") ? count++ % size : 0;
      if (writer === rank) await sink.write(name, content);
    },
  };
}
