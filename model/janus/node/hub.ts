/**
 * Models from the Hugging Face hub, in the cache folder that its other tools share: `blobs/<hash>` hold the contents,
 * `snapshots/<commit>/<file>` link to them, `refs/<revision>` names the commit. Only what a model needs is fetched, and only once.
 */
import { copyFile, mkdir, rm, stat, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { ArgumentError, messageOf } from "../../../engine/errors.ts";
import { knownOptions, optionNames } from "../../../engine/options.ts";
import { chooseWeights, EXTRA_FILE, parseIndex } from "../checkpoint/checkpoint.ts";
import { MAX_LISTING, isCommit, listingUrl, parseListing, sideFiles } from "../../io/hub_listing.ts";
import type { Listing } from "../../io/hub_listing.ts";
import { quote, someOf } from "../../io/errors.ts";
import type { FileSource } from "../../io/bytes.ts";
import {
  FileError,
  fileError,
  fileSize,
  folderSource,
  openFile,
  requireRoom,
  writeFileAtomic,
} from "../../node/files.ts";
import { Transport } from "../../node/hub_http.ts";
import { openRemote } from "../../node/hub_ranges.ts";
import {
  HubError,
  HubIntegrityError,
  HubNotFoundError,
  HubOfflineError,
  hubSettings,
  namesIn,
  readText,
  repoCache,
} from "../../node/hub_settings.ts";
import type { Environment, HubSettings, RepoCache } from "../../node/hub_settings.ts";
import type { DownloadProgress } from "../../io/hub_body.ts";
import { fetchFile } from "../../node/hub_transfer.ts";
import { shippedModel } from "./shipped.ts";

export type { DownloadProgress } from "../../io/hub_body.ts";
export * from "../../node/hub_settings.ts";

export interface DownloadOptions {
  /** Branch, tag or commit. */
  readonly revision?: string;
  /** Cache folder (default: that of the hub's own tools). */
  readonly cache?: string;
  readonly onProgress?: (progress: DownloadProgress) => void;
  /** Things worth saying: the cache was used because the hub did not answer. */
  readonly onNotice?: (message: string) => void;
  readonly signal?: AbortSignal;
  /** Environment for settings (default: `process.env`). */
  readonly env?: Environment;
  readonly retries?: number;
  readonly backoffMs?: number;
}

const DOWNLOAD_OPTIONS = optionNames<DownloadOptions>({
  revision: true,
  cache: true,
  onProgress: true,
  onNotice: true,
  signal: true,
  env: true,
  retries: true,
  backoffMs: true,
});
const MAX_INDEX = 16 * 2 ** 20;

/**
 * A model's folder: `nameOrPath` itself if that is a folder, that of the model that comes with the package for `shapes`, else the snapshot
 * of the model of that name from the hub. Throws `ArgumentError` for a folder with a revision or a cache.
 */
export async function modelFolder(nameOrPath: string, options: DownloadOptions = {}): Promise<string> {
  return (await localFolder(nameOrPath, options)) ?? downloadModel(nameOrPath, options);
}

/** Undefined for a model of the hub. Throws `ArgumentError` for a folder with options that only a model of the hub has. */
async function localFolder(nameOrPath: string, options: DownloadOptions): Promise<string | undefined> {
  const isFolder = await stat(nameOrPath).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
  const folder = isFolder ? nameOrPath : shippedModel(nameOrPath);
  const useless = options.revision !== undefined ? "revision" : options.cache !== undefined ? "the cache folder" : null;
  if (folder !== undefined && useless !== null)
    throw new ArgumentError(
      `fromPretrained: ${useless} is for models of the hub; ${nameOrPath} is a folder. Remove it.`,
    );
  return folder;
}

/**
 * Fetches a model (`owner/name`): config, tokenizer, processor and weights, safetensors if there are both kinds. Returns the folder of
 * the snapshot. Every file's length and hash are checked before it appears there. If the hub cannot be asked, or the cache cannot be written, a
 * copy in the cache is used, with a notice. Throws subclasses of `HubError`, and `FileError`.
 */
export async function downloadModel(repo: string, options: DownloadOptions = {}): Promise<string> {
  const located = await locate(repo, options);
  const { listing, cache, cached } = located;
  if (!listing) return cached;
  const folder = cache.snapshot(listing.commit);
  try {
    await fetchSnapshot(repo, { ...located, listing, folder }, options);
  } catch (error) {
    return orCached(error, repo, cached, options);
  }
  await noteCommit(located.revision, listing, cache, options);
  await noteAbsent(listing, cache);
  return folder;
}

/**
 * The files of a model, for reading a few bytes of them: a folder's, those of a copy in the cache if that is of the revision, else those on the hub,
 * read by ranges. Nothing is written. Throws as `downloadModel` does.
 */
export async function modelSource(nameOrPath: string, options: DownloadOptions = {}): Promise<FileSource> {
  const folder = await localFolder(nameOrPath, options);
  if (folder !== undefined) return folderSource(folder);
  const located = await locate(nameOrPath, options);
  if (!located.listing) return folderSource(located.cached);
  const { listing, cache, cached, transport } = located;
  if (cached === cache.snapshot(listing.commit)) return folderSource(cached);
  return {
    name: nameOrPath,
    list: async () => [...listing.files.keys()],
    open: async (name) => {
      const file = listing.files.get(name);
      if (!file) throw new HubNotFoundError(`${nameOrPath}: there is no file ${quote(name)} in it`);
      return openRemote({ ...file, name: `${nameOrPath}/${name}` }, transport);
    },
  };
}

interface Copy {
  readonly revision: string;
  readonly cache: RepoCache;
  /** Null: the copy is used without asking the hub. */
  readonly listing: null;
  /** Folder of the copy in the cache. */
  readonly cached: string;
}

interface Located {
  readonly revision: string;
  readonly cache: RepoCache;
  readonly listing: Listing;
  /** Returns the folder of the copy in the cache; null if there is none. */
  readonly cached: string | null;
  readonly transport: Transport;
}

/** Source of a model: the hub's listing, or a copy in the cache that is used without it. */
async function locate(repo: string, options: DownloadOptions): Promise<Located | Copy> {
  knownOptions("downloadModel", options, DOWNLOAD_OPTIONS);
  const { env = process.env, retries = 5, backoffMs = 1000, revision = "main", signal, onNotice } = options;
  const settings = await hubSettings(env, options.cache);
  const cache = repoCache(settings.cache, repo, revision);
  const { folder: cached, problem } = await cachedSnapshot(cache, revision);
  if (settings.offline && cached === null)
    throw new HubOfflineError(
      `${repo} (${revision}): HF_HUB_OFFLINE is set and ${problem}; unset it to fetch the model`,
    );
  const isSettled = isCommit(revision) && (await isWhole(cache, revision));
  if (cached !== null && (settings.offline || isSettled)) return { revision, cache, listing: null, cached };
  try {
    const transport = new Transport({ settings, env, retries, backoffMs, signal, onNotice });
    // If there is a copy, the check for a newer version must not take long.
    const listing = await fetchListing(repo, { revision, settings, transport, retries: cached ? 1 : retries });
    return { revision, cache, transport, listing, cached };
  } catch (error) {
    return { revision, cache, listing: null, cached: orCached(error, repo, cached, options) };
  }
}

const UNWRITABLE = ["EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT"];

/**
 * Returns the copy in the cache, with a notice of the reason. Throws `error` if there is none, or if the error does not
 * justify using it.
 */
function orCached(error: unknown, repo: string, cached: string | null, { onNotice }: DownloadOptions): string {
  const isReason =
    (error instanceof HubError && !(error instanceof HubIntegrityError)) ||
    (error instanceof FileError && UNWRITABLE.includes(error.code));
  if (!isReason || cached === null) throw error;
  onNotice?.(`${error.message}; using the copy of ${repo} in the cache, commit ${basename(cached).slice(0, 8)}`);
  return cached;
}

/** Notes which commit a revision is. A cache that may only be read need not say so. */
async function noteCommit(
  revision: string,
  { commit }: Listing,
  cache: RepoCache,
  { onNotice }: DownloadOptions,
): Promise<void> {
  if (revision === commit || (await readText(cache.ref))?.trim() === commit) return;
  try {
    await mkdir(dirname(cache.ref), { recursive: true });
    await writeFileAtomic(cache.ref, new TextEncoder().encode(commit));
  } catch (error) {
    onNotice?.(`${messageOf(fileError(error, cache.ref))}; without a network, ${revision} will not be found`);
  }
}

/** The files that readers look for. */
const READ_FILES = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "processor_config.json",
  "preprocessor_config.json",
  "chat_template.jinja",
  "chat_template.json",
  EXTRA_FILE,
];

