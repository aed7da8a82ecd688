/**
 * The logs of a run: `log.jsonl` has a line per step, and `events.jsonl` has all other events. Both contain one JSON
 * object per line, and lines that a crash has cut off or damaged are passed over.
 */
import { appendFileSync } from "node:fs";
import { appendFile, open, truncate } from "node:fs/promises";
import { join } from "node:path";
import { fileError } from "../../../model/node/files.ts";
import type { StepReport } from "../../step_report.ts";
import type { VqLosses, VqStep, VqUsage } from "../../stage0/options.ts";

/** Time and memory of a step of any stage. */
interface StepCost {
  /** Time of the whole step, ms, and its part spent waiting for samples. */
  readonly ms: number;
  readonly waitingMs: number;
  /** Images that were seen and images that were learned to be drawn. */
  readonly imagesPerSecond: number;
  /** Bytes of the buffers on the device, in use or kept for the next step. */
  readonly memoryBytes: number;
}

/** A line of the log of stages 1 to 3. Values that are not finite are null in the file. */
export interface StepEvent extends StepReport, StepCost {
  /** Without padding. */
  readonly tokensPerSecond: number;
  /** FLOPs of forward and backward as the launches state them, without recomputation (`recompute`). */
  readonly flops: number;
  /** Model FLOPs utilisation: `flops` per second, as a part of the matmul ceiling measured when the run began. */
  readonly mfu: number;
}

/** A line of the log of stage 0. */
export interface TokenizerStepEvent extends VqLosses, Omit<VqStep, "losses" | "vectors">, StepCost {
  /** Counted from 0. */
  readonly step: number;
  readonly lr: number;
  /** Set if codes were examined after the step. */
  readonly reseed?: VqUsage;
}

type Loose<T> = T extends number ? number | null : T extends object ? { readonly [K in keyof T]?: Loose<T[K]> } : T;
/** A step of any stage, as read from the log: only its number is always present. */
export type LogLine = Loose<Omit<StepEvent & TokenizerStepEvent, "step">> & { readonly step: number };

/** Something that happened in a run. */
export interface RunEvent {
  /** ISO 8601. */
  readonly time: string;
  /** Steps done by then. */
  readonly step: number;
  readonly kind: "start" | "resume" | "notice" | "skip" | "save" | "stop" | "end" | "error";
  readonly text: string;
  /** Settings, for `start` and `resume`. */
  readonly config?: unknown;
}

const LOG = "log.jsonl";
const EVENTS = "events.jsonl";
export const logPath = (run: string): string => join(run, LOG);

/** Objects of a file of JSON lines with the byte behind each; none if there is no file. */
async function* jsonLines(
  path: string,
): AsyncGenerator<{ readonly json: Record<string, unknown>; readonly end: number }> {
  let handle;
  try {
    handle = await open(path);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return;
    throw fileError(error, path);
  }
  try {
    let rest: Buffer<ArrayBufferLike> = Buffer.alloc(0);
    let end = 0;
    for await (const chunk of handle.createReadStream({ autoClose: false }) as AsyncIterable<Buffer>) {
      rest = rest.length ? Buffer.concat([rest, chunk]) : chunk;
      let from = 0;
      for (let to = rest.indexOf(10); to >= 0; to = rest.indexOf(10, from)) {
        const text = rest.toString("utf8", from, to);
        [from, end] = [to + 1, end + to + 1 - from];
        const json = parsed(text);
        if (json) yield { json, end };
      }
      rest = rest.subarray(from);
    }
  } catch (error) {
    throw fileError(error, path);
  } finally {
    await handle.close();
  }
}

function parsed(text: string): Record<string, unknown> | null {
  try {
    const json: unknown = JSON.parse(text);
    return typeof json === "object" && json !== null ? (json as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** The steps of a run folder, in order. */
export async function* readLog(run: string): AsyncGenerator<LogLine> {
  for await (const { json } of jsonLines(logPath(run)))
    if (Number.isInteger(json["step"])) yield json as unknown as LogLine;
}

/** The events of a run (`events.jsonl`), oldest first; empty if there is no such file. */
export async function readEvents(run: string): Promise<RunEvent[]> {
  const events: RunEvent[] = [];
  for await (const { json } of jsonLines(join(run, EVENTS)))
    if (typeof json["text"] === "string") events.push(json as unknown as RunEvent);
  return events;
}

/**
 * Truncates a file before the first line that `isKept` refuses, and removes an incomplete last line after a crash.
 * Returns the number of removed lines.
 */
async function keepLines(path: string, isKept: (json: Record<string, unknown>) => boolean): Promise<number> {
  let [end, cut] = [0, 0];
  for await (const { json, end: behind } of jsonLines(path))
    if (cut > 0 || !isKept(json)) cut++;
    else end = behind;
  await truncate(path, end).catch((error: unknown) => {
    if (!(error instanceof Error && "code" in error && error.code === "ENOENT")) throw fileError(error, path);
  });
  return cut;
}

/**
 * Makes the log that of the first `steps` steps: what comes behind them was done by a process that ended before it saved, and is done again.
 * Calls `onLine` with each step that stays; returns how many were cut. Events all stay.
 */
export async function cutLog(run: string, steps: number, onLine: (line: LogLine) => void): Promise<number> {
  await keepLines(join(run, EVENTS), () => true);
  return keepLines(logPath(run), (json) => {
    const line = json as unknown as LogLine;
    if (line.step >= steps) return false;
    if (Number.isInteger(line.step)) onLine(line);
    return true;
  });
}

/** Throws `FileError` if the disk takes no more, as the other one does. */
export async function appendStep(run: string, event: { readonly step: number }): Promise<void> {
  try {
    await appendFile(logPath(run), `${JSON.stringify(event)}\n`);
  } catch (error) {
    throw fileError(error, logPath(run));
  }
}

/** Writes synchronously, so that events are on disk, in order, however the run ends. */
export function appendEvent(run: string, event: RunEvent): void {
  const path = join(run, EVENTS);
  try {
    appendFileSync(path, `${JSON.stringify(event)}\n`);
  } catch (error) {
    throw fileError(error, path);
  }
}
