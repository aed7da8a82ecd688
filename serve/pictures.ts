/** Images of all clients: those with the same settings are drawn in one guided batch, as many as the memory allows. */
import { OutOfMemoryError } from "../engine/index.ts";
import { ImageGeneration } from "../model/janus/generate_images.ts";
import { decodePicture } from "../model/janus/image_codes.ts";
import type { Janus } from "../model/janus/pipeline.ts";
import type { Picture } from "../model/janus/pictures.ts";
import type { RgbImage } from "../model/image/image.ts";
import type { Metrics } from "./metrics.ts";

export interface DrawSettings {
  readonly guidance: number;
  readonly temperature: number;
  readonly topK: number | undefined;
  readonly topP: number | undefined;
}

export interface DrawRequest {
  readonly prompt: string;
  /** Token ids of the prompt. */
  readonly ids: readonly number[];
  /** One image a seed. */
  readonly seeds: readonly number[];
  readonly settings: DrawSettings;
  /** Partial images that are wanted of each image while it is drawn. */
  readonly partials: number;
  readonly signal: AbortSignal;
  readonly onPartial: (image: number, partial: number, picture: RgbImage) => void;
  readonly onPicture: (image: number, picture: Picture) => void;
}

export interface DrawResult {
  readonly pictures: readonly Picture[];
  readonly queuedMs: number;
}

interface Job {
  readonly request: DrawRequest;
  readonly startedMs: number;
  readonly pictures: (Picture | null)[];
  queuedMs: number;
  isOver: boolean;
  readonly resolve: (result: DrawResult) => void;
  readonly reject: (error: unknown) => void;
}

/** An image that waits or is drawn. */
interface Item {
  readonly job: Job;
  readonly index: number;
}

/** Partial k of p is due when k + 1 of p + 1 parts of the codes are there, counted in whole rows. */
function partOf(done: number, tokens: number, partials: number): number {
  const side = Math.round(Math.sqrt(tokens));
  return Math.floor((Math.floor(done / side) * (partials + 1)) / side);
}

const keyOf = ({ guidance, temperature, topK, topP }: DrawSettings): string => [guidance, temperature, topK, topP].join(); // prettier-ignore

export class PictureService {
  private readonly janus: Janus;
  private readonly metrics: Metrics;
  private most: number;
  private readonly queue: Item[] = [];
  private drawn: readonly Item[] = [];
  private run: AsyncGenerator<void> | null = null;

  /** @param most images in one batch */
  constructor(janus: Janus, most: number, metrics: Metrics) {
    this.janus = janus;
    this.most = most;
    this.metrics = metrics;
  }

  get hasWork(): boolean {
    return this.queue.length > 0 || this.run !== null;
  }

  get levels(): { readonly waiting: number; readonly drawing: number } {
    return { waiting: new Set(this.queue.map(({ job }) => job)).size, drawing: this.drawn.length };
  }

  submit(request: DrawRequest): Promise<DrawResult> {
    return new Promise((resolve, reject) => {
      const pictures = request.seeds.map(() => null);
      const job: Job = { request, startedMs: performance.now(), pictures, queuedMs: 0, isOver: false, resolve, reject };
      for (const index of pictures.keys()) this.queue.push({ job, index });
    });
  }

  /** The next codes of the batch that is drawn, or an image; begins a batch if there is none. */
  async step(): Promise<void> {
    this.dropAborted();
    if (!this.run) {
      if (this.queue.length === 0) return;
      this.run = this.draw(this.nextBatch());
    }
    try {
      if ((await this.run.next()).done) this.endRun();
    } catch (error) {
      const items = this.drawn;
      this.endRun();
      this.janus.device.check(); // a lost device ends all requests
      if (!(error instanceof OutOfMemoryError) || items.length === 1)
        for (const { job } of items) this.finish(job, () => job.reject(error));
      else {
        this.most = Math.ceil(items.length / 2);
        this.queue.unshift(...items.filter(({ job }) => !job.isOver));
      }
    }
  }

  failAll(error: unknown): void {
    for (const { job } of [...this.queue, ...this.drawn]) this.finish(job, () => job.reject(error));
  }

  /** Ends the run that was begun, if any. */
  async close(): Promise<void> {
    const run = this.run;
    this.endRun();
    await run?.return(undefined).catch(() => undefined);
  }

