/** `janus data`: inspects and prepares training data: indexes, a preview of the trained tokens, image codes. */
import { join } from "node:path";
import { Option } from "commander";
import type { Command } from "commander";
import type { SourceIndex } from "../train/node/data/index_file.ts";
import type { TokenCounts } from "../train/node/data/token_counts.ts";
import type { BadSample } from "../train/node/data/quarantine.ts";
import { firstRankFirst, ownShare } from "../train/ranks.ts";
import type { Ranks } from "../train/ranks.ts";
import type { RawSample } from "../train/data/raw_sample.ts";
import { TASKS } from "../train/samples.ts";
import type { Task } from "../train/samples.ts";
import type { AddCommand, Context } from "./context.ts";
import { SourceSet, openModel, openSource, openTokenizer, specsOf, visible } from "./data_parts.ts";
import type { ModelFlags, SourceFlags } from "./data_parts.ts";
import { preview } from "./data_preview.ts";
import type { PreviewFlags } from "./data_preview.ts";
import { stats } from "./data_stats.ts";
import type { StatsFlags } from "./data_stats.ts";
import { UsageError } from "./errors.ts";
import { formatBytes, formatCount, indent, table } from "./format.ts";
import { MODEL_ARGUMENT, addHubOptions } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";
import { adapter, fieldOption, wholeNumber } from "./options.ts";
import { withRanks } from "./ranks.ts";
import { plainOption } from "./session.ts";
import { CLASSES } from "./train.ts";

interface IndexFlags extends SourceFlags, HubFlags {
  readonly cache: string;
  readonly model?: string;
  readonly system?: string;
}

interface TokenizeFlags extends SourceFlags, ModelFlags {
  readonly cache: string;
  readonly batch: number;
}

const SOURCE =
  "a file of records (JSONL, JSON, CSV, TSV, Parquet, a tar shard of WebDataset; a range stands for several: 'shard-{000..127}.tar'), or a folder of images, with captions (photo.jpg and photo.txt) or with a folder for each class";
const JSON_FLAG = ["--json", "print one JSON object"] as const;
const SYSTEM_FLAG = [
  "--system <text>",
  'system prompt of conversations without one; "" for none (default: the original\'s)',
] as const;

