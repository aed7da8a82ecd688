/** `janus data`: inspects and prepares training data: indexes, a preview of the trained tokens, image codes. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InvalidArgumentError, Option } from "commander";
import type { Command } from "commander";
import type { FloatDType } from "../model/io/cast.ts";
import type { Checkpoint } from "../model/janus/checkpoint/checkpoint.ts";
import type { CodesAbout } from "../train/node/data/codes.ts";
import type { EncodeCodes } from "../train/stage0/image_tokenizer.ts";
import type { CodeSource } from "../train/data/encode.ts";
import type { SourceIndex } from "../train/node/data/index_file.ts";
import type { TokenCounts } from "../train/node/data/token_counts.ts";
import type { SourceSpec } from "../train/node/data/sources.ts";
import { TASKS } from "../train/samples.ts";
import type { Task } from "../train/samples.ts";
import type { AddCommand, Context } from "./context.ts";
import { openDevice } from "./device.ts";
import { UsageError } from "./errors.ts";
import { formatBytes, formatCount, indent, table } from "./format.ts";
import { MODEL_ARGUMENT, addHubOptions, resolveModel } from "./model_folder.ts";
import type { HubFlags } from "./model_folder.ts";
import { adapter, wholeNumber } from "./options.ts";
import { plainOption } from "./session.ts";
import { CLASSES, requireUsed, specOf } from "./train.ts";
import { expandShards } from "../train/node/data/shards.ts";

interface SourceFlags {
  readonly task?: Task;
  readonly images?: string;
  readonly classes?: string;
  readonly ignoreField?: readonly string[];
  readonly field?: Readonly<Record<string, readonly string[]>>;
}

interface IndexFlags extends SourceFlags, HubFlags {
  readonly cache: string;
  readonly model?: string;
  readonly system?: string;
}

interface ModelFlags extends HubFlags {
  readonly model: string;
  readonly dtype: FloatDType;
  readonly adapter?: string | number;
  readonly plain?: boolean;
}

interface PreviewFlags extends SourceFlags, ModelFlags {
  readonly n: number;
  readonly from: number;
  readonly cache?: string;
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
    .action((sources: string[], flags: IndexFlags) => indexSources(sources, flags, context));
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
    .option(...SYSTEM_FLAG)
    .option(...JSON_FLAG)
    .action((source: string, flags: PreviewFlags) => preview(source, flags, context));
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
    .action((source: string, flags: TokenizeFlags) => tokenize(source, flags, context));
};

const sourceOptions = (command: Command): Command =>
  command
    .addOption(
      new Option("--task <task>", "task of the samples (default: by the kind of the records)").choices([...TASKS]),
    )
    .option("--images <folder>", "base folder of the image paths in the file (default: the folder of the file)")
    .option("--classes <file>", CLASSES)
    .option(
      "--field <use=name>",
      "use the field or column NAME as prompt, image, text, …, e.g. prompt=TEXT; may be repeated. For training it is the setting data.fields",
      fieldName,
    )
    .option(
      "--ignore-field <field>",
      "accept records with this field and ignore it; may be repeated. Use the names that janus data index lists",
      (name: string, names?: readonly string[]) => [...(names ?? []), name],
    );

/** Adds `use=name` to the names that were given before. */
function fieldName(text: string, names: Readonly<Record<string, readonly string[]>> = {}): typeof names {
  const [, use, name] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (use === undefined || name === undefined)
    throw new InvalidArgumentError("Write what it is used as and its name, e.g. prompt=TEXT.");
  return { ...names, [use]: [...(names[use] ?? []), name] };
}

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

/** Sources of a command. Throws `UsageError` for an option that none of them uses. */
function specsOf(paths: readonly string[], { task, field, ...flags }: SourceFlags): SourceSpec[] {
  const given = { ...flags, ...(field && { fields: field }) };
  const specs = expandShards(paths.map((path) => ({ ...specOf(path, given), ...(task && { task }) })));
  requireUsed(specs, given);
  return specs;
}

async function openSource(spec: SourceSpec, cache: string, context: Context): Promise<SourceIndex> {
  const { indexSource } = await import("../train/node/data/index_file.ts");
  using progress = context.out.progress("bytes");
  return await indexSource(spec, cache, {
    signal: context.signal,
    onNotice: (message) => context.out.warn(message),
    onProgress: ({ bytes, totalBytes }) =>
      progress.report({ done: bytes, total: totalBytes, label: `reading ${spec.path}` }),
  });
}

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

