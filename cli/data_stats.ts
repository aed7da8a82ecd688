/** `janus data stats`: figures of sources, as text or as a page with charts. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { TASKS } from "../train/samples.ts";
import type { RawSample } from "../train/data/raw_sample.ts";
import type { DataStats, Duplicates, ReasonCount } from "../train/node/data/stats.ts";
import type { Context } from "./context.ts";
import { SourceSet, openModel, specsOf, visible } from "./data_parts.ts";
import type { SourceFlags } from "./data_parts.ts";
import { UsageError } from "./errors.ts";
import { formatCount, formatShare, indent, table } from "./format.ts";
import type { HubFlags } from "./model_folder.ts";

export interface StatsFlags extends SourceFlags, HubFlags {
  readonly model?: string;
  readonly html?: string;
  readonly most: number;
  readonly run?: string;
  readonly cache?: string;
  readonly system?: string;
}

export async function stats(paths: readonly string[], flags: StatsFlags, context: Context): Promise<void> {
  const { model, system, revision, cacheDir, html } = flags;
  const useless = Object.entries({ system, revision, "cache-dir": cacheDir }).find(([, value]) => value !== undefined);
  if (model === undefined && useless)
    throw new UsageError(`--${useless[0]} is for lengths in tokens; name the --model that counts them`);
  const { dataStats } = await import("../train/node/data/stats.ts");
  const { requireIgnoredFields } = await import("../train/node/data/index_file.ts");
  const quarantine = flags.run === undefined ? undefined : await quarantineOf(flags.run);
  const cache = flags.cache ?? (await mkdtemp(join(tmpdir(), "janus-data-")));
  const close: (() => unknown)[] = [];
  if (flags.cache === undefined) close.push(() => rm(cache, { recursive: true, force: true }));
  try {
    const sources = await SourceSet.open(specsOf(paths, flags), cache, context);
    close.push(() => sources.close());
    requireIgnoredFields(sources.indexes);
    const tokensOf = model === undefined ? undefined : await tokenCounter(model, flags, context);
    using progress = context.out.progress("records");
    const found = await dataStats(sources.indexes, {
      most: flags.most,
      ...(tokensOf && { tokensOf }),
      signal: context.signal,
      onProgress: (done, total) => progress.report({ done, total, label: "reading records" }),
    });
    progress.stop();
    const listed = sources.indexes.map(({ spec: { path }, format, task, count, bytes }) => ({ path, format, task, records: count, bytes })); // prettier-ignore
    if (html !== undefined) {
      const { statsPage } = await import("../train/node/report/stats_page.ts");
      const { writeFileAtomic } = await import("../model/node/files.ts");
      const text = await statsPage({ sources: listed, stats: found, ...(quarantine && { quarantine }) });
      await writeFileAtomic(html, new TextEncoder().encode(text));
    }
    context.out.result({ sources: listed, ...found, ...(quarantine && { quarantine }) }, () => textOf(found, quarantine)); // prettier-ignore
  } finally {
    for (const each of close.reverse()) await each();
  }
}

async function tokenCounter(
  name: string,
  flags: StatsFlags,
  context: Context,
): Promise<(raw: RawSample) => Promise<number>> {
  // prettier-ignore
  const { folder, checkpoint } = await openModel(name, flags, context);
  await checkpoint.close();
  const { readProcessor } = await import("../model/janus/processor.ts");
  const { folderSource } = await import("../model/node/files.ts");
  const { RecordEncoder } = await import("../train/node/data/encode.ts");
  const processor = await readProcessor(folderSource(folder), checkpoint.config);
  const { system } = flags;
  const encoder = new RecordEncoder(processor, { seed: 0, ...(system !== undefined && { system }) });
  return (raw) => encoder.tokens(raw);
}

/** Reasons in the quarantine of a run. Throws `UsageError` if the run has none. */
async function quarantineOf(run: string): Promise<ReasonCount[]> {
  const { reasonsOf } = await import("../train/node/data/stats.ts");
  const path = join(run, "quarantine.jsonl");
  const text = await readFile(path, "utf8").catch(() => {
    throw new UsageError(`--run ${run}: there is no ${path}; a run writes it with its first bad record`);
  });
  return reasonsOf(text);
}

function textOf(found: DataStats, quarantine: readonly ReasonCount[] | undefined): string {
  const { records, seen, bad, unit, tasks, images, sizes, sameRecords, sameImages, reasons } = found;
  const rows = TASKS.filter((task) => tasks[task].records > 0).map((task) => {
    const { records: n, length, longest } = tasks[task];
    return [task, `${formatCount(n)} records`, `${formatCount(length)} ${unit}`, `longest ${formatCount(longest)}`];
  });
  const largest = [...sizes].sort((a, b) => b.count - a.count).slice(0, 3).map(({ width, height, count }) => `${formatCount(count)} of ${width}×${height}`); // prettier-ignore
  const same = (what: string, { count, examples }: Duplicates): string =>
    `${formatCount(count)} ${what} equal an earlier one${examples[0] ? `, e.g. ${visible(examples[0][1])} equals ${visible(examples[0][0])}` : ""}`;
  return [
    `${formatCount(seen)} of ${formatCount(records)} records; ${formatCount(bad)} bad (${formatShare(bad, seen)})`,
    table(rows, [1, 2, 3]),
    `${formatCount(images)} images${largest.length ? `; most: ${largest.join(", ")}` : ""}`,
    same("records", sameRecords),
    same("images", sameImages),
    ...reasonLines("bad records by reason:", reasons),
    ...(quarantine ? reasonLines("in the quarantine of the run:", quarantine) : []),
  ].join("\n");
}

const reasonLines = (title: string, reasons: readonly ReasonCount[]): string[] =>
  reasons.length ? [title, indent(table(reasons.slice(0, 20).map(({ count, reason }) => [formatCount(count), visible(reason)]), [0]))] : []; // prettier-ignore
