/** What the browser tests compute, in the page and in a Worker. Results are plain data. */
import {
  ArgumentError,
  Device,
  DeviceError,
  DeviceLostError,
  Janus,
  StorageError,
  modelStorage,
} from "../../../index.ts";
import type { DeviceOptions, DownloadProgress, StoredModel, WebPretrainedOptions } from "../../../index.ts";
import { HubIntegrityError, HubNetworkError, HubNotFoundError } from "../../../model/io/hub_errors.ts";
import { decodeByBrowser } from "../../../model/image/web_image.ts";
import type { FileSource } from "../../../model/io/bytes.ts";
import { fileSet } from "../../../model/io/bytes.ts";
import { openCheckpoint } from "../../../model/janus/checkpoint/checkpoint.ts";
import { loadModel } from "../../../model/janus/load.ts";
import { createJanusWorker } from "../../../model/janus/web/worker_client.ts";
import { readProcessor } from "../../../model/janus/processor.ts";
import type { Comparison } from "../../../verify/compare.ts";
import { Verification, checkGolden } from "../../../verify/entries.ts";
import { Golden } from "../../../verify/file.ts";
import { GoldenInputs } from "../../../verify/inputs.ts";
import { GoldenModel } from "../../../verify/model.ts";
import { cases } from "../../cases.ts";
import type { Capabilities } from "../../../engine/index.ts";
import { caseName, runCase } from "../../harness.ts";
import type { Case } from "../../harness.ts";
import { randomFrom } from "../../random.ts";

type Told = Pick<Capabilities, "name" | "vendor" | "architecture" | "software" | "f16" | "subgroups" | "timestamps">;
export interface AdapterReport extends Told {
  readonly maxBufferSize: number;
  readonly maxStorageBufferBindingSize: number;
  readonly userAgent: string;
}

async function adapter(): Promise<AdapterReport> {
  const device = await Device.create();
  try {
    const { name, vendor, architecture, software, f16, subgroups, timestamps, limits } = device.capabilities;
    const { maxBufferSize, maxStorageBufferBindingSize } = limits;
    const about = { name, vendor, architecture, software, f16, subgroups, timestamps };
    return { ...about, maxBufferSize, maxStorageBufferBindingSize, userAgent: navigator.userAgent };
  } finally {
    device.destroy();
  }
}

export interface SampleOptions {
  readonly seed: number;
  readonly count: number;
  /** Which part of the sample to run: every `parts`-th row from `part` on. */
  readonly part: number;
  readonly parts: number;
}

export interface SampleReport {
  readonly ops: number;
  readonly rows: number;
  readonly checks: number;
  readonly failures: readonly string[];
  readonly bytesLeft: number;
}

/** `count` rows of the table: one of every op, the others drawn from all rows. */
export function sampleRows(seed: number, count: number): Case[] {
  const random = randomFrom(seed);
  const left = cases.map((row) => ({ row, at: random() })).sort((a, b) => a.at - b.at);
  const ofEach = new Map<string, Case>();
  for (const { row } of left) if (!ofEach.has(row.op)) ofEach.set(row.op, row);
  const chosen = new Set(ofEach.values());
  for (const { row } of left) if (chosen.size < count) chosen.add(row);
  return [...chosen];
}

/** Runs rows of the table, forward and gradients. */
async function ops({ seed, count, part, parts }: SampleOptions): Promise<SampleReport> {
  const rows = sampleRows(seed, count).filter((_, i) => i % parts === part);
  const device = await Device.create({ poison: true });
  const failures: string[] = [];
  let checks = 0;
  try {
    const live = device.pool.stats.liveBytes;
    for (const row of rows) {
      const result = await runCase(row, device, seed).catch((error: unknown) => ({
        checks: 0,
        failures: [error instanceof Error ? `${error.name}: ${error.message}` : String(error)],
      }));
      checks += result.checks;
      failures.push(...result.failures.map((failure) => `${caseName(row)}: ${failure}`));
    }
    await device.sync();
    const bytesLeft = device.pool.stats.liveBytes - live;
    return { ops: new Set(rows.map(({ op }) => op)).size, rows: rows.length, checks, failures, bytesLeft };
  } finally {
    device.destroy();
  }
}

