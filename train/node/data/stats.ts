/** Figures of sources: lengths, sizes of images, duplicates, and records that a run would put into quarantine. Nothing is decoded. */
import { createHash } from "node:crypto";
import { imageBytes, imageSize, inlineBytes } from "../../../model/node/image_file.ts";
import type { Message } from "../../../model/janus/prompt.ts";
import { TASKS } from "../../samples.ts";
import type { Task } from "../../samples.ts";
import type { RawSample } from "../../data/raw_sample.ts";
import type { SourceIndex } from "./index_file.ts";
import { isBadSample } from "./loader.ts";
import type { BadSample } from "./quarantine.ts";

/** Counts of lengths up to a bound, which doubles with every second step. */
export interface LengthCount {
  readonly task: Task;
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

export interface SizeCount {
  readonly width: number;
  readonly height: number;
  readonly count: number;
}

/** Bad records of one reason. */
export interface ReasonCount {
  readonly reason: string;
  readonly count: number;
  /** The message of the first of them. */
  readonly example: string;
}

export interface Duplicates {
  /** Records or images that equal an earlier one. */
  readonly count: number;
  /** Names of the first of them and of the one that it equals. */
  readonly examples: readonly (readonly [earlier: string, later: string])[];
}

export interface DataStats {
  readonly records: number;
  /** Records that were looked at; the figures below are of them. */
  readonly seen: number;
  readonly bad: number;
  /** Unit of the lengths. */
  readonly unit: "tokens" | "characters";
  readonly tasks: Readonly<
    Record<Task, { readonly records: number; readonly length: number; readonly longest: number }>
  >;
  readonly lengths: readonly LengthCount[];
  readonly images: number;
  readonly sizes: readonly SizeCount[];
  readonly sameRecords: Duplicates;
  readonly sameImages: Duplicates;
  readonly reasons: readonly ReasonCount[];
}

export interface StatsOptions {
  /** Records to look at, spread over the sources (default: all). */
  readonly most?: number;
  /** Tokens of a sample (default: lengths are characters). */
  readonly tokensOf?: (raw: RawSample) => Promise<number>;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Kinds of sizes and reasons that are kept apart; the rest goes to the nearest or is not counted one by one. */
const MAX_KINDS = 10_000;
const EXAMPLES = 5;

/** Text of a sample, and its images as the record names them. */
function contentOf(raw: RawSample): { text: string; images: readonly string[] } {
  if (raw.task === "gen") return { text: raw.prompt, images: [raw.image, raw.rejected ?? ""].filter(Boolean) };
  if ("text" in raw) return { text: raw.text, images: [] };
  const { messages, rejected } = raw;
  const text = [...messages.map(textOf), ...(rejected === undefined ? [] : [rejected])].join("\n");
  return { text, images: raw.task === "und" ? raw.images : [] };
}

const textOf = ({ content }: Message): string =>
  typeof content === "string"
    ? content
    : content.map((part) => (part.type === "text" ? part.text : "<image>")).join("");

/** Finds what equals something earlier, by the first 12 bytes of its hash. */
class Seen {
  count = 0;
  readonly examples: [string, string][] = [];
  private readonly first = new Map<string, string>();

  add(hash: string, name: string): void {
    const earlier = this.first.get(hash);
    if (earlier === undefined) this.first.set(hash, name);
    else if (this.count++ < EXAMPLES) this.examples.push([earlier, name]);
  }

  get result(): Duplicates {
    return { count: this.count, examples: this.examples };
  }
}

const hashOf = (content: string | Uint8Array): string =>
  createHash("sha256").update(content).digest("base64").slice(0, 16);

/** A reason without what differs between records. */
const generalReason = (message: string, path: string): string =>
  message
    .replaceAll(path, "")
    .replace(/^:?\d+: /, "")
    .replace(/"(?:[^"\\]|\\.)*"/g, '"…"')
    .replace(/(?:[\w.-]*\/)+[\w.-]+/g, "…")
    .replace(/\d+/g, "N");

class Reasons {
  private readonly counts = new Map<string, { count: number; example: string }>();

  add(example: string, path: string): void {
    const reason = generalReason(example, path);
    const known = this.counts.get(reason);
    if (known) known.count++;
    else if (this.counts.size < MAX_KINDS) this.counts.set(reason, { count: 1, example });
  }