export const addData: AddCommand = (program, context) => {
  const data = program
    .command("data")
    .summary("inspect and prepare training data")
    .description("Inspect and prepare training data.");
  addHubOptions(
    sourceOptions(
      data
        .command("index")
        .summary("index the records of sources, and list their fields")
        .description(
          "Index the records of sources for random access, and list the fields of records that are used, ignored and refused.",
        ),
    ),
  )
    .argument("<sources...>", SOURCE)
    .requiredOption("--cache <folder>", "folder of indexes and image codes")
    .option(
      "--model <model>",
      "also count tokens with the tokenizer of this model: a folder, a name on the hub (owner/name), or shapes",
    )
    .option(...SYSTEM_FLAG)
    .option(...JSON_FLAG)
    .action((sources: string[], flags: IndexFlags) =>
      withRanks(context, NO_DEVICE, ({ ranks }) => indexSources(sources, flags, context, ranks)),
    );
  modelOptions(
    sourceOptions(
      data
        .command("preview")
        .summary("show samples, and which tokens are trained")
        .description("Show samples as the model gets them, and which tokens are trained."),
    ),
  )
    .argument("<source>", SOURCE)
    .addOption(new Option("--n <n>", "number of samples").argParser(wholeNumber(1, 10_000)).default(3))
    .addOption(new Option("--from <record>", "first record, counted from 0").argParser(wholeNumber(0)).default(0))
    .option("--cache <folder>", "folder of indexes and image codes (default: nothing is stored)")
    .addOption(
      new Option("--length <tokens>", "tokens of a row, as the setting length: show where a sample is cut").argParser(
        wholeNumber(16, 2 ** 20),
      ),
    )
    .option("--truncate", "with --length: cut samples that are too long, as the setting data.truncate does")
    .option("--html <file>", "write the samples as a page, with their images as the model gets them")
    .option(...SYSTEM_FLAG)
    .option(...JSON_FLAG)
    .action((source: string, flags: PreviewFlags) => preview(source, flags, context));
  addHubOptions(
    sourceOptions(
      data
        .command("stats")
        .summary("count records, lengths, image sizes, duplicates, bad records")
        .description(
          "Read sources once and report: records and tokens by task, lengths, sizes of images, duplicates, and records that a run would put into quarantine, with the reasons.",
        ),
    ),
  )
    .argument("<sources...>", SOURCE)
    .option(
      "--model <model>",
      "measure lengths in tokens of this model: a folder, a name on the hub (owner/name), or shapes (default: in characters)",
    )
    .option("--html <file>", "write the results as a page with charts")
    .addOption(
      new Option("--most <n>", "records to look at, spread over the sources")
        .argParser(wholeNumber(1))
        .default(100_000),
    )
    .option("--run <folder>", "also report the records that this run has put into quarantine")
    .option("--cache <folder>", "folder of indexes (default: nothing is stored)")
    .option(...SYSTEM_FLAG)
    .option(...JSON_FLAG)
    .action((sources: string[], flags: StatsFlags) => stats(sources, flags, context));
  modelOptions(
    sourceOptions(
      data
        .command("tokenize")
        .summary("compute the image codes of a source")
        .description("Compute the image codes of a source. The same command resumes if it was stopped."),
    ),
  )
    .argument("<source>", SOURCE)
    .requiredOption("--cache <folder>", "folder of indexes and image codes")
    .addOption(new Option("--batch <n>", "images at a time").argParser(wholeNumber(1, 1024)).default(8))
    .option(...JSON_FLAG)
    .action((source: string, flags: TokenizeFlags) =>
      withRanks(context, flags.adapter, ({ ranks, adapter: own }) =>
        tokenize(source, { ...flags, ...(own !== undefined && { adapter: own }) }, context, ranks),
      ),
    );
};

const sourceOptions = (command: Command): Command =>
  command
    .addOption(
      new Option("--task <task>", "task of the samples (default: by the kind of the records)").choices([...TASKS]),
    )
    .option("--images <folder>", "base folder of the image paths in the file (default: the folder of the file)")
    .option("--classes <file>", CLASSES)
    .addOption(fieldOption("For training it is the setting data.fields"))
    .option(
      "--ignore-field <field>",
      "accept records with this field and ignore it; may be repeated. Use the names that janus data index lists",
      (name: string, names?: readonly string[]) => [...(names ?? []), name],
    );

const modelOptions = (command: Command): Command =>
  addHubOptions(command)
    .requiredOption("--model <model>", MODEL_ARGUMENT)
    .addOption(
      new Option(
        "--adapter <adapter>",
        "GPU adapter: its number in the list of janus doctor, or part of its name (default: the fastest)",
      ).argParser(adapter),
    )
    .addOption(
      new Option("--dtype <dtype>", "dtype of the image tokenizer; use the codes for training with the same dtype")
        .choices(["f32", "bf16", "f16"])
        .default("f32"),
    )
    .addOption(plainOption());

/** Adapter of commands that open no device: any. */
const NO_DEVICE = 0;

/** Counts the tokens of a source's records with a model's tokenizer and prompts. */
type Counter = (index: SourceIndex) => Promise<Pick<TokenCounts, "total" | "longest" | "bad">>;

async function tokenCounter(name: string, flags: IndexFlags, context: Context): Promise<Counter> {
  const { cache, system } = flags;
  const { folder, checkpoint } = await openModel(name, flags, context);
  await checkpoint.close();
  const { readProcessor } = await import("../model/janus/processor.ts");
  const { folderSource } = await import("../model/node/files.ts");
  const { RecordEncoder } = await import("../train/node/data/encode.ts");
  const { countTokens, tokenizerHash } = await import("../train/node/data/token_counts.ts");
  const { sideFilesOf } = await import("../train/node/run/run_state.ts");
  const source = folderSource(folder);
  const processor = await readProcessor(source, checkpoint.config);
  const by = tokenizerHash(await sideFilesOf(source), system);
  const encoder = new RecordEncoder(processor, { seed: 0, ...(system !== undefined && { system }) });
  return async (index) => {
    using progress = context.out.progress("records");
    const label = `counting ${index.spec.path}`;
    return await countTokens(index, encoder, by, cache, {
      signal: context.signal,
      onProgress: (done) => progress.report({ done, total: index.count, label }),
    });
  };
}