/** Notes which of these files a commit does not have, as the hub's own tools do: a copy without them is whole. */
async function noteAbsent({ commit, files }: Listing, cache: RepoCache): Promise<void> {
  const folder = cache.absent(commit);
  try {
    await mkdir(folder, { recursive: true });
    for (const name of READ_FILES) if (!files.has(name)) await writeFile(join(folder, name), "");
  } catch {
    // A cache that may only be read: the hub is asked once more next time.
  }
}

/** True if the copy of a commit has all files that readers need. */
async function isWhole(cache: RepoCache, commit: string): Promise<boolean> {
  const known = new Set([...(await namesIn(cache.snapshot(commit))), ...(await namesIn(cache.absent(commit)))]);
  return READ_FILES.every((name) => known.has(name));
}

/** The snapshot of a revision in the cache, if all that a model needs is in it. */
async function cachedSnapshot(
  cache: RepoCache,
  revision: string,
): Promise<{ folder: string; problem?: undefined } | { folder: null; problem: string }> {
  const commit = isCommit(revision) ? revision : ((await readText(cache.ref))?.trim() ?? "");
  if (!isCommit(commit)) return { folder: null, problem: "it is not in the cache" };
  const folder = cache.snapshot(commit);
  const names = await namesIn(folder);
  if (!names.includes("config.json")) return { folder: null, problem: "its config.json is not in the cache" };
  try {
    const weights = chooseWeights(names, folder);
    const needed = weights.endsWith(".json") ? await shardsOf(join(folder, weights)) : [weights];
    for (const name of needed)
      if ((await fileSize(join(folder, name))) === null)
        return { folder: null, problem: `${name} is not in the cache` };
    return { folder };
  } catch {
    return { folder: null, problem: "its weights are not in the cache" };
  }
}

