/**
 * `createJanusWorker`: a model in a Worker with the methods of `Janus`, so that no work of the model blocks the page. The Worker's side is worker_main.ts.
 */
import { messageOf } from "../../../engine/errors.ts";
import { ArgumentError, DeviceLostError, knownOptions } from "../../../engine/index.ts";
import type { DeviceOptions } from "../../../engine/index.ts";
import type { RgbImage } from "../../image/image.ts";
import { fromCanvas, isCanvas } from "../../image/web_image.ts";
import type { Files } from "../../io/file_sources.ts";
import { Answer } from "../../streams.ts";
import type { AnswerResult } from "../../streams.ts";
import type { LoadAdapterOptions } from "../adapters.ts";
import type { JanusConfig } from "../config.ts";
import type { Reconstruction } from "../image_codes.ts";
import type { LoadOptions } from "../load.ts";
import type { AskOptions, GenerateOptions, ImageInput } from "../pipeline.ts";
import { Pictures } from "../pictures.ts";
import type { GenerateEvent, Picture } from "../pictures.ts";
import type { Message } from "../prompt.ts";
import type { WebPretrainedOptions } from "./janus.ts";
import { errorOf } from "./worker_protocol.ts";
import type { FromWorker, ModelReport, ToWorker } from "./worker_protocol.ts";

export type { AskOptions, GenerateOptions, ImageInput } from "../pipeline.ts";
export type { GenerateEvent, Picture } from "../pictures.ts";
export type { AnswerResult } from "../../streams.ts";

export interface JanusWorkerOptions {
  /** A Worker that runs `janus-webgpu/worker-main` (default: a new one). */
  readonly worker?: Worker;
  /** Options of the device. */
  readonly device?: Omit<DeviceOptions, "capabilities">;
  /** Called when the device is lost. `WorkerJanus.recover` opens a new one. */
  readonly onLost?: (error: DeviceLostError) => void;
}

interface Pending {
  readonly callbacks: Readonly<Record<string, (value: never) => void>>;
  readonly onEvent: ((event: unknown) => void) | undefined;
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
}

interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onEvent?: (event: unknown) => void;
  readonly callbacks?: Readonly<Record<string, (value: never) => void>>;
}

/** The calls of a page to its Worker. */
class Channel {
  private readonly worker: Worker;
  private readonly pending = new Map<number, Pending>();
  private next = 0;
  private end: Error | null = null;

  constructor(worker: Worker, onLost: (message: string) => void) {
    this.worker = worker;
    worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => {
      if ("lost" in data) onLost(data.lost);
      else this.receive(data);
    });
    worker.addEventListener("error", ({ message }) => this.close(new Error(`the Worker failed: ${message || "its script could not be loaded"}`))); // prettier-ignore
  }

  private receive(message: Exclude<FromWorker, { lost: string }>): void {
    const call = this.pending.get(message.id);
    if (!call) return;
    if ("event" in message) call.onEvent?.(message.event);
    else if ("callback" in message) call.callbacks[message.callback]?.(message.value as never);
    else {
      this.pending.delete(message.id);
      if ("error" in message) call.reject(errorOf(message.error));
      else call.resolve(message.result as never);
    }
  }

  private send(message: ToWorker): void {
    this.worker.postMessage(message);
  }

  /** Calls `name` in the Worker. Returns the number of the call and its result. */
  call<T>(
    name: string,
    args: readonly unknown[],
    { signal, onEvent, callbacks = {} }: CallOptions = {},
  ): { readonly id: number; readonly result: Promise<T> } {
    const id = this.next++;
    const result = new Promise<T>((resolve, reject) => {
      if (this.end) return reject(this.end);
      signal?.throwIfAborted();
      const onAbort = (): void => this.send({ abort: id });
      signal?.addEventListener("abort", onAbort, { once: true });
      const done = (): void => signal?.removeEventListener("abort", onAbort);
      this.pending.set(id, {
        callbacks,
        onEvent,
        resolve: (value) => (done(), resolve(value)),
        reject: (error) => (done(), reject(signal?.aborted ? (signal.reason as Error) : error)),
      });
      try {
        this.send({ id, name, args, callbacks: Object.keys(callbacks) });
      } catch (error) {
        this.pending.delete(id);
        throw new ArgumentError(
          `${name}: arguments must be values that can be sent to a Worker; got: ${messageOf(error)}. Pass plain data, Blobs or typed arrays.`,
        );
      }
    });
    return { id, result };
  }

  abort(id: number): void {
    if (this.pending.has(id)) this.send({ abort: id });
  }

  close(error: Error): void {
    this.end = error;
    this.worker.terminate();
    for (const call of this.pending.values()) call.reject(error);
    this.pending.clear();
  }

  /** The events of a call as a stream; a consumer that leaves aborts the call. `onStart` gets the number of the call. */
  async *stream<Event, Result>(
    name: string,
    args: readonly unknown[],
    { signal, onStart }: { readonly signal: AbortSignal | undefined; readonly onStart?: (id: number) => void },
  ): AsyncGenerator<Event, Result> {
    const events: Event[] = [];
    let wake = (): void => undefined;
    const { id, result } = this.call<Result>(name, args, {
      signal,
      onEvent: (event) => {
        events.push(event as Event);
        wake();
      },
    });
    onStart?.(id);
    const outcome: { isDone: boolean } = { isDone: false };
    const finish = (): void => {
      outcome.isDone = true;
      wake();
    };
    result.then(finish, finish);
    try {
      for (;;) {
        while (events.length) yield events.shift()!;
        if (outcome.isDone) return await result;
        await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      this.abort(id);
    }
  }
}