/** The files `names` of a folder on the server. */
async function fetched(folder: string, names: readonly string[]): Promise<FileSource> {
  const files = names.map(async (name) => {
    const response = await fetch(`${folder}${name}`);
    if (!response.ok) throw new Error(`${folder}${name}: HTTP ${response.status}`);
    return [name, await response.blob()] as const;
  });
  return fileSet(folder, new Map(await Promise.all(files)));
}

export interface VerifyOptions {
  /** Address of the golden folder, and of a model of that folder. */
  readonly golden: string;
  readonly model: string;
  readonly goldenFiles: readonly string[];
  readonly modelFiles: readonly string[];
}

/** The rows of a golden folder that `janus verify` computes, without those of training. */
async function verify(options: VerifyOptions): Promise<readonly Comparison[]> {
  await using golden = await Golden.open(await fetched(options.golden, options.goldenFiles), (bytes) =>
    decodeByBrowser(new Blob([bytes as BlobPart])),
  );
  const source = await fetched(options.model, options.modelFiles);
  const checkpoint = await openCheckpoint(source);
  const device = await Device.create({ poison: true });
  try {
    const { config } = checkpoint;
    const processor = await readProcessor(source, config);
    checkGolden(golden, config);
    const model = await loadModel(checkpoint, { device, dtype: "f32" });
    const run = new Verification(
      new GoldenInputs(golden, config, processor),
      new GoldenModel(model, config, processor),
    );
    const rows: Comparison[] = [];
    for await (const row of run.rows()) rows.push(row);
    return rows;
  } finally {
    device.destroy();
    await checkpoint.close();
  }
}

export interface ShapesOptions {
  /** Address of the checkpoint. */
  readonly model: string;
  readonly prompt: string;
  readonly question: string;
  readonly seed: number;
}

export interface ShapesReport {
  readonly tokenIds: readonly number[];
  readonly width: number;
  /** Mean of the pixels of the image. */
  readonly mean: number;
  readonly answer: string;
  readonly fingerprint: string;
}

/** Draws with a checkpoint from a URL, and asks about what was drawn. */
async function shapes({ model, prompt, question, seed }: ShapesOptions): Promise<ShapesReport> {
  const device = await Device.create();
  try {
    const janus = await Janus.fromFiles(new URL(model, location.href), { device });
    const [picture] = await janus.generate(prompt, { seed }).images();
    const { image, tokenIds } = picture!;
    const answer = await janus.ask(question, { images: [image] }).text();
    const mean = image.data.reduce((sum, value) => sum + value, 0) / image.data.length;
    return { tokenIds, width: image.width, mean, answer, fingerprint: janus.fingerprint };
  } finally {
    device.destroy();
  }
}

export interface PretrainedJob {
  readonly name: string;
  readonly options: Omit<WebPretrainedOptions, "device" | "onDownload" | "onNotice" | "signal">;
  readonly device?: Pick<DeviceOptions, "memoryBudget" | "limits">;
}

export interface PretrainedReport {
  /** Name and message of the error; undefined if the model was loaded. */
  readonly error?: { readonly kind: string; readonly message: string };
  readonly fingerprint?: string;
  /** Bytes of the first and the last report of the download, and of all files. */
  readonly progress?: readonly [number, number, number];
  readonly notices: readonly string[];
  readonly stored: readonly StoredModel[];
}

const KINDS = { StorageError, DeviceError, HubIntegrityError, HubNotFoundError, HubNetworkError };

