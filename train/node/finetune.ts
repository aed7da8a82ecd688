/** What a fine-tuning is planned from: the records of the data, the model's sizes, and the settings of a run that is resumed. */
import { existsSync } from "node:fs";
import { knownOptions } from "../../engine/index.ts";
import { openCheckpoint } from "../../model/janus/checkpoint/checkpoint.ts";
import type { JanusConfig } from "../../model/janus/config.ts";
import { readProcessor } from "../../model/janus/processor.ts";
import { folderSource } from "../../model/node/files.ts";
import { readWhole } from "../../model/io/bytes.ts";
import { checkConfig } from "../config.ts";
import type { TrainConfig } from "../config.ts";
import type { Task } from "../samples.ts";
import { RecordEncoder } from "./data/encode.ts";
import { indexSource, requireKnownFields } from "./data/index_file.ts";
import type { SourceIndex } from "./data/index_file.ts";
import { SourceError } from "../data/errors.ts";
import { requireUse } from "./data/sources.ts";
import type { SourceSpec } from "./data/sources.ts";
import { expandShards } from "./data/shards.ts";
import { dataStats } from "./data/stats.ts";
import { countTokens, tokenizerHash } from "./data/token_counts.ts";
import { Checkpoints } from "./run/checkpoints.ts";
import { STATE, sideFilesOf } from "./run/run_state.ts";

export interface Survey {
  readonly sizes: JanusConfig;
  /** Good records of each task. */
  readonly records: Readonly<Record<Task, number>>;
  /** Tokens of the longest record. */
  readonly longest: number;
}

export interface SurveyOptions {
  /** Folder of the model, whose tokenizer counts. */
  readonly model: string;
  readonly sources: readonly SourceSpec[];
  readonly cache: string;
  readonly signal?: AbortSignal;
  readonly onNotice?: (message: string) => void;
}

/** Records whose images are looked at, over all sources: a survey must not read all images of a large set. */
const LOOKED_AT = 256;

/**
 * Looks at some records of a source with their images, as a run reads them. Throws `SourceError` if all of them are bad, e.g. for a wrong folder of
 * images; some bad ones are a notice.
 */
async function lookAt(
  index: SourceIndex,
  most: number,
  { signal, onNotice }: Pick<SurveyOptions, "signal" | "onNotice">,
): Promise<void> {
  const { seen, bad, reasons } = await dataStats([index], { most, ...(signal && { signal }) });
  if (bad === 0) return;
  const { path } = index.spec;
  const why = reasons
    .slice(0, 3)
    .map(({ count, example }) => `${count} × ${example}`)
    .join("; ");
  if (bad === seen)
    throw new SourceError(`${path}: none of ${seen} records that were looked at can be trained: ${why}`);
  onNotice?.(
    `${path}: ${bad} of ${seen} records that were looked at are bad, and a run leaves them out or stops (settings bad.share, bad.least): ${why}`,
  );
}

/**
 * Reads the sources once and counts their records and tokens; the counts are kept in the cache. Looks at the images of some records. Throws what sources
 * and models throw, and `SourceError` for a source without a record that can be trained.
 */
export async function surveyData(options: SurveyOptions): Promise<Survey> {
  knownOptions("surveyData", options, ["model", "sources", "cache", "signal", "onNotice"]);
  const { model, sources, cache, signal, onNotice = () => undefined } = options;
  const source = folderSource(model);
  const checkpoint = await openCheckpoint(source);
  await checkpoint.close();
  checkpoint.requireUnquantized("finetune");
  checkpoint.requireWhole("finetune");
  const processor = await readProcessor(source, checkpoint.config);
  const by = tokenizerHash(await sideFilesOf(source), undefined);
  const encoder = new RecordEncoder(processor, { seed: 0 });
  const records = { und: 0, text: 0, gen: 0 };
  let longest = 0;
  const stop = signal && { signal };
  const indexes: SourceIndex[] = [];
  try {
    for (const spec of expandShards(sources)) indexes.push(await indexSource(spec, cache, { ...stop, onNotice }));
    requireKnownFields(indexes);
    requireUse(indexes, "samples");
    for (const index of indexes) {
      const counts = await countTokens(index, encoder, by, cache, { ...stop });
      records[index.task] += index.count - counts.bad;
      longest = Math.max(longest, counts.longest);
      await lookAt(index, Math.ceil(LOOKED_AT / indexes.length), { ...stop, onNotice });
    }
  } finally {
    for (const index of indexes) await index.close();
  }
  return { sizes: checkpoint.config, records, longest };
}

const MAX_STATE = 2 ** 28; // bytes

/** Settings of the newest checkpoint of a run; null if it has none. */
export async function settingsOfRun(run: string): Promise<TrainConfig | null> {
  if (!existsSync(run)) return null;
  const { newest } = await new Checkpoints(run).newestVerified({ hashes: false });
  if (!newest) return null;
  const file = await folderSource(newest.path).open(STATE);
  try {
    const state = JSON.parse(new TextDecoder().decode(await readWhole(file, MAX_STATE))) as { config: unknown };
    return checkConfig(state.config, `${newest.path}/${STATE}`);
  } finally {
    await file.close?.();
  }
}