/** Prints the result of `janus data index` for a source. */
interface Indexed extends Partial<Pick<TokenCounts, "longest" | "bad">> {
  readonly path: string;
  readonly format: string;
  readonly kind: string;
  readonly task: Task;
  readonly records: number;
  readonly bytes: number;
  readonly hash: string;
  readonly fields: SourceIndex["fields"];
  /** Files of a folder that are no samples. */
  readonly skipped: SourceIndex["skipped"];
  readonly tokens?: number;
}

async function indexSources(
  paths: readonly string[],
  flags: IndexFlags,
  context: Context,
  ranks: Ranks,
): Promise<void> {
  const { model, system, revision, cacheDir } = flags;
  const useless = Object.entries({ system, revision, "cache-dir": cacheDir }).find(([, value]) => value !== undefined);
  if (model === undefined && useless)
    throw new UsageError(`--${useless[0]} is for counting tokens; name the --model that counts them`);
  const specs = specsOf(paths, flags);
  const count = model === undefined ? null : await tokenCounter(model, flags, context);
  const { requireIgnoredFields } = await import("../train/node/data/index_file.ts");
  const sources: Indexed[] = [];
  const opened: Pick<SourceIndex, "spec" | "fields" | "renamed">[] = [];
  // Each rank reads and counts its share of the sources; the cache then has all of them.
  for (const spec of ranks.size === 1 ? [] : ownShare(specs, ranks)) {
    const index = await openSource(spec, flags.cache, context);
    try {
      await count?.(index);
    } finally {
      await index.close();
    }
  }
  await ranks.gather(null);
  if (ranks.rank > 0) return;
  for (const spec of specs) {
    const { path } = spec;
    const index = await openSource(spec, flags.cache, context);
    try {
      opened.push(index);
      const { format, kind, task, count: records, bytes, hash, fields, skipped } = index;
      const counted = await count?.(index);
      const tokens = counted && { tokens: counted.total, longest: counted.longest, bad: counted.bad };
      sources.push({ path, format, kind, task, records, bytes, hash, fields, skipped, ...tokens });
    } finally {
      await index.close();
    }
  }
  requireIgnoredFields(opened);
  context.out.result({ sources }, () =>
    [sourceTable(sources, count !== null), ...sources.flatMap(fieldTable)].join("\n\n"),
  );
}

const sourceTable = (sources: readonly Indexed[], hasTokens: boolean): string =>
  table(
    sources.map(({ path, kind, task, records, bytes, hash, tokens, longest, bad }) => [
      path,
      kind,
      task,
      `${formatCount(records)} records`,
      formatBytes(bytes),
      hash.slice(0, 12),
      ...(tokens === undefined ? [] : [`${formatCount(tokens)} tokens`, `longest ${formatCount(longest!)}`, `${formatCount(bad!)} bad`]), // prettier-ignore
    ]),
    hasTokens ? [3, 4, 6] : [3, 4],
  );

/** Fields of a source's records, and files of a folder, with what becomes of them. */
function fieldTable({ path, fields, skipped }: Indexed): string[] {
  const isMixed = new Set(fields.map(({ kind }) => kind)).size > 1;
  const rows = [
    ...fields.map(({ kind, field, records, use }) => [
      isMixed ? `${kind}: ${visible(field)}` : visible(field),
      `${formatCount(records)} records`,
      use === "refused" ? `refused; allow with --ignore-field ${JSON.stringify(visible(field))}` : use,
    ]),
    ...skipped.map(({ reason, count, example }) => [reason, `${formatCount(count)} files`, `ignored, e.g. ${example}`]),
  ];
  return rows.length ? [`${path}\n${indent(table(rows, [1]))}`] : [];
}