  private endRun(): void {
    this.run = null;
    this.drawn = [];
  }

  private dropAborted(): void {
    for (const { job } of [...this.queue, ...this.drawn])
      if (job.request.signal.aborted) this.finish(job, () => job.reject(job.request.signal.reason));
  }

  /** The first image that waits, and those with the same settings. */
  private nextBatch(): Item[] {
    const key = keyOf(this.queue[0]!.job.request.settings);
    const batch: Item[] = [];
    for (let i = 0; i < this.queue.length && batch.length < this.most;) {
      if (keyOf(this.queue[i]!.job.request.settings) === key) batch.push(...this.queue.splice(i, 1));
      else i++;
    }
    for (const { job } of batch) {
      if (job.queuedMs > 0) continue;
      job.queuedMs = Math.max(1e-3, performance.now() - job.startedMs);
      this.metrics.queued.observe({ kind: "image" }, job.queuedMs / 1000);
    }
    return batch;
  }

  private async *draw(items: readonly Item[]): AsyncGenerator<void> {
    this.drawn = items;
    const generation = this.begin(items);
    let codes: number[][];
    try {
      let before = 0;
      for await (const done of generation.run()) {
        if (items.every(({ job }) => job.isOver)) return;
        yield* this.partials(items, generation, [before, done]);
        before = done;
        yield;
      }
      codes = await generation.codes();
    } finally {
      generation.dispose();
      this.janus.device.pool.trim();
    }
    this.metrics.tokens.inc({ kind: "image" }, items.length * generation.tokens);
    for (const [i, item] of items.entries()) {
      if (item.job.isOver) continue;
      yield;
      await this.complete(item, codes[i]!);
    }
  }

  private begin(items: readonly Item[]): ImageGeneration {
    const { janus } = this;
    const { settings } = items[0]!.job.request;
    const jobs = [...new Set(items.map(({ job }) => job))];
    const images = items.map(({ job, index }) => ({ prompt: jobs.indexOf(job), seed: job.request.seeds[index]! }));
    const { topK, topP, ...rest } = settings;
    return new ImageGeneration(
      janus.model,
      janus.config,
      jobs.map(({ request }) => request.ids),
      janus.processor.tokenizer.specials.pad,
      { ...rest, ...(topK !== undefined && { topK }), ...(topP !== undefined && { topP }), images },
    );
  }

  /** Shows the rows so far of the images of which a partial one became due as the codes grew from `before` to `done`. */
  private async *partials(
    items: readonly Item[],
    generation: ImageGeneration,
    [before, done]: readonly [number, number],
  ): AsyncGenerator<void> {
    const { tokens } = generation;
    const due = items.flatMap((item, i) => {
      const { partials } = item.job.request;
      const part = partOf(done, tokens, partials);
      return !item.job.isOver && part > partOf(before, tokens, partials) && part <= partials ? [{ item, i, part }] : [];
    });
    if (due.length === 0) return;
    const codes = await generation.codes();
    for (const { item, i, part } of due) {
      const picture = await decodePicture(this.janus.model.model.vqmodel, codes[i]!);
      if (picture && !item.job.isOver) item.job.request.onPartial(item.index, part - 1, picture);
      yield;
    }
  }

  private async complete({ job, index }: Item, tokenIds: readonly number[]): Promise<void> {
    const { prompt, seeds, settings, onPicture } = job.request;
    const image = (await decodePicture(this.janus.model.model.vqmodel, tokenIds, `image ${index}`))!;
    const picture: Picture = {
      image,
      prompt,
      seed: seeds[index]!,
      ...settings,
      model: this.janus.fingerprint,
      tokenIds,
    };
    if (job.isOver) return;
    job.pictures[index] = picture;
    this.metrics.images.inc();
    onPicture(index, picture);
    const pictures = job.pictures.flatMap((one) => one ?? []);
    if (pictures.length === job.pictures.length)
      this.finish(job, () => job.resolve({ pictures, queuedMs: job.queuedMs }));
  }

  private finish(job: Job, settle: () => void): void {
    if (job.isOver) return;
    job.isOver = true;
    for (let i = this.queue.length - 1; i >= 0; i--) if (this.queue[i]!.job === job) this.queue.splice(i, 1);
    settle();
  }
}
