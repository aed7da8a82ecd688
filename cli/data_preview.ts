/** `janus data preview`: samples as they are trained, on the terminal or as a page. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Processor } from "../model/janus/processor.ts";
import type { CodeSource, RecordUse } from "../train/data/encode.ts";
import type { PreviewedSample } from "../train/node/report/preview_page.ts";
import type { RecordEncoder } from "../train/node/data/encode.ts";
import type { Context } from "./context.ts";
import { SourceSet, openModel, openTokenizer, specsOf, visible } from "./data_parts.ts";
import type { Located, ModelFlags, SourceFlags } from "./data_parts.ts";
import { UsageError } from "./errors.ts";
import { formatCount } from "./format.ts";

export interface PreviewFlags extends SourceFlags, ModelFlags {
  readonly n: number;
  readonly from: number;
  readonly cache?: string;
  readonly system?: string;
  readonly length?: number;
  readonly truncate?: boolean;
  readonly html?: string;
}

/** Encoders of samples of any length, and of those that fit a row. */
interface Pair {
  readonly whole: RecordEncoder;
  readonly fitting: RecordEncoder;
}

interface Encoders {
  readonly processor: Processor;
  readonly of: (use: RecordUse) => Pair;
  readonly isPlain: boolean;
  /** Side of images that are drawn, pixels. */
  readonly imageSize: number;
}

export async function preview(path: string, flags: PreviewFlags, context: Context): Promise<void> {
  if (flags.truncate && flags.length === undefined)
    throw new UsageError("--truncate needs --length, the tokens of a row");
  const specs = specsOf([path], flags);
  const cache = flags.cache ?? (await mkdtemp(join(tmpdir(), "janus-data-")));
  const close: (() => unknown)[] = [];
  if (flags.cache === undefined) close.push(() => rm(cache, { recursive: true, force: true }));
  try {
    const sources = await SourceSet.open(specs, cache, context);
    close.push(() => sources.close());
    if (flags.from >= sources.count)
      throw new UsageError(`--from ${flags.from}: ${path} has ${sources.count} records, counted from 0`);
    const encoders = await openEncoders(sources, cache, flags, { context, close });
    const samples: PreviewedSample[] = [];
    for (let i = flags.from; i < Math.min(flags.from + flags.n, sources.count); i++) {
      context.signal.throwIfAborted();
      const sample = await previewOf(sources.at(i), encoders, flags);
      print(sample, context);
      samples.push(sample);
    }
    if (flags.html !== undefined) await writePage(path, samples, flags.html, flags.length);
    context.out.result({ samples: samples.map(({ images, ...rest }) => ({ ...rest, ...(images.length > 0 && { images: images.length }) })) }); // prettier-ignore
  } finally {
    for (const each of close.reverse()) await each();
  }
}

async function openEncoders(
  sources: SourceSet,
  cache: string,
  flags: PreviewFlags,
  { context, close }: { context: Context; close: (() => unknown)[] },
): Promise<Encoders> {
  const { folder, checkpoint } = await openModel(flags.model, flags, context);
  close.push(() => checkpoint.close());
  const { readProcessor } = await import("../model/janus/processor.ts");
  const { folderSource } = await import("../model/node/files.ts");
  const { RecordEncoder: Encoder } = await import("../train/node/data/encode.ts");
  const { CodeCache } = await import("../train/node/data/codes.ts");
  const processor = await readProcessor(folderSource(folder), checkpoint.config);
  let codes: CodeSource | undefined;
  if (sources.indexes.some(({ task }) => task === "gen")) {
    const tokenizer = await openTokenizer(checkpoint, flags, context);
    close.push(() => tokenizer.dispose());
    const kept = await CodeCache.open(cache, tokenizer.about);
    close.push(() => kept.close());
    codes = kept.source(tokenizer.encode);
  }
  const isPlain = flags.plain ?? false;
  const options = {
    seed: 0,
    drop: 0, // dropped prompts differ by run and epoch
    pictures: { plain: isPlain },
    ...(codes && { codes }),
    ...(flags.system !== undefined && { system: flags.system }),
  };
  const { length, truncate = false } = flags;
  const of = (use: RecordUse): Pair => {
    const whole = new Encoder(processor, { ...options, use });
    const fitting = length === undefined ? whole : new Encoder(processor, { ...options, use, maxTokens: length, truncate: truncate && use !== "preferences" }); // prettier-ignore
    return { whole, fitting };
  };
  return { processor, of, isPlain, imageSize: checkpoint.config.vq.imageSize };
}

