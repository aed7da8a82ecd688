/**
 * Models from the Hugging Face hub in a browser: listed, checked against the device and the room before the weights are fetched, fetched into the
 * browser's storage, and read from there the next time.
 */
import { ArgumentError, messageOf } from "../../../engine/errors.ts";
import type { Device } from "../../../engine/index.ts";
import type { FileSource } from "../../io/bytes.ts";
import { bytesFile } from "../../io/bytes.ts";
import { CheckpointError, quote } from "../../io/errors.ts";
import { HubError, HubIntegrityError } from "../../io/hub_errors.ts";
import { MAX_LISTING, listingUrl, parseListing, requireRepoName, sideFiles } from "../../io/hub_listing.ts";
import type { DownloadProgress } from "../../io/hub_body.ts";
import type { HubFile, Listing, RepoAddress } from "../../io/hub_listing.ts";
import {
  StorageError,
  modelStorage,
  readManifest,
  storedBytes,
  storedContents,
  storedSource,
  writeManifest,
} from "../../web/store.ts";
import { fetchBytes, fetchFile, openRemote } from "../../web/transfer.ts";
import type { Connection } from "../../web/transfer.ts";
import { EXTRA_FILE, chooseWeights, openCheckpoint, parseIndex } from "../checkpoint/checkpoint.ts";
import type { LoadOptions } from "../load.ts";
import { requireFit } from "../fit.ts";

export interface HubOptions {
  /** Branch, tag or commit (default: main). */
  readonly revision?: string;
  /** Address of the hub or of a mirror (default: https://huggingface.co). */
  readonly endpoint?: string;
  /** Access token, for models that need one. */
  readonly token?: string;
  readonly onDownload?: (progress: DownloadProgress) => void;
  /** Things worth saying: the stored copy is used because the hub did not answer. */
  readonly onNotice?: (message: string) => void;
  readonly signal?: AbortSignal;
  /** Tries in a row that bring nothing before the download is given up (default: 5), and the wait before the second one (default: 1000). */
  readonly retries?: number;
  readonly backoffMs?: number;
}

const MAX_INDEX = 16 * 2 ** 20; // bytes

/** An address without a slash at its end. Throws `ArgumentError` for one that is not of the web. */
function checkedEndpoint(endpoint: string): string {
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol))
    throw new ArgumentError(
      `fromPretrained: endpoint must be an address that begins with https:// or http://; got ${quote(endpoint)}. Change it.`,
    );
  return endpoint.replace(/\/+$/, "");
}

/**
 * The stored files of a model, fetched if need be. Throws subclasses of `HubError`; `StorageError` if there is no room and `DeviceError` if the device
 * cannot have the model, both before weights are fetched.
 */
export async function fetchModel(
  repo: string,
  options: HubOptions & { readonly device: Device; readonly load: LoadOptions },
): Promise<FileSource> {
  const {
    revision = "main",
    endpoint = "https://huggingface.co",
    token,
    signal,
    retries = 5,
    backoffMs = 1000,
  } = options;
  requireRepoName(repo, revision);
  const address: RepoAddress = { repo, revision, endpoint: checkedEndpoint(endpoint) };
  const connection: Connection = { token, signal, retries, backoffMs };
  const stored = await readManifest(repo, revision);
  let listing: Listing;
  try {
    const what = `${repo} (${revision})`;
    // If there is a copy, the check for a newer version must not take long.
    const asked = { ...connection, retries: stored ? 0 : retries };
    listing = parseListing(
      await fetchBytes(listingUrl(address), { what, limit: MAX_LISTING, connection: asked }),
      address,
    );
  } catch (error) {
    const isReason = error instanceof HubError && !(error instanceof HubIntegrityError);
    if (!isReason || !stored) throw error;
    options.onNotice?.(`${messageOf(error)} Using the stored copy of ${repo}, commit ${stored.commit.slice(0, 8)}.`);
    return storedSource(stored);
  }
  if (stored?.commit === listing.commit) return storedSource(stored);
  return fetchListed(address, listing, { ...options, connection });
}

interface FetchOptions {
  readonly connection: Connection;
  readonly device: Device;
  readonly load: LoadOptions;
  readonly onDownload?: (progress: DownloadProgress) => void;
}