/** Images of a record that have codes; the second one of a preference is the worse. */
const drawnImages = (raw: RawSample): string[] =>
  raw.task === "gen" ? [raw.image, ...(raw.rejected === undefined ? [] : [raw.rejected])].filter(Boolean) : [];

async function tokenize(path: string, flags: TokenizeFlags, context: Context, ranks: Ranks): Promise<void> {
  const { out, signal } = context;
  const specs = specsOf([path], flags);
  const { checkpoint } = await openModel(flags.model, flags, context);
  const close: (() => unknown)[] = [() => checkpoint.close()];
  try {
    const { requireKnownFields } = await import("../train/node/data/index_file.ts");
    const sources = await firstRankFirst(ranks, () => SourceSet.open(specs, flags.cache, context));
    close.push(() => sources.close());
    const other = sources.indexes.find(({ task }) => task !== "gen");
    if (other)
      throw new UsageError(`${other.spec.path} is a source for ${other.task}; only images of the task gen have codes`);
    requireKnownFields(sources.indexes);
    const tokenizer = await openTokenizer(checkpoint, flags, context);
    close.push(() => tokenizer.dispose());
    const { CodeCache } = await import("../train/node/data/codes.ts");
    const { Quarantine } = await import("../train/node/data/quarantine.ts");
    const { isBadSample } = await import("../train/node/data/loader.ts");
    const onNotice = (message: string): void => out.warn(message);
    const cache = await CodeCache.open(flags.cache, tokenizer.about, { onNotice });
    close.push(() => cache.close());
    const codes = cache.source(tokenizer.encode, { batch: flags.batch });
    const file = join(flags.cache, "bad.jsonl");
    const quarantine = new Quarantine(ranks.rank === 0 ? { file } : {});
    const found: BadSample[] = [];
    using progress = out.progress("images");
    let [next, done] = [ranks.rank, 0];
    let isFailed = false;
    const work = async (): Promise<void> => {
      while (next < sources.count && !isFailed) {
        signal.throwIfAborted();
        const { index, record } = sources.at(next);
        next += ranks.size;
        try {
          const raw = await index.read(record);
          for (const image of drawnImages(raw)) await codes(image);
        } catch (error) {
          if (!isBadSample(error)) throw error;
          const name = await index.nameOf(record);
          const reason = error.message.startsWith(name) ? error.message : `${name}: ${error.message}`;
          const sample = { task: "gen" as const, source: index.spec.path, record, reason };
          await quarantine.add(sample, found.push(sample), done + 1);
        }
        progress.report({ done: ++done, total: Math.ceil(sources.count / ranks.size), label: "tokenizing" });
      }
    };
    const stopping = (error: unknown): never => {
      isFailed = true;
      throw error;
    };
    // Twice a batch: while one is computed the next is decoded. What one of them throws ends all, before the files are closed.
    const workers = await Promise.allSettled(Array.from({ length: 2 * flags.batch }, () => work().catch(stopping)));
    const failed = workers.find((worker) => worker.status === "rejected");
    if (failed) throw failed.reason;
    progress.stop();
    const { hits: known, computed: made } = cache.stats;
    const all = await ranks.gather({ known, made, found });
    for (const other of all.slice(1).flatMap((own) => own.found))
      if (ranks.rank === 0) await quarantine.add(other, found.push(other), sources.count);
    if (ranks.rank > 0) return;
    const [hits, computed] = [all.reduce((sum, own) => sum + own.known, 0), all.reduce((sum, own) => sum + own.made, 0)]; // prettier-ignore
    const bad = found.length;
    out.result({ records: sources.count, computed, known: hits, bad, folder: cache.folder }, () =>
      [
        `${formatCount(sources.count)} records: ${formatCount(computed)} computed, ${formatCount(hits)} known already${bad ? `, ${formatCount(bad)} bad (${file})` : ""}`,
        cache.folder,
      ].join("\n"),
    );
  } finally {
    for (const each of close.reverse()) await each();
  }
}
