/** What a training run keeps about itself while it runs: a line a step, events, samples, and the page that shows them. */
import { now } from "../../engine/index.ts";
import type { Device } from "../../engine/index.ts";
import type { RgbImage } from "../../model/image/image.ts";
import { readImage } from "../../model/node/image_file.ts";
import type { Janus } from "../../model/pipeline.ts";
import type { TrainConfig } from "../config.ts";
import { isBadSample } from "../data/loader.ts";
import type { SourceIndex } from "../data/index_file.ts";
import type { Sample } from "../samples.ts";
import type { StepReport } from "../trainer.ts";
import { messageOf } from "../run/errors.ts";
import { Journal } from "./journal.ts";
import type { JournalOptions } from "./journal.ts";
import type { StepEvent } from "./log.ts";
import { RunCurves, runReport } from "./run_report.ts";
import { drawSamples, readReconstructions, saveReconstructions } from "./samples.ts";
import { FlopMeter } from "./speed.ts";

/** Seconds after which the browser loads the page of a running run again. */
const REFRESH = 30;

export interface RecorderOptions extends JournalOptions {
  readonly config: TrainConfig;
  readonly device: Device;
  /** FLOP/s that MFU is a part of. */
  readonly ceiling: number;
}

export class Recorder extends Journal {
  private readonly options: RecorderOptions;
  private readonly curves = new RunCurves();
  private readonly meter: FlopMeter;

  private constructor(options: RecorderOptions, steps: number) {
    super(options, steps);
    this.options = options;
    this.meter = new FlopMeter(options.device, options.config.recompute);
  }

  /** Goes on with the records of a run that has done `steps` steps (0 for a new one), as `begin` does. */
  static async open(options: RecorderOptions, steps: number, from: string): Promise<Recorder> {
    const recorder = new Recorder(options, steps);
    await recorder.begin(from, (line) => recorder.curves.add(line));
    if (steps > 0) recorder.curves.mark(steps, "resumed");
    return recorder;
  }

  /** Runs a step and writes its line. `loaded` of its samples is when it began and how long it waited for them, ms. */
  async step(
    take: () => Promise<StepReport>,
    samples: readonly Sample[],
    loaded: { readonly started: number; readonly waitingMs: number },
  ): Promise<StepEvent> {
    const { device, ceiling } = this.options;
    let flops = 0;
    this.meter.start();
    const report = await take().finally(() => (flops = this.meter.stop()));
    const ms = now() - loaded.started;
    const images = samples.reduce((sum, { task, images: seen }) => sum + seen.length + Number(task === "gen"), 0);
    const event: StepEvent = {
      ...report,
      ms,
      waitingMs: loaded.waitingMs,
      tokensPerSecond: ((report.tokens - report.padding) * 1000) / ms,
      imagesPerSecond: (images * 1000) / ms,
      flops,
      mfu: (flops * 1000) / ms / ceiling,
      memoryBytes: device.pool.stats.reservedBytes,
    };
    this.curves.add(event);
    await this.line(event);
    return event;
  }

  /**
   * Draws samples and writes the page, where they are due after the last step; at the end of the run both are. What goes wrong is said and
   * ends nothing: a run does not stop for its report.
   * @param janus of the model in training; asked for where pictures are made
   * @param sources whose first pictures are reconstructed, once
   */
  async report(
    janus: () => Janus,
    sources: readonly SourceIndex[],
    { isEnd, signal }: { readonly isEnd: boolean; readonly signal?: AbortSignal | undefined },
  ): Promise<void> {
    const { run, config } = this.options;
    const { every, sampleEvery = every, reconstructions, ...how } = config.report;
    const isSampled = how.prompts.length > 0 && (isEnd || this.steps % sampleEvery === 0);
    if (every === 0 || !(isEnd || isSampled || this.steps % every === 0)) return;
    const attempt = async (make: () => Promise<void>): Promise<void> => {
      try {
        await make();
      } catch (error) {
        if (!signal?.aborted) this.notice(`no pictures for the report: ${messageOf(error)}`);
      }
    };
    if (isSampled) await attempt(() => drawSamples(janus(), run, this.steps, { ...how, ...(signal && { signal }) }));
    if (reconstructions > 0)
      await attempt(async () => {
        if ((await readReconstructions(run)).length > 0) return;
        const images = await firstPictures(sources, reconstructions);
        if (images.length) await saveReconstructions(janus(), run, images);
      });
    try {
      await this.write(isEnd);
    } catch (error) {
      this.notice(`the report could not be written: ${messageOf(error)}`);
    }
  }

  /** On the page too. */
  override async failed(error: unknown): Promise<void> {
    await super.failed(error);
    try {
      if (this.options.config.report.every > 0) await this.write(true);
    } catch {
      // the disk, most likely, and the error on its way says so
    }
  }

  private async write(isEnd: boolean): Promise<void> {
    await runReport(this.options.run, { curves: this.curves, ...(!isEnd && { refresh: REFRESH }) });
  }
}

/** The first pictures that are to be drawn; those that cannot be read are passed over. */
async function firstPictures(sources: readonly SourceIndex[], most: number): Promise<RgbImage[]> {
  const images: RgbImage[] = [];
  for (const source of sources) {
    if (source.task !== "gen") continue;
    for (let i = 0; i < Math.min(source.count, 2 * most) && images.length < most; i++) {
      try {
        const raw = await source.read(i);
        if (raw.task === "gen") images.push(await readImage(raw.image));
      } catch (error) {
        if (!isBadSample(error)) throw error;
      }
    }
  }
  return images;
}