/** A record as a sample; with the reason if a run would put it into quarantine. */
async function previewOf(
  { index, record }: Located,
  { processor, of: encodersOf, isPlain, imageSize }: Encoders,
  { length }: PreviewFlags,
): Promise<PreviewedSample> {
  const { samplePieces } = await import("../train/data/preview.ts");
  const { trainedTokens } = await import("../train/samples.ts");
  const { isBadSample } = await import("../train/node/data/loader.ts");
  const { useOf } = await import("../train/node/data/sources.ts");
  const { drawnImage, seenImages } = await import("../train/node/report/preview_page.ts");
  const name = await index.nameOf(record);
  try {
    const raw = await index.read(record);
    const { whole, fitting } = encodersOf(useOf(index.kind));
    const of = { id: `${index.hash}:${record}`, epoch: 0, name };
    const sample = await whole.encode(raw, of);
    const fitted = fitting === whole ? sample : await fitting.encode(raw, of).catch((error: unknown) => {
      if (!isBadSample(error)) throw error;
      return error;
    }); // prettier-ignore
    const bad = fitted instanceof Error ? { bad: fitted.message } : {};
    const kept = fitted instanceof Error ? Math.min(length!, sample.ids.length) : fitted.ids.length;
    const tokens = sample.ids.length;
    const drawn = raw.task === "gen" ? [raw.image, raw.rejected ?? ""].filter(Boolean) : [];
    const images = raw.task === "gen" ? await Promise.all(drawn.map((image) => drawnImage(image, imageSize, isPlain))) : await seenImages(sample, processor.images); // prettier-ignore
    const pieces = samplePieces(sample, processor.tokenizer, kept);
    if (sample.rejected) pieces.push({ text: "\n≺ ", isTrained: false }, ...samplePieces(sample.rejected, processor.tokenizer)); // prettier-ignore
    return {
      name,
      task: sample.task,
      tokens,
      trained: fitted instanceof Error ? 0 : trainedTokens(fitted),
      pieces,
      ...(kept < tokens && { kept }),
      ...bad,
      images,
    };
  } catch (error) {
    if (!isBadSample(error)) throw error;
    return { name, bad: error.message, pieces: [], images: [] };
  }
}

function print({ name, task, tokens = 0, trained = 0, kept, pieces, bad }: PreviewedSample, { out }: Context): void {
  const { bold, red, green } = out.resultColours;
  const isColoured = green("x") !== "x";
  const body = pieces.map(({ text, isTrained, isCut }) => {
    if (isCut) return isColoured ? red(visible(text)) : `✂${visible(text)}✂`;
    return !isTrained ? visible(text) : isColoured ? green(visible(text)) : `⟦${visible(text)}⟧`;
  });
  const counts = task === undefined ? "" : `${task}, ${formatCount(tokens)} tokens${kept === undefined ? "" : `, cut at ${formatCount(kept)}`}, ${formatCount(trained)} trained`; // prettier-ignore
  const problem = bad === undefined ? "" : `${red("bad")}: ${visible(bad)}`;
  const head = [problem, counts].filter(Boolean).join("; ");
  out.text(`${bold(visible(name))}: ${head}\n${body.length ? `${body.join("")}\n` : ""}\n`);
}

async function writePage(
  path: string,
  samples: readonly PreviewedSample[],
  file: string,
  length: number | undefined,
): Promise<void> {
  // prettier-ignore
  const { previewPage } = await import("../train/node/report/preview_page.ts");
  const { writeFileAtomic } = await import("../model/node/files.ts");
  await writeFileAtomic(file, new TextEncoder().encode(await previewPage(path, samples, length)));
}