async function fetchListed(
  { repo, revision }: RepoAddress,
  listing: Listing,
  { connection, device, load, onDownload }: FetchOptions,
): Promise<FileSource> {
  const { files, commit } = listing;
  if (!files.has("config.json"))
    throw new HubError(`${repo}: it must have a config.json; got a repository without one. Name a model.`);
  const weights = chooseWeights([...files.keys()], repo);
  const fileOf = (name: string): HubFile => {
    const file = files.get(name);
    if (!file) throw new HubError(`${repo}: ${quote(name)} is named by ${weights} but is not in the repository`);
    return file;
  };
  const isIndex = weights.endsWith(".json");
  const index = isIndex
    ? await fetchBytes(fileOf(weights).url, { what: weights, limit: MAX_INDEX, connection })
    : new Uint8Array(0);
  const shards = isIndex ? [...new Set(parseIndex(index, weights).values())] : [weights];
  const names = [...sideFiles(listing), ...(isIndex ? [weights] : []), ...shards];
  const wanted = [...names, ...(files.has(EXTRA_FILE) ? [EXTRA_FILE] : [])].map(fileOf);
  const small = new Set([...sideFiles(listing), ...(isIndex ? [weights] : [])]);

  await requireRoom(repo, wanted);
  const progress = progressOf(wanted, onDownload);
  for (const file of wanted) if (small.has(file.name)) await progress(file, connection);
  await requireFitOf({ name: repo, wanted, small, connection }, device, load);
  for (const file of wanted) if (!small.has(file.name)) await progress(file, connection);
  const bytes = wanted.reduce((sum, file) => sum + file.bytes, 0);
  const model = { name: repo, revision, commit, bytes, files: wanted.map(({ name, bytes: size, hash }) => ({ name, bytes: size, hash })) }; // prettier-ignore
  await writeManifest(model);
  return storedSource(model);
}

/** Fetches one file after the other and reports bytes of all. */
function progressOf(
  wanted: readonly HubFile[],
  onDownload: FetchOptions["onDownload"],
): (file: HubFile, connection: Connection) => Promise<void> {
  const totalBytes = wanted.reduce((sum, { bytes }) => sum + bytes, 0);
  let before = 0;
  return async (file, connection) => {
    const report = (fileBytes: number): void =>
      onDownload?.({ file: file.name, fileBytes, fileTotal: file.bytes, bytes: before + fileBytes, totalBytes });
    await fetchFile(file, connection, report);
    report(file.bytes);
    before += file.bytes;
  };
}

/** Reads the headers of the weights by ranges, and throws `DeviceError` with the numbers if the device cannot have the model. */
async function requireFitOf(
  {
    name,
    wanted,
    small,
    connection,
  }: {
    readonly name: string;
    readonly wanted: readonly HubFile[];
    readonly small: ReadonlySet<string>;
    readonly connection: Connection;
  },
  device: Device,
  load: LoadOptions,
): Promise<void> {
  const source: FileSource = {
    name,
    list: async () => wanted.map((file) => file.name),
    open: async (asked) => {
      const file = wanted.find((one) => one.name === asked);
      if (!file) throw new CheckpointError(`${name}: there is no file ${quote(asked)}`);
      if (!small.has(asked)) return openRemote(file, connection);
      return bytesFile(asked, new Uint8Array(await (await storedContents(file))!.arrayBuffer()));
    },
  };
  const checkpoint = await openCheckpoint(source);
  try {
    requireFit("fromPretrained", checkpoint, device, load);
  } finally {
    await checkpoint.close();
  }
}

const mb = (bytes: number): string => `${Math.ceil(bytes / 1e6).toLocaleString("en")} MB`;

/** Asks the browser for room. Throws `StorageError` with the numbers if there is not enough. */
async function requireRoom(repo: string, wanted: readonly HubFile[]): Promise<void> {
  let missing = 0;
  for (const file of wanted) missing += Math.max(0, file.bytes - (await storedBytes(file)));
  if (missing === 0) return;
  const { usedBytes, quotaBytes } = await modelStorage.estimate();
  if (usedBytes + missing > quotaBytes)
    throw new StorageError(
      `fromPretrained: the browser must have room for ${mb(missing)} of ${repo}; got ${mb(Math.max(0, quotaBytes - usedBytes))} (${mb(usedBytes)} of ${mb(quotaBytes)} in use). Delete models with modelStorage.delete, free the disk, or use Janus.fromFiles.`,
    );
  // So that the browser does not evict it; a refusal changes nothing else.
  await navigator.storage.persist().catch(() => false);
}
