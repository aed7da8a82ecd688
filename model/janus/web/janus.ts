/** `Janus` in browsers: models from the hub, kept in the browser's storage. */
import { ArgumentError, Device, DeviceError, getDevice, knownOptions, shown } from "../../../engine/index.ts";
import { checkSignal } from "../../request.ts";
import type { LoadOptions } from "../load.ts";
import { Janus as AnyJanus, LOAD_OPTIONS } from "../pipeline.ts";
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { requireFit } from "../fit.ts";
import { fetchModel } from "./hub.ts";
import type { HubOptions } from "./hub.ts";

export interface WebPretrainedOptions extends LoadOptions, HubOptions {
  readonly onNotice?: (message: string) => void;
  readonly signal?: AbortSignal;
}

/** Names of `WebPretrainedOptions`. */
export const PRETRAINED_OPTIONS = [
  ...LOAD_OPTIONS,
  "revision",
  "endpoint",
  "token",
  "onDownload",
  "retries",
  "backoffMs",
] as const;

let opening: Promise<Device> | null = null;

/** The default device; creates it if there is none or if it is lost, only once for simultaneous callers. */
export async function anyDevice(): Promise<Device> {
  try {
    const device = getDevice();
    if (!device.isGone) return device;
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
  }
  opening ??= Device.create().finally(() => (opening = null));
  return opening;
}

/** `Janus` in browsers: also models from the hub, kept in the browser's storage. */
export class Janus extends AnyJanus {
  protected static override requireFit(checkpoint: Checkpoint, device: Device, options: LoadOptions): void {
    requireFit("Janus", checkpoint, device, options);
  }

  /**
   * Loads a model from the Hugging Face hub by its name (`deepseek-ai/Janus-Pro-1B`); opens a device if there is none. The files are kept in the browser's
   * storage (`modelStorage`), checked by their hashes; a download that broke off resumes. Throws `DeviceError` if the device cannot have the model and
   * `StorageError` if there is no room, both before weights are fetched; subclasses of `HubError` and `CheckpointError`.
   */
  static override async fromPretrained(name: string, options: WebPretrainedOptions = {}): Promise<Janus> {
    knownOptions("fromPretrained", options, PRETRAINED_OPTIONS);
    checkSignal("fromPretrained", options.signal);
    if (typeof name !== "string" || name === "")
      throw new ArgumentError(`fromPretrained: the name of a model must be given first; got ${shown(name)}. Pass owner/name.`); // prettier-ignore
    const { revision, endpoint, token, onDownload, retries, backoffMs, ...load } = options;
    const device = load.device ?? (await anyDevice());
    const hub = {
      revision,
      endpoint,
      token,
      onDownload,
      retries,
      backoffMs,
      onNotice: load.onNotice,
      signal: load.signal,
    };
    const given = Object.fromEntries(Object.entries(hub).filter(([, value]) => value !== undefined)) as HubOptions;
    const source = await fetchModel(name, { ...given, device, load });
    return new Janus(...(await Janus.parts(source, { ...load, device })));
  }
}