async function indexSources(paths: readonly string[], flags: IndexFlags, context: Context): Promise<void> {
  const { model, system, revision, cacheDir } = flags;
  const useless = Object.entries({ system, revision, "cache-dir": cacheDir }).find(([, value]) => value !== undefined);
  if (model === undefined && useless)
    throw new UsageError(`--${useless[0]} is for counting tokens; name the --model that counts them`);
  const specs = specsOf(paths, flags);
  const count = model === undefined ? null : await tokenCounter(model, flags, context);
  const { requireIgnoredFields } = await import("../train/node/data/index_file.ts");
  const sources: Indexed[] = [];
  const opened: Pick<SourceIndex, "spec" | "fields" | "renamed">[] = [];
  for (const spec of specs) {
    const { path } = spec;
    const index = await openSource(spec, flags.cache, context);
    try {
      opened.push(index);
      const { kind, task, count: records, bytes, hash, fields, skipped } = index;
      const counted = await count?.(index);
      const tokens = counted && { tokens: counted.total, longest: counted.longest, bad: counted.bad };
      sources.push({ path, kind, task, records, bytes, hash, fields, skipped, ...tokens });
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

/** The image tokenizer of a checkpoint on a device. */
interface Tokenizer {
  readonly encode: EncodeCodes;
  readonly about: CodesAbout;
  dispose(): void;
}

async function openTokenizer(checkpoint: Checkpoint, flags: ModelFlags, context: Context): Promise<Tokenizer> {
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

async function openModel(
  name: string,
  flags: HubFlags,
  context: Context,
): Promise<{ folder: string; checkpoint: Checkpoint }> {
  const folder = await resolveModel(name, context, flags);
  const { openCheckpoint } = await import("../model/janus/checkpoint/checkpoint.ts");
  const { folderSource } = await import("../model/node/files.ts");
  return { folder, checkpoint: await openCheckpoint(folderSource(folder)) };
}

async function preview(path: string, flags: PreviewFlags, context: Context): Promise<void> {
  const [spec] = specsOf([path], flags);
  const { folder, checkpoint } = await openModel(flags.model, flags, context);
  const cache = flags.cache ?? (await mkdtemp(join(tmpdir(), "janus-data-")));
  const close: (() => unknown)[] = [() => checkpoint.close()];
  if (flags.cache === undefined) close.push(() => rm(cache, { recursive: true, force: true }));
  try {
    const { noticesOf } = await import("../train/node/data/index_file.ts");
    const index = await openSource(spec!, cache, context);
    close.push(() => index.close());
    for (const notice of noticesOf(index)) context.out.warn(notice);
    if (flags.from >= index.count)
      throw new UsageError(`--from ${flags.from}: ${path} has ${index.count} records, counted from 0`);
    const { readProcessor } = await import("../model/janus/processor.ts");
    const { folderSource } = await import("../model/node/files.ts");
    const { RecordEncoder } = await import("../train/node/data/encode.ts");
    const { CodeCache } = await import("../train/node/data/codes.ts");
    const processor = await readProcessor(folderSource(folder), checkpoint.config);
    let codes: CodeSource | undefined;
    if (index.task === "gen") {
      const tokenizer = await openTokenizer(checkpoint, flags, context);
      close.push(() => tokenizer.dispose());
      const kept = await CodeCache.open(cache, tokenizer.about);
      close.push(() => kept.close());
      codes = kept.source(tokenizer.encode);
    }
    const encoder = new RecordEncoder(processor, {
      seed: 0,
      drop: 0, // dropped prompts differ by run and epoch
      pictures: { plain: flags.plain ?? false },
      ...(codes && { codes }),
      ...(flags.system !== undefined && { system: flags.system }),
    });
    const samples = [];
    for (let i = flags.from; i < Math.min(flags.from + flags.n, index.count); i++) {
      context.signal.throwIfAborted();
      samples.push(await previewOf(index, i, encoder, processor.tokenizer, context));
    }
    context.out.result({ samples });
  } finally {
    for (const each of close.reverse()) await each();
  }
}

/** Prints a sample, or the reason why a record is not a sample. */
async function previewOf(
  index: SourceIndex,
  i: number,
  encoder: import("../train/node/data/encode.ts").RecordEncoder,
  tokenizer: import("../model/janus/tokenizer.ts").Tokenizer,
  { out }: Context,
): Promise<object> {
  const { samplePieces } = await import("../train/data/preview.ts");
  const { trainedTokens } = await import("../train/samples.ts");
  const { isBadSample } = await import("../train/node/data/loader.ts");
  const name = await index.nameOf(i);
  const { bold, red, green } = out.resultColours;
  try {
    const sample = await encoder.encode(await index.read(i), { id: `${index.hash}:${i}`, epoch: 0, name });
    const [tokens, trained] = [sample.ids.length, trainedTokens(sample)];
    const pieces = samplePieces(sample, tokenizer);
    const isColoured = green("x") !== "x";
    const body = pieces.map(({ text, isTrained }) =>
      !isTrained ? visible(text) : isColoured ? green(visible(text)) : `⟦${visible(text)}⟧`,
    );
    out.text(
      `${bold(visible(name))}: ${sample.task}, ${formatCount(tokens)} tokens, ${formatCount(trained)} trained\n${body.join("")}\n\n`,
    );
    return { name, task: sample.task, tokens, trained, pieces };
  } catch (error) {
    if (!isBadSample(error)) throw error;
    out.text(`${bold(visible(name))}: ${red("bad")}: ${visible(error.message)}\n\n`);
    return { name, bad: error.message };
  }
}

/** Escape sequences out of data must not reach the terminal. */
// oxlint-disable-next-line no-control-regex
const visible = (text: string): string => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");

async function tokenize(path: string, flags: TokenizeFlags, context: Context): Promise<void> {
  const { out, signal } = context;
  const [spec] = specsOf([path], flags);
  const { checkpoint } = await openModel(flags.model, flags, context);
  const close: (() => unknown)[] = [() => checkpoint.close()];
  try {
    const { requireKnownFields } = await import("../train/node/data/index_file.ts");
    const index = await openSource(spec!, flags.cache, context);
    close.push(() => index.close());
    if (index.task !== "gen")
      throw new UsageError(`${path} is a source for ${index.task}; only images of the task gen have codes`);
    requireKnownFields([index]);
    const tokenizer = await openTokenizer(checkpoint, flags, context);
    close.push(() => tokenizer.dispose());
    const { CodeCache } = await import("../train/node/data/codes.ts");
    const { Quarantine } = await import("../train/node/data/quarantine.ts");
    const { isBadSample } = await import("../train/node/data/loader.ts");
    const onNotice = (message: string): void => out.warn(message);
    const cache = await CodeCache.open(flags.cache, tokenizer.about, { onNotice });
    close.push(() => cache.close());
    const codes = cache.source(tokenizer.encode, { batch: flags.batch });
    const quarantine = new Quarantine({ file: join(flags.cache, "bad.jsonl") });
    using progress = out.progress("images");
    let [next, done, bad] = [0, 0, 0];
    let isFailed = false;
    const work = async (): Promise<void> => {
      while (next < index.count && !isFailed) {
        signal.throwIfAborted();
        const i = next++;
        try {
          const raw = await index.read(i);
          if (raw.task === "gen") await codes(raw.image);
        } catch (error) {
          if (!isBadSample(error)) throw error;
          const name = await index.nameOf(i);
          const reason = error.message.startsWith(name) ? error.message : `${name}: ${error.message}`;
          await quarantine.add({ task: "gen", source: path, record: i, reason }, ++bad, done + 1);
        }
        progress.report({ done: ++done, total: index.count, label: "tokenizing" });
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
    const { hits, computed } = cache.stats;
    out.result({ records: index.count, computed, known: hits, bad, folder: cache.folder }, () =>
      [
        `${formatCount(index.count)} records: ${formatCount(computed)} computed, ${formatCount(hits)} known already${bad ? `, ${formatCount(bad)} bad (${quarantine.file})` : ""}`,
        cache.folder,
      ].join("\n"),
    );
  } finally {
    for (const each of close.reverse()) await each();
  }
}