/** Loads a model from a hub. */
async function pretrained(job: PretrainedJob): Promise<PretrainedReport> {
  const device = await Device.create(job.device);
  const notices: string[] = [];
  const seen: DownloadProgress[] = [];
  let outcome: Pick<PretrainedReport, "error" | "fingerprint">;
  try {
    const janus = await Janus.fromPretrained(job.name, {
      ...job.options,
      device,
      onDownload: (progress) => seen.push(progress),
      onNotice: (notice) => notices.push(notice),
    });
    outcome = { fingerprint: janus.fingerprint };
  } catch (error) {
    const kind = Object.entries(KINDS).find(([, one]) => error instanceof one)?.[0] ?? "another";
    outcome = { error: { kind, message: error instanceof Error ? error.message : String(error) } };
  } finally {
    device.destroy();
  }
  const [first, last] = [seen[0], seen.at(-1)];
  const progress = first && last ? ([first.bytes, last.bytes, last.totalBytes] as const) : undefined;
  return { ...outcome, ...(progress && { progress }), notices, stored: await modelStorage.list() };
}

/** Removes a model from the browser's storage; returns whether it was there, what is left, and the bytes in use. */
async function remove({ name }: { readonly name: string }): Promise<readonly [boolean, number, number]> {
  const isRemoved = await modelStorage.delete(name);
  await modelStorage.deleteUnfinished();
  const { usedBytes } = await modelStorage.estimate();
  return [isRemoved, (await modelStorage.list()).length, usedBytes];
}

export interface WorkerReport {
  readonly first: readonly number[];
  readonly again: readonly number[];
  readonly rows: readonly number[];
  readonly answer: string;
  /** What `onLost` got, and the class of the error of a call on the lost device. */
  readonly lost: string;
  readonly lostKind: string;
  /** Class of the error of an unknown option, and of a call that was aborted. */
  readonly refusedKind: string;
  readonly abortedKind: string;
}

const kindOf = (error: unknown): string =>
  error instanceof DeviceLostError
    ? "DeviceLostError"
    : error instanceof ArgumentError
      ? "ArgumentError"
      : error instanceof DOMException
        ? error.name
        : `another: ${String(error)}`;

const kindThrown = (run: () => Promise<unknown>): Promise<string> => run().then(() => "none", kindOf);

/** A model in a Worker: draws with previews, refuses, aborts, loses its device and recovers. */
async function worker({ model, prompt, question, seed }: ShapesOptions): Promise<WorkerReport> {
  const losses: string[] = [];
  const started = createJanusWorker({ onLost: ({ message }) => losses.push(message) });
  try {
    const janus = await started.fromFiles(new URL(model, location.href));
    const pictures = janus.generate(prompt, { seed });
    const rows: number[] = [];
    let preview = Promise.resolve();
    for await (const event of pictures)
      if (event.type === "progress")
        preview = preview.then(async () => {
          for (const image of await pictures.preview()) rows.push(image?.height ?? 0);
        });
    await preview;
    const [picture] = await pictures.images();
    const answer = await janus.ask(question, { images: [picture!.image] }).text();
    const refusedKind = await kindThrown(() => janus.generate(prompt, { sed: 1 } as never).images());
    const controller = new AbortController();
    const aborted = janus.generate(prompt, { seed, n: 4, signal: controller.signal }).images();
    setTimeout(() => controller.abort(), 50);
    const abortedKind = await kindThrown(() => aborted);
    await janus.loseDevice();
    const lostKind = await kindThrown(() => janus.generate(prompt, { seed }).images());
    await janus.recover();
    const [again] = await janus.generate(prompt, { seed }).images();
    const lost = losses.join();
    return { first: picture!.tokenIds, again: again!.tokenIds, rows, answer, lost, lostKind, refusedKind, abortedKind };
  } finally {
    started.terminate();
  }
}

export const jobs = { adapter, ops, verify, shapes, pretrained, remove, worker } as const;
export type JobName = keyof typeof jobs;
