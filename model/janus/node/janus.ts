/** `Janus` in Node: models from folders and from the hub, images from files and to PNG files that say how they were made. */
import { ArgumentError, Device, DeviceError, getDevice, knownOptions, shown } from "../../../engine/index.ts";
import { ImageFormatError } from "../../image/image.ts";
import type { RgbImage } from "../../image/image.ts";
import type { LoadAdapterOptions } from "../adapters.ts";
import type { Files } from "../../io/file_sources.ts";
import type { LoadOptions } from "../load.ts";
import { Janus as AnyJanus, LOAD_OPTIONS } from "../pipeline.ts";
import type { ImageInput } from "../pipeline.ts";
import type { Picture } from "../pictures.ts";
import { readWhole } from "../../io/bytes.ts";
import { openCheckpoint } from "../checkpoint/checkpoint.ts";
import type { OptionalPart } from "../checkpoint/expected.ts";
import type { JanusConfig } from "../config.ts";
import { readProcessor } from "../processor.ts";
import type { Processor } from "../processor.ts";
import { folderSource, openFile, writeFileAtomic } from "../../node/files.ts";
import { modelFolder } from "./hub.ts";
import type { DownloadOptions } from "./hub.ts";
import { checkSignal } from "../../request.ts";
import { checkReadOptions, encodePng, readImage, readPngText } from "../../node/image_file.ts";
import type { ReadImageOptions } from "../../node/image_file.ts";

export interface PretrainedOptions extends LoadOptions {
  /** Branch, tag or commit of a model on the hub. */
  readonly revision?: string;
  /** Cache folder of models of the hub (default: HF_HUB_CACHE, else HF_HOME/hub). */
  readonly cacheDir?: string;
  readonly onDownload?: DownloadOptions["onProgress"];
  /** Things worth saying: the cache was used because the hub did not answer; tensors with values that are not finite, by name. */
  readonly onNotice?: (message: string) => void;
  /** Options for reading image files (default: as a person sees them). */
  readonly pictures?: ReadImageOptions;
}

/** `Janus` in Node: also models from folders and from the hub, images from files, and PNG files that say how they were made. */
export class Janus extends AnyJanus {
  private pictures: ReadImageOptions = {};

  /**
   * Loads a model from a folder, or from the Hugging Face hub by its name (`deepseek-ai/Janus-Pro-1B`); opens a device if there is none.
   * Throws subclasses of `IoError` (`CheckpointError`: the files are at fault, `HubError`: the hub, `FileError`: the system), `OutOfMemoryError`, `DeviceError`.
   */
  static override async fromPretrained(directoryOrName: string, options: PretrainedOptions = {}): Promise<Janus> {
    knownOptions("fromPretrained", options, [...LOAD_OPTIONS, "revision", "cacheDir", "onDownload", "pictures"]);
    checkPretrained(directoryOrName, options);
    const { revision, cacheDir, onDownload: onProgress, onNotice, signal } = options;
    const folder = await modelFolder(directoryOrName, {
      ...(revision !== undefined && { revision }),
      ...(cacheDir !== undefined && { cache: cacheDir }),
      ...(onProgress && { onProgress }),
      ...(onNotice && { onNotice }),
      ...(signal && { signal }),
    });
    const janus = new Janus(
      ...(await Janus.parts(folderSource(folder), { ...options, device: options.device ?? (await anyDevice()) })),
    );
    janus.pictures = options.pictures ?? {};
    return janus;
  }

  /** Loads an adapter as `Janus.loadAdapter` of browsers does; a text is the path of its folder. */
  override async loadAdapter(files: Files, options: LoadAdapterOptions = {}): Promise<void> {
    await super.loadAdapter(typeof files === "string" ? folderSource(files) : files, options);
  }

  protected override async image(input: ImageInput): Promise<RgbImage> {
    if (typeof input === "string" || input instanceof Uint8Array) return readImage(input, this.pictures);
    if (!(input instanceof Blob)) return super.image(input);
    const name = "name" in input ? String(input.name) : undefined;
    return readImage(new Uint8Array(await input.arrayBuffer()), { ...this.pictures, ...(name && { name }) });
  }
}

