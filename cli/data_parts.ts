/** What the commands of `janus data` share: sources, models, image tokenizers, texts that are safe to print. */
import type { FloatDType } from "../model/io/cast.ts";
import type { Checkpoint } from "../model/janus/checkpoint/checkpoint.ts";
import type { CodesAbout } from "../train/node/data/codes.ts";
import type { EncodeCodes } from "../train/stage0/image_tokenizer.ts";
import type { SourceIndex } from "../train/node/data/index_file.ts";
import { expandShards } from "../train/node/data/shards.ts";
import type { SourceSpec } from "../train/node/data/sources.ts";
import type { Task } from "../train/samples.ts";
import type { Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { resolveModel } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";
import { requireUsed, specOf } from "./train.ts";

export interface SourceFlags {
  readonly task?: Task;
  readonly images?: string;
  readonly classes?: string;
  readonly ignoreField?: readonly string[];
  readonly field?: Readonly<Record<string, readonly string[]>>;
}

export interface ModelFlags extends HubFlags {
  readonly model: string;
  readonly dtype: FloatDType;
  readonly adapter?: string | number;
  readonly plain?: boolean;
}

/** Sources of a command. Throws `UsageError` for an option that none of them uses. */
export function specsOf(paths: readonly string[], { task, field, ...flags }: SourceFlags): SourceSpec[] {
  const given = { ...flags, ...(field && { fields: field }) };
  const specs = expandShards(paths.map((path) => ({ ...specOf(path, given), ...(task && { task }) })));
  requireUsed(specs, given);
  return specs;
}

export async function openSource(spec: SourceSpec, cache: string, context: Context): Promise<SourceIndex> {
  const { indexSource } = await import("../train/node/data/index_file.ts");
  using progress = context.out.progress("bytes");
  return await indexSource(spec, cache, {
    signal: context.signal,
    onNotice: (message) => context.out.warn(message),
    onProgress: ({ bytes, totalBytes }) =>
      progress.report({ done: bytes, total: totalBytes, label: `reading ${spec.path}` }),
  });
}

/** A record of one of several sources. */
export interface Located {
  readonly index: SourceIndex;
  /** Number in its source. */
  readonly record: number;
}

/** Several sources, usually shards of one, whose records are numbered through. */
export class SourceSet {
  readonly indexes: readonly SourceIndex[];
  readonly count: number;

  constructor(indexes: readonly SourceIndex[]) {
    this.indexes = indexes;
    this.count = indexes.reduce((sum, { count }) => sum + count, 0);
  }

  /** Opens sources, and reports what of them is no sample. */
  static async open(specs: readonly SourceSpec[], cache: string, context: Context): Promise<SourceSet> {
    const indexes: SourceIndex[] = [];
    const { noticesOf } = await import("../train/node/data/index_file.ts");
    try {
      for (const spec of specs) indexes.push(await openSource(spec, cache, context));
    } catch (error) {
      for (const index of indexes) await index.close();
      throw error;
    }
    for (const notice of indexes.flatMap(noticesOf)) context.out.warn(notice);
    return new SourceSet(indexes);
  }

  at(i: number): Located {
    let record = i;
    for (const index of this.indexes) {
      if (record < index.count) return { index, record };
      record -= index.count;
    }
    throw new RangeError(`record ${i} of ${this.count}`);
  }

  async close(): Promise<void> {
    for (const index of this.indexes) await index.close();
  }
}

/** The image tokenizer of a checkpoint on a device. */
export interface Tokenizer {
  readonly encode: EncodeCodes;
  readonly about: CodesAbout;
  dispose(): void;
}

export async function openTokenizer(checkpoint: Checkpoint, flags: ModelFlags, context: Context): Promise<Tokenizer> {
  const { codesAbout } = await import("../train/node/data/codes_about.ts");
  const { loadTokenizer, vqEncoder } = await import("../train/stage0/image_tokenizer.ts");
  const about = await codesAbout(checkpoint, flags.plain ?? false, flags.dtype);
  const device = await openDevice(flags.adapter, context);
  try {
    const vq = await loadTokenizer(checkpoint, device, flags.dtype);
    return {
      encode: vqEncoder(vq, about.imageSize),
      about,
      dispose: () => {
        vq.dispose();
        device.destroy();
      },
    };
  } catch (error) {
    device.destroy();
    throw error;
  }
}

export async function openModel(
  name: string,
  flags: HubFlags,
  context: Context,
): Promise<{ folder: string; checkpoint: Checkpoint }> {
  const folder = await resolveModel(name, context, flags);
  const { openCheckpoint } = await import("../model/janus/checkpoint/checkpoint.ts");
  const { folderSource } = await import("../model/node/files.ts");
  return { folder, checkpoint: await openCheckpoint(folderSource(folder)) };
}

/** Escape sequences out of data must not reach the terminal. */
export const visible = (text: string): string =>
  // oxlint-disable-next-line no-control-regex
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");