async function shardsOf(index: string): Promise<string[]> {
  const file = await openFile(index);
  try {
    if (file.size > MAX_INDEX) throw new HubError(`${index} has ${file.size} bytes; at most ${MAX_INDEX} are read`);
    return [...new Set(parseIndex(await file.read(0, file.size), index).values())];
  } finally {
    await file.close?.();
  }
}

interface Question {
  readonly revision: string;
  readonly settings: HubSettings;
  readonly transport: Transport;
  readonly retries: number;
}

async function fetchListing(repo: string, { revision, settings, transport, retries }: Question): Promise<Listing> {
  const what = `${repo} (${revision})`;
  const api = listingUrl({ repo, revision, endpoint: settings.endpoint });
  const bytes = await transport.bytes(api, { what, limit: MAX_LISTING, retries });
  return parseListing(bytes, { repo, revision, endpoint: settings.endpoint });
}

async function fetchSnapshot(
  repo: string,
  { listing, cache, folder, transport }: Pick<Located, "listing" | "cache" | "transport"> & { readonly folder: string },
  options: DownloadOptions,
): Promise<void> {
  const names = [...listing.files.keys()];
  if (!listing.files.has("config.json"))
    throw new HubError(`${repo}: there is no config.json in it; it has ${someOf(names)}`);
  const weights = chooseWeights(names, repo);
  await mkdir(folder, { recursive: true }).catch((error: unknown) => {
    throw fileError(error, folder);
  });
  const fetchOne = async (name: string, onBytes: (bytes: number) => void): Promise<void> => {
    const file = listing.files.get(name);
    if (!file) throw new HubError(`${repo}: ${quote(name)} is named by ${weights} but is not in the repository`);
    if ((await fileSize(join(folder, name))) !== file.bytes) {
      const blob = join(cache.blobs, file.hash);
      if ((await fileSize(blob)) !== file.bytes) await fetchFile(file, blob, transport, onBytes);
      await link(blob, join(folder, name));
    }
    onBytes(file.bytes);
  };
  const isIndex = weights.endsWith(".json");
  if (isIndex) await fetchOne(weights, () => undefined);
  const large = isIndex ? await shardsOf(join(folder, weights)) : [weights];
  const side = sideFiles(listing);
  const wanted = [...side, ...large, ...(listing.files.has(EXTRA_FILE) ? [EXTRA_FILE] : [])];
  const sizes = wanted.map((name) => listing.files.get(name)?.bytes ?? 0);
  const totalBytes = sizes.reduce((a, b) => a + b, 0);
  await requireRoom(folder, await missingBytes(wanted, listing, cache));
  let before = 0;
  for (const [i, name] of wanted.entries()) {
    transport.signal?.throwIfAborted();
    const fileTotal = sizes[i]!;
    await fetchOne(name, (fileBytes) =>
      options.onProgress?.({ file: name, fileBytes, fileTotal, bytes: before + fileBytes, totalBytes }),
    );
    before += fileTotal;
  }
}

async function missingBytes(names: readonly string[], listing: Listing, cache: RepoCache): Promise<number> {
  let bytes = 0;
  for (const name of names) {
    const file = listing.files.get(name);
    if (!file || (await fileSize(join(cache.snapshot(listing.commit), name))) === file.bytes) continue;
    const blob = join(cache.blobs, file.hash);
    if ((await fileSize(blob)) !== file.bytes)
      bytes += Math.max(0, file.bytes - ((await fileSize(`${blob}.incomplete`)) ?? 0));
  }
  return bytes;
}

/** `path` as a link to `blob`; a copy if links are not allowed (Windows without developer mode). */
async function link(blob: string, path: string): Promise<void> {
  await rm(path, { force: true });
  await symlink(relative(dirname(path), blob), path)
    .catch(() => copyFile(blob, path))
    .catch((error: unknown) => {
      throw fileError(error, path);
    });
}