/** Plain JavaScript may pass anything, and what is of no use at once would be ignored. */
function checkPretrained(name: unknown, { device, signal, pictures, ...options }: PretrainedOptions): void {
  const op = "fromPretrained";
  if (typeof name !== "string" || name === "")
    throw new ArgumentError(
      `${op}: a folder or the name of a model must be given first; got ${name === "" ? '""' : shown(name)}`,
    );
  if (device !== undefined && !(device instanceof Device))
    throw new ArgumentError(`${op}: device must be a Device; got ${shown(device)}. Pass await Device.create()`);
  checkSignal(op, signal);
  if (pictures !== undefined) checkReadOptions(`${op}: pictures`, pictures);
  for (const key of ["onDownload", "onProgress", "onNotice"] as const)
    if (options[key] !== undefined && typeof options[key] !== "function")
      throw new ArgumentError(`${op}: ${key} must be a function; got ${shown(options[key])}`);
}

let opening: Promise<Device> | null = null;

/** Returns the default device; creates it if there is none, only once for simultaneous callers. */
async function anyDevice(): Promise<Device> {
  try {
    return getDevice();
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    opening ??= Device.create().finally(() => (opening = null));
    return opening;
  }
}

const KEY = "janus-webgpu";

/** The image as a PNG file that carries, in the text `janus-webgpu`, the prompt and all that it takes to make it again (JSON). */
export async function encodePicture(picture: Picture): Promise<Uint8Array> {
  if (typeof picture?.prompt !== "string" || typeof picture.image !== "object")
    throw new ArgumentError(
      `encodePicture: a picture of generate must be given; got ${shown(picture)}. For other images use encodePng`,
    );
  const { image, ...how } = picture;
  return encodePng(image, { [KEY]: JSON.stringify(how) });
}

/** Writes `encodePicture` to a file, at once. */
export async function savePicture(path: string, picture: Picture): Promise<void> {
  await writeFileAtomic(path, await encodePicture(picture));
}

/** Reads how an image was generated from its file (path or bytes). Throws `ImageFormatError` if the file does not say. */
export async function readPicture(source: string | Uint8Array): Promise<Omit<Picture, "image">> {
  const bytes = typeof source === "string" ? await wholeFile(source) : source;
  const name = typeof source === "string" ? source : "the image";
  const text = readPngText(bytes).get(KEY);
  if (text === undefined)
    throw new ImageFormatError(
      `${name} does not say how it was made; only PNG files written by janus-webgpu do (text "${KEY}")`,
    );
  return parsePicture(text, name);
}

const MAX_PICTURE = 128 * 2 ** 20; // bytes

async function wholeFile(path: string): Promise<Uint8Array> {
  const file = await openFile(path);
  try {
    return await readWhole(file, MAX_PICTURE);
  } finally {
    await file.close?.();
  }
}

function parsePicture(text: string, name: string): Omit<Picture, "image"> {
  const fail = (what: string): never => {
    throw new ImageFormatError(`${name}: its text "${KEY}" ${what}`);
  };
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return fail("is not JSON");
  }
  if (typeof json !== "object" || json === null) return fail("is not an object");
  const how = json as Record<string, unknown>;
  const number = (key: string): number => (typeof how[key] === "number" ? how[key] : fail(`has no number ${key}`));
  const string = (key: string): string => (typeof how[key] === "string" ? how[key] : fail(`has no string ${key}`));
  const optional = (key: string): number | undefined => (how[key] === undefined ? undefined : number(key));
  const { tokenIds } = how;
  if (!Array.isArray(tokenIds) || !tokenIds.every((id) => Number.isInteger(id))) return fail("has no tokenIds");
  return {
    prompt: string("prompt"),
    seed: number("seed"),
    guidance: number("guidance"),
    temperature: number("temperature"),
    topK: optional("topK"),
    topP: optional("topP"),
    model: string("model"),
    tokenIds: tokenIds as number[],
  };
}

/** What is known of a model before its weights are loaded. */
export interface Ready {
  readonly config: JanusConfig;
  readonly processor: Processor;
  /** What the model cannot do because its files lack the weights. */
  readonly missing: readonly OptionalPart[];
}

/**
 * The config and processor of a folder. Throws what `fromPretrained` would throw for it before it loads weights; needs no device.
 */
export async function checkReady(folder: string): Promise<Ready> {
  const source = folderSource(folder);
  const checkpoint = await openCheckpoint(source);
  try {
    const { config, missing } = checkpoint;
    return { config, processor: await readProcessor(source, config), missing };
  } finally {
    await checkpoint.close();
  }
}
