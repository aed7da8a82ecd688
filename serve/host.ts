/**
 * The model and its device behind the server. One loop does all work on the device: a token of every running answer, then a part of the images
 * that are drawn. If the device is lost, running requests fail and the model is opened again.
 */
import { OutOfMemoryError, messageOf } from "../engine/index.ts";
import { cacheBytesPerToken } from "../kernels/attention/cache_format.ts";
import { LiveText } from "../model/live_text.ts";
import type { Janus } from "../model/janus/pipeline.ts";
import { isDeviceLoss, unavailable } from "./errors.ts";
import type { Log } from "./log.ts";
import type { Levels, Metrics } from "./metrics.ts";
import { PictureService } from "./pictures.ts";
import type { DrawRequest, DrawResult } from "./pictures.ts";
import type { ServerSettings } from "./settings.ts";
import { TextService } from "./text.ts";
import type { TextRequest, TextResult } from "./text.ts";

/** A loaded model; disposing it frees the model and its device. */
export interface OpenModel extends Disposable {
  readonly janus: Janus;
}

interface Ready {
  readonly open: OpenModel;
  readonly janus: Janus;
  readonly live: LiveText;
  readonly text: TextService;
  readonly pictures: PictureService;
}

/** Share of the memory that is free after loading which the cache of the text rows may take. */
const CACHE_SHARE = 0.4;
const MAX_CONTEXT = 4096;
const MIN_CONTEXT = 64;
/** Images of one batch that are the same as alone, on GPUs. */
const MAX_EXACT_PICTURES = 16;
/** Images that come within this time of the first are drawn with it. */
const GATHER_MS = 10;
const REOPEN_MS = [1000, 2000, 5000, 10_000, 30_000];

export class ModelHost {
  private readonly openModel: () => Promise<OpenModel>;
  private readonly settings: ServerSettings;
  private readonly metrics: Metrics;
  private readonly log: Log;
  private ready: Ready | null = null;
  private isStopped = false;
  private wake: (() => void) | null = null;
  private loop: Promise<void> | null = null;
  private reopening: ReturnType<typeof setTimeout> | null = null;

  constructor(openModel: () => Promise<OpenModel>, settings: ServerSettings, metrics: Metrics, log: Log) {
    this.openModel = openModel;
    this.settings = settings;
    this.metrics = metrics;
    this.log = log;
  }

  /** Loads the model and begins to work. Throws what loading throws. */
  async start(): Promise<void> {
    this.ready = await this.open();
    this.loop = this.work();
  }

  get isReady(): boolean {
    return this.ready !== null && !this.ready.janus.device.isGone && !this.isStopped;
  }

  /** The model; throws `ApiError` 503 while there is none. */
  get model(): Ready {
    if (!this.ready || this.ready.janus.device.isGone) {
      this.wake?.(); // the loop sees the loss
      throw unavailable("the device was lost; the server opens it again", "device_lost", 10);
    }
    return this.ready;
  }

  get levels(): Levels {
    const { ready } = this;
    const text = ready?.text.levels ?? { waiting: 0, rows: 0, parked: 0 };
    const pictures = ready?.pictures.levels ?? { waiting: 0, drawing: 0 };
    const { liveBytes = 0, reservedBytes = 0 } = ready?.janus.device.pool.stats ?? {};
    return { ...text, ...pictures, waiting: text.waiting + pictures.waiting, isReady: this.isReady, liveBytes, reservedBytes }; // prettier-ignore
  }

  answer(request: TextRequest): Promise<TextResult> {
    const result = this.model.text.submit(request);
    this.wake?.();
    return result;
  }

  draw(request: DrawRequest): Promise<DrawResult> {
    const result = this.model.pictures.submit(request);
    this.wake?.();
    return result;
  }

  /** Ends what runs with `reason` and frees the model. */
  async stop(reason: unknown): Promise<void> {
    this.isStopped = true;
    if (this.reopening) clearTimeout(this.reopening);
    this.wake?.();
    await this.loop;
    await this.close(reason);
  }

  private async open(): Promise<Ready> {
    const open = await this.openModel();
    const { janus } = open;
    try {
      const live = await this.openRows(janus);
      const pictures = new PictureService(janus, this.picturesOf(janus), this.metrics);
      const ready = { open, janus, live, text: new TextService(janus, live, this.metrics), pictures };
      void janus.device.gpu?.lost.then(() => this.wake?.());
      return ready;
    } catch (error) {
      open[Symbol.dispose]();
      throw error;
    }
  }

