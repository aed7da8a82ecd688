/** The Worker of `createJanusWorker`: a device and a model, and the calls of the page. */
import { ArgumentError, Device, DeviceError, setDevice } from "../../../engine/index.ts";
import type { DeviceOptions } from "../../../engine/index.ts";
import type { Files } from "../../io/file_sources.ts";
import type { LoadAdapterOptions } from "../adapters.ts";
import type { LoadOptions } from "../load.ts";
import type { Message } from "../prompt.ts";
import type { AskOptions, GenerateOptions, ImageInput } from "../pipeline.ts";
import type { Pictures } from "../pictures.ts";
import { Janus } from "./janus.ts";
import type { WebPretrainedOptions } from "./janus.ts";
import { errorMessage } from "./worker_protocol.ts";
import type { Call, FromWorker, ModelReport, ToWorker } from "./worker_protocol.ts";

/** How the model was loaded, to load it again. */
type Origin =
  | { readonly from: "hub"; readonly given: string; readonly options: WebPretrainedOptions }
  | { readonly from: "files"; readonly given: Files; readonly options: LoadOptions };

interface Adapter {
  readonly files: Files;
  readonly options: LoadAdapterOptions;
}

interface Lost {
  readonly origin: Origin;
  readonly adapters: ReadonlyMap<string, Adapter>;
  /** Factors of the adapters by name. */
  readonly weights: Readonly<Record<string, number>>;
}

/** What a call may use of its message. */
interface Context {
  readonly id: number;
  readonly signal: AbortSignal;
  readonly event: (event: unknown) => void;
  /** The functions of the page's options, by name. */
  readonly callbacks: Readonly<Record<string, (value: unknown) => void>>;
}

const post = (message: FromWorker): void => globalThis.postMessage(message);
const running = new Map<number, AbortController>();
const drawings = new Map<number, Pictures>();
let deviceOptions: DeviceOptions = {};
let device: Device | null = null;
let janus: Janus | null = null;
let origin: Origin | null = null;
const adapters = new Map<string, Adapter>();
/** What `recover` could not load. */
let lost: Lost | null = null;

async function openDevice(): Promise<Device> {
  if (device && !device.isGone) return device;
  const opened = await Device.create(deviceOptions);
  device = opened;
  setDevice(opened);
  void opened.gpu?.lost.then(({ message, reason }) => post({ lost: message || reason }));
  return opened;
}

function model(): Janus {
  if (!janus)
    throw new ArgumentError("JanusWorker: a model must be loaded; got none. Call fromPretrained or fromFiles.");
  return janus;
}

function report(): ModelReport {
  const { name, config, fingerprint, adapters: weights, device: own } = model();
  const { vendor, architecture, software: isSoftware, f16 } = own.capabilities;
  const missing = model().model.missing;
  return {
    name,
    config,
    fingerprint,
    adapters: weights,
    missing,
    device: { name: own.name, vendor, architecture, isSoftware, f16 },
  };
}

async function load(next: Origin, { signal, callbacks }: Context): Promise<ModelReport> {
  if (janus && !janus.device.isGone) janus.dispose();
  [janus, origin, lost] = [null, null, null];
  adapters.clear();
  const on = { ...callbacks, signal, device: await openDevice() };
  const loaded =
    next.from === "hub"
      ? Janus.fromPretrained(next.given, { ...next.options, ...on })
      : Janus.fromFiles(next.given, { ...next.options, ...on });
  janus = (await loaded) as Janus;
  origin = next;
  return report();
}

/** Opens a new device after a loss, and loads the model and its adapters again. If it fails, it can be called again. */
async function recover(context: Context): Promise<ModelReport> {
  const last = lost ?? (origin && { origin, adapters: new Map(adapters), weights: janus?.adapters ?? {} });
  if (!last) throw new ArgumentError("recover: a model must have been loaded; got none. Call fromPretrained or fromFiles."); // prettier-ignore
  try {
    await load(last.origin, context);
    for (const [name, { files, options }] of last.adapters) {
      await model().loadAdapter(files, { ...options, name });
      adapters.set(name, { files, options });
    }
    if (last.adapters.size) model().setAdapters(last.weights);
    return report();
  } catch (error) {
    if (janus && !janus.device.isGone) janus.dispose(); // it would answer without its adapters
    [janus, lost] = [null, last];
    throw error;
  }
}

const CALLS = {
  device: async (_context: Context, options: DeviceOptions) => {
    deviceOptions = options;
    await openDevice();
  },
  fromPretrained: (context: Context, given: string, options: WebPretrainedOptions) =>
    load({ from: "hub", given, options }, context),
  fromFiles: (context: Context, given: Files, options: LoadOptions) => load({ from: "files", given, options }, context),
  ask: async ({ signal, event }: Context, question: string | readonly Message[], options: AskOptions) => {
    const answer = model().ask(question, { ...options, signal });
    for await (const piece of answer) event(piece);
    return answer.result();
  },
  generate: async ({ id, signal, event }: Context, prompt: string | readonly string[], options: GenerateOptions) => {
    const pictures = model().generate(prompt, { ...options, signal });
    drawings.set(id, pictures);
    try {
      for await (const one of pictures) event(one);
      return await pictures.images();
    } finally {
      drawings.delete(id);
    }
  },
  preview: async (_context: Context, of: number) => (await drawings.get(of)?.preview()) ?? [],
  decodeImage: (_context: Context, tokenIds: readonly number[]) => model().decodeImage(tokenIds),
  reconstruct: (_context: Context, input: ImageInput) => model().reconstruct(input),
  loadAdapter: async (_context: Context, files: Files, options: LoadAdapterOptions) => {
    await model().loadAdapter(files, options);
    adapters.set(options.name ?? "default", { files, options });
    return report();
  },
  setAdapters: async (_context: Context, weights: Readonly<Record<string, number>>) => {
    model().setAdapters(weights);
    return report();
  },
  removeAdapters: async (_context: Context, name?: string) => {
    model().removeAdapters(name);
    if (name === undefined) adapters.clear();
    else adapters.delete(name);
    return report();
  },
  dispose: async () => {
    janus?.dispose();
    [janus, origin] = [null, null];
  },
  recover,
  /** For tests: the loss of the device. */
  loseDevice: async () => {
    if (!device?.gpu) throw new DeviceError("loseDevice: a device must be open; got none. Load a model.");
    device.gpu.destroy();
  },
} as const;

async function answer({ id, name, args, callbacks }: Call): Promise<void> {
  const controller = new AbortController();
  running.set(id, controller);
  const context: Context = {
    id,
    signal: controller.signal,
    event: (event) => post({ id, event }),
    callbacks: Object.fromEntries(
      callbacks.map((callback) => [callback, (value: unknown) => post({ id, callback, value })]),
    ),
  };
  try {
    const call = CALLS[name as keyof typeof CALLS] as (
      context: Context,
      ...args: readonly unknown[]
    ) => Promise<unknown>;
    post({ id, result: await call(context, ...args) });
  } catch (error) {
    post({ id, error: errorMessage(error) });
  } finally {
    running.delete(id);
  }
}

addEventListener("message", ({ data }: MessageEvent<ToWorker>) => {
  if ("abort" in data) running.get(data.abort)?.abort();
  else void answer(data);
});