/** Options without functions and signals, which cannot be sent; and these. */
function split<T extends object>(options: T): { plain: object; callbacks: CallOptions["callbacks"] & object } {
  const entries = Object.entries(options) as [string, unknown][];
  const callbacks = entries.filter(([, value]) => typeof value === "function");
  const plain = entries.filter(([name, value]) => typeof value !== "function" && name !== "signal");
  return { plain: Object.fromEntries(plain), callbacks: Object.fromEntries(callbacks) as never };
}

/** Files as they can be sent: a `FileList` or an iterable becomes a list. */
function sendable(files: Files): unknown {
  if (typeof files === "string") return new URL(files, location.href).href;
  if (files instanceof URL) return files.href;
  if (typeof files === "object" && "open" in files)
    throw new ArgumentError("JanusWorker: files must be File objects, bytes or Blobs by name, or a URL; got a source with functions, which cannot be sent to a Worker. Pass its files."); // prettier-ignore
  if (files instanceof Map) return files;
  if (Symbol.iterator in files) return [...(files as Iterable<File>)];
  return "length" in files && !(files instanceof Blob) ? Array.from(files as ArrayLike<File>) : files;
}

/** A canvas of the page as pixels; everything else can be sent. */
const sendableImage = (input: ImageInput): unknown => (isCanvas(input) ? fromCanvas(input) : input);

/** A Worker with a device and at most one model: loading another one replaces it. */
export class JanusWorker {
  private readonly channel: Channel;
  private readonly opened: Promise<unknown>;

  constructor(options: JanusWorkerOptions = {}) {
    knownOptions("createJanusWorker", options, ["worker", "device", "onLost"]);
    const { onLost } = options;
    const worker = options.worker ?? new Worker(new URL("./worker_main.ts", import.meta.url), { type: "module" });
    this.channel = new Channel(worker, (message) =>
      onLost?.(
        new DeviceLostError(
          `JanusWorker: the device must be alive; got a loss of the device (${message}). Call recover().`,
        ),
      ),
    );
    this.opened = this.channel.call("device", [options.device ?? {}]).result;
    this.opened.catch(() => undefined); // the first load reports it
  }

  /** As `Janus.fromPretrained` in browsers. */
  async fromPretrained(name: string, options: Omit<WebPretrainedOptions, "device"> = {}): Promise<WorkerJanus> {
    return this.load("fromPretrained", name, options);
  }