  /** The rows of text. If the context was not asked for and the device turns out to have too little memory, it is halved. */
  private async openRows(janus: Janus): Promise<LiveText> {
    for (let options = this.liveOptions(janus); ;) {
      let live: LiveText | null = null;
      try {
        live = new LiveText(janus.model, options);
        await janus.device.sync(); // some devices refuse memory only now
        return live;
      } catch (error) {
        live?.dispose();
        const capacity = Math.floor(options.capacity / 2);
        if (!(error instanceof OutOfMemoryError) || this.settings.context !== null || capacity < MIN_CONTEXT)
          throw error;
        options = { ...options, capacity };
      }
    }
  }

  /** Rows and capacity of the text cache: what was asked for, else what the memory allows. */
  private liveOptions(janus: Janus): ConstructorParameters<typeof LiveText>[1] {
    const { rows, context } = this.settings;
    const { language } = janus.config;
    const { topK, repetitionPenalty, suppressTokens } = janus.processor.answers;
    const perToken = cacheBytesPerToken(language, janus.model.cacheDType);
    const { budget, stats } = janus.device.pool;
    const fits = Math.floor((CACHE_SHARE * (budget - stats.reservedBytes)) / (perToken * rows));
    const capacity = context ?? Math.min(language.maxPositions, MAX_CONTEXT, Math.max(MIN_CONTEXT, fits));
    return {
      rows,
      capacity,
      ...(topK !== undefined && { topK }),
      ...(repetitionPenalty !== undefined && { repetitionPenalty }),
      ...(suppressTokens && { suppressTokens }),
    };
  }

  /** Images of a batch: what was asked for, as long as they are the same as alone and their caches fit. */
  private picturesOf(janus: Janus): number {
    const { language } = janus.config;
    const { device } = janus;
    const tokens = janus.model.missing.includes("generate images") ? 1 : janus.model.model.vqmodel.side ** 2;
    const perImage = 2 * cacheBytesPerToken(language, janus.model.cacheDType) * (tokens + 64);
    const fits = Math.floor((CACHE_SHARE * (device.pool.budget - device.pool.stats.reservedBytes)) / perImage);
    const exact = device.capabilities.software ? Infinity : MAX_EXACT_PICTURES;
    return Math.max(1, Math.min(this.settings.imageBatch, exact, fits));
  }

  private async work(): Promise<void> {
    while (!this.isStopped) {
      const { ready } = this;
      if (!ready || !(ready.text.hasWork || ready.pictures.hasWork || ready.janus.device.isGone)) {
        await new Promise<void>((resolve) => (this.wake = resolve));
        this.wake = null;
        continue;
      }
      try {
        ready.janus.device.check();
        if (ready.text.hasWork) await ready.text.step();
        if (ready.pictures.hasWork) {
          if (ready.pictures.levels.drawing === 0 && !ready.text.hasWork) await delay(GATHER_MS);
          await ready.pictures.step();
        }
        await new Promise<void>((resolve) => setImmediate(resolve)); // requests come in between
      } catch (error) {
        await this.failed(error);
      }
    }
  }

  /** An error that is nobody's request: all running ones fail, and the model starts afresh; after a loss of the device with a new one. */
  private async failed(error: unknown): Promise<void> {
    const isLost = isDeviceLoss(error) || (this.ready?.janus.device.isGone ?? true);
    this.log.problem(isLost ? "the device was lost" : "work on the device failed", error);
    if (isLost) this.metrics.losses.inc();
    await this.close(isLost ? unavailable("the device was lost; the server opens it again", "device_lost", 10) : error);
    this.reopen(0);
  }

  private reopen(attempt: number): void {
    const wait = attempt === 0 ? 0 : REOPEN_MS[Math.min(attempt - 1, REOPEN_MS.length - 1)]!;
    this.reopening = setTimeout(() => {
      void this.open().then(
        (ready) => {
          if (this.isStopped) return ready.open[Symbol.dispose]();
          this.ready = ready;
          this.log.note("the model answers again");
          this.wake?.();
        },
        (error: unknown) => {
          this.log.problem(`the model cannot be opened: ${messageOf(error)}`, error);
          if (!this.isStopped) this.reopen(attempt + 1);
        },
      );
    }, wait);
  }

  private async close(reason: unknown): Promise<void> {
    const { ready } = this;
    this.ready = null;
    if (!ready) return;
    ready.text.failAll(reason);
    ready.pictures.failAll(reason);
    await ready.pictures.close();
    try {
      ready.live.dispose();
      ready.open[Symbol.dispose]();
    } catch (error) {
      this.log.problem("the model was not freed in order", error);
    }
  }
}

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
