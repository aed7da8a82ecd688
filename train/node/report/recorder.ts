/** What runs keep about themselves while they go on: a line a step, events, pictures, and the page that shows them. */
import { now } from "../../../engine/index.ts";
import type { Device } from "../../../engine/index.ts";
import type { RgbImage } from "../../../model/image/image.ts";
import { readImage } from "../../../model/node/image_file.ts";
import type { Janus } from "../../../model/janus/pipeline.ts";
import type { VqModel } from "../../../model/vq.ts";
import type { TokenizerConfig, TrainConfig } from "../../config.ts";
import { isBadSample } from "../data/loader.ts";
import type { SourceIndex } from "../data/index_file.ts";
import type { Sample } from "../../samples.ts";
import type { ReadImageOptions } from "../../../model/node/image_file.ts";
import { messageOf } from "../run/errors.ts";
import type { StepReport } from "../../trainer.ts";
import { Journal } from "./journal.ts";
import type { JournalOptions, Standing } from "./journal.ts";
import type { StepEvent } from "./log.ts";
import { cutSamples, drawSamples, readReconstructions, saveReconstructions } from "./samples.ts";
import { FlopMeter } from "./speed.ts";

export interface RecorderOptions extends JournalOptions {
  readonly config: TrainConfig;
  readonly device: Device;
  /** FLOP/s that MFU is a part of. */
  readonly ceiling: number;
}

/** Of a run of stages 1 to 3. */
export class Recorder extends Journal {
  private readonly options: RecorderOptions;
  private readonly meter: FlopMeter;

  /** @param steps that the run has done; 0 for a new one */
  constructor(options: RecorderOptions, steps: number) {
    super(options, steps);
    this.options = options;
    this.meter = new FlopMeter(options.device);
  }

  override async begin(from: string): Promise<void> {
    await super.begin(from);
    await cutSamples(this.options.run, this.steps).catch((error: unknown) =>
      this.notice(`samples of later steps stay: ${messageOf(error)}`),
    );
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
    await this.line(event);
    return event;
  }

  /**
   * Draws samples and writes the page, where they are due after the last step.
   * @param janus of the model in training; asked for where pictures are made
   * @param sources whose first pictures are reconstructed, once
   */
  async report(janus: () => Janus, sources: readonly SourceIndex[], standing: Standing): Promise<void> {
    const { run, config } = this.options;
    const { every, sampleEvery = every, reconstructions, ...how } = config.report;
    const isSampled = every > 0 && how.prompts.length > 0 && this.isDue(sampleEvery, standing.isEnd);
    if (!isSampled && !this.isDue(every, standing.isEnd)) return;
    const { signal } = standing;
    const draw = (): Promise<void> => drawSamples(janus(), run, this.steps, { ...how, ...(signal && { signal }) });
    const reconstructOnce = async (): Promise<void> => {
      if (reconstructions === 0 || (await readReconstructions(run)).length > 0) return;
      const drawn = sources.filter(({ task }) => task === "gen");
      await saveReconstructions(
        janus().model.model.vqmodel,
        run,
        await firstPictures(drawn, reconstructions, config.data),
      );
    };
    await this.write([...(isSampled ? [draw] : []), reconstructOnce], standing);
  }
}

/** Of a run of stage 0. */
export class TokenizerRecorder extends Journal {
  private readonly options: JournalOptions & { readonly config: TokenizerConfig };

  /** @param steps that the run has done; 0 for a new one */
  constructor(options: JournalOptions & { readonly config: TokenizerConfig }, steps: number) {
    super(options, steps);
    this.options = options;
  }

  /** Writes the page where it is due after the last step, with the first pictures of `sources` as the tokenizer holds them by now. */
  async report(vq: VqModel, sources: readonly SourceIndex[], standing: Standing): Promise<void> {
    const { run, config } = this.options;
    const { every, reconstructions } = config.report;
    if (!this.isDue(every, standing.isEnd)) return;
    const hold = async (): Promise<void> => saveReconstructions(vq, run, await firstPictures(sources, reconstructions));
    await this.write([hold], standing);
  }
}

/** The first pictures that are seen or drawn; those that cannot be read are passed over. */
async function firstPictures(
  sources: readonly SourceIndex[],
  most: number,
  how: ReadImageOptions = {},
): Promise<RgbImage[]> {
  const images: RgbImage[] = [];
  for (const source of sources) {
    for (let i = 0; i < Math.min(source.count, 2 * most) && images.length < most; i++) {
      try {
        const raw = await source.read(i);
        const path = raw.task === "gen" ? raw.image : raw.task === "und" ? raw.images[0] : undefined;
        if (path !== undefined) images.push(await readImage(path, how));
      } catch (error) {
        if (!isBadSample(error)) throw error;
      }
    }
  }
  return images;
}