  /** As `Janus.fromFiles`. */
  async fromFiles(files: Files, options: Omit<LoadOptions, "device"> = {}): Promise<WorkerJanus> {
    return this.load("fromFiles", sendable(files), options);
  }

  private async load(name: string, given: unknown, options: LoadOptions): Promise<WorkerJanus> {
    await this.opened;
    const { plain, callbacks } = split(options);
    const { signal } = options;
    const { result } = this.channel.call<ModelReport>(name, [given, plain], { signal, callbacks });
    return new WorkerJanus(this.channel, await result);
  }

  /** Ends the Worker; running calls reject. */
  terminate(): void {
    this.channel.close(new DOMException("the Worker was terminated", "AbortError"));
  }
}

/** A model in a Worker. Methods are those of `Janus`. */
export class WorkerJanus {
  readonly name: string;
  readonly config: JanusConfig;
  /** What the model cannot do because its files lack the weights. */
  readonly missing: readonly string[];
  private readonly channel: Channel;
  private about: ModelReport;

  /** @param about what the Worker said of the model */
  constructor(channel: Channel, about: ModelReport) {
    this.channel = channel;
    this.about = about;
    this.name = about.name;
    this.config = about.config;
    this.missing = about.missing;
  }

  /** The device in the Worker. */
  get device(): ModelReport["device"] {
    return this.about.device;
  }

  get fingerprint(): string {
    return this.about.fingerprint;
  }

  get adapters(): Readonly<Record<string, number>> {
    return this.about.adapters;
  }

  ask(question: string | readonly Message[], options: AskOptions = {}): Answer {
    const { signal } = options;
    const images = options.images?.map(sendableImage);
    const plain = { ...split(options).plain, ...(images && { images }) };
    return new Answer(this.channel.stream<string, AnswerResult>("ask", [question, plain], { signal }));
  }

  generate(prompt: string | readonly string[], options: GenerateOptions = {}): Pictures {
    const { signal } = options;
    const started: { id?: number } = {};
    const onStart = (id: number): void => void (started.id = id);
    const args = [prompt, split(options).plain];
    return new Pictures(
      this.channel.stream<GenerateEvent, Picture[]>("generate", args, { signal, onStart }),
      async () =>
        started.id === undefined ? [] : this.channel.call<(RgbImage | null)[]>("preview", [started.id]).result,
    );
  }

  decodeImage(tokenIds: readonly number[]): Promise<RgbImage> {
    return this.channel.call<RgbImage>("decodeImage", [tokenIds]).result;
  }

  reconstruct(input: ImageInput): Promise<Reconstruction> {
    return this.channel.call<Reconstruction>("reconstruct", [sendableImage(input)]).result;
  }

  async loadAdapter(files: Files, options: LoadAdapterOptions = {}): Promise<void> {
    this.about = await this.channel.call<ModelReport>("loadAdapter", [sendable(files), options]).result;
  }

  async setAdapters(weights: Readonly<Record<string, number>>): Promise<void> {
    this.about = await this.channel.call<ModelReport>("setAdapters", [weights]).result;
  }

  async removeAdapters(name?: string): Promise<void> {
    this.about = await this.channel.call<ModelReport>("removeAdapters", [name]).result;
  }

  /** After a loss of the device: opens a new one and loads the model and its adapters again, from the same files. */
  async recover(
    options: Pick<WebPretrainedOptions, "onProgress" | "onDownload" | "onNotice" | "signal"> = {},
  ): Promise<void> {
    const { callbacks } = split(options);
    this.about = await this.channel.call<ModelReport>("recover", [], { signal: options.signal, callbacks }).result;
  }

  /** Frees the weights. */
  dispose(): Promise<void> {
    return this.channel.call<void>("dispose", []).result;
  }

  /** For tests of programs that recover: loses the device, as a driver that crashes does. */
  loseDevice(): Promise<void> {
    return this.channel.call<void>("loseDevice", []).result;
  }
}

/** Starts a Worker for a model, with a device of its own: no frame of the page waits for the model. */
export const createJanusWorker = (options: JanusWorkerOptions = {}): JanusWorker => new JanusWorker(options);