  /** The most frequent first. */
  get list(): ReasonCount[] {
    return [...this.counts].map(([reason, rest]) => ({ reason, ...rest })).sort((a, b) => b.count - a.count);
  }
}

/** Reasons of the records in a file `quarantine.jsonl`. */
export function reasonsOf(quarantine: string): ReasonCount[] {
  const reasons = new Reasons();
  for (const line of quarantine.split("\n")) {
    try {
      const { reason, source } = JSON.parse(line) as BadSample;
      reasons.add(reason, source);
    } catch {
      // cut off by a crash
    }
  }
  return reasons.list;
}

class Collector {
  readonly tasks = { und: counts(), text: counts(), gen: counts() };
  readonly lengths = new Map<string, number>();
  readonly sizes = new Map<string, number>();
  readonly reasons = new Reasons();
  readonly records = new Seen();
  readonly pictures = new Seen();
  images = 0;
  bad = 0;
  private readonly tokensOf: StatsOptions["tokensOf"];

  constructor(tokensOf: StatsOptions["tokensOf"]) {
    this.tokensOf = tokensOf;
  }

  async add(index: SourceIndex, record: number): Promise<void> {
    const name = await index.nameOf(record);
    try {
      const raw = await index.read(record);
      const { text, images } = contentOf(raw);
      const length = this.tokensOf ? await this.tokensOf(raw) : text.length;
      const hashes = [];
      for (const image of images) hashes.push(await this.image(image, name));
      this.records.add(hashOf(JSON.stringify([raw.task, text, hashes])), name);
      this.length(raw.task, length);
    } catch (error) {
      if (!isBadSample(error)) throw error;
      this.bad++;
      const { message } = error;
      this.reasons.add(message.startsWith(index.spec.path) ? message : `${name}: ${message}`, index.spec.path);
    }
  }

  private async image(image: string, name: string): Promise<string> {
    const isInline = image.startsWith("data:");
    const bytes = isInline ? inlineBytes(image) : await imageBytes(image);
    const { width, height } = await imageSize(bytes, { name: isInline ? "the image in the record" : image });
    this.images++;
    const key = `${width} ${height}`;
    if (this.sizes.has(key) || this.sizes.size < MAX_KINDS) this.sizes.set(key, (this.sizes.get(key) ?? 0) + 1);
    const hash = hashOf(bytes);
    this.pictures.add(hash, isInline ? name : image);
    return hash;
  }

  private length(task: Task, length: number): void {
    const sums = this.tasks[task];
    sums.records++;
    sums.length += length;
    sums.longest = Math.max(sums.longest, length);
    const key = `${task} ${Math.floor(2 * Math.log2(Math.max(1, length)))}`;
    this.lengths.set(key, (this.lengths.get(key) ?? 0) + 1);
  }
}

const counts = (): { records: number; length: number; longest: number } => ({ records: 0, length: 0, longest: 0 });

/** Looks at the records of sources, in order. */
export async function dataStats(indexes: readonly SourceIndex[], options: StatsOptions = {}): Promise<DataStats> {
  const { most = Infinity, tokensOf, signal, onProgress } = options;
  const records = indexes.reduce((sum, { count }) => sum + count, 0);
  const seen = Math.min(records, most);
  const collector = new Collector(tokensOf);
  let [first, done] = [0, 0];
  for (const index of indexes) {
    for (; done < seen; done++) {
      const record = Math.floor((done * records) / seen) - first;
      if (record >= index.count) break;
      signal?.throwIfAborted();
      await collector.add(index, record);
      onProgress?.(done + 1, seen);
    }
    first += index.count;
  }
  const { tasks, bad, images } = collector;
  return {
    records,
    seen,
    bad,
    unit: tokensOf ? "tokens" : "characters",
    tasks,
    lengths: TASKS.flatMap((task) => lengthsOf(task, collector.lengths)),
    images,
    sizes: [...collector.sizes].map(([key, count]) => {
      const [width, height] = key.split(" ").map(Number) as [number, number];
      return { width, height, count };
    }),
    sameRecords: collector.records.result,
    sameImages: collector.pictures.result,
    reasons: collector.reasons.list,
  };
}

function lengthsOf(task: Task, lengths: ReadonlyMap<string, number>): LengthCount[] {
  const steps = [...lengths].flatMap(([key, count]) => {
    const [own, step] = key.split(" ") as [string, string];
    return own === task ? [{ step: Number(step), count }] : [];
  });
  const bound = (step: number): number => Math.ceil(2 ** (step / 2));
  return steps
    .sort((a, b) => a.step - b.step)
    .map(({ step, count }) => ({ task, from: bound(step), to: bound(step + 1) - 1, count }));
}
