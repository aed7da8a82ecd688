/**
 * Models from the Hugging Face hub, in the cache folder that its other tools share: `blobs/<hash>` hold the contents,
 * `snapshots/<commit>/<file>` link to them, `refs/<revision>` names the commit. Only what a model needs is fetched, and only once.
 */
import { copyFile, mkdir, rm, stat, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { chooseWeights, EXTRA_FILE, parseIndex } from "../checkpoint/checkpoint.ts";
import { isJsonObject, parseJsonObject } from "../../io/json.ts";
import type { JsonObject, JsonValue } from "../../io/json.ts";
import { quote, someOf } from "../../io/errors.ts";
import { fileError, fileSize, openFile, requireRoom, writeFileAtomic } from "../../node/files.ts";
import {
  HubError,
  HubNetworkError,
  HubOfflineError,
  hubSettings,
  namesIn,
  readText,
  repoCache,
} from "../../node/hub_settings.ts";
import type { Environment, HubSettings, RepoCache } from "../../node/hub_settings.ts";
import { fetchFile, getBytes } from "../../node/hub_transfer.ts";
import type { HubFile, Transport } from "../../node/hub_transfer.ts";
import { shippedModel } from "./shipped.ts";

export * from "../../node/hub_settings.ts";

export interface DownloadProgress {
  readonly file: string;
  readonly fileBytes: number;
  readonly fileTotal: number;
  /** Bytes of all files, those that were there already included. */
  readonly bytes: number;
  readonly totalBytes: number;
}

export interface DownloadOptions {
  /** Branch, tag or commit. */
  readonly revision?: string;
  readonly onProgress?: (progress: DownloadProgress) => void;
  /** Things worth saying: the cache was used because the hub did not answer. */
  readonly onNotice?: (message: string) => void;
  readonly signal?: AbortSignal;
  /** Environment for settings (default: `process.env`). */
  readonly env?: Environment;
  readonly retries?: number;
  readonly backoffMs?: number;
}

const MAX_LISTING = 16 * 2 ** 20; // bytes
const MAX_INDEX = 16 * 2 ** 20;
const MAX_SIDE_FILE = 64 * 2 ** 20;

/**
 * A model's folder: `nameOrPath` itself if that is a folder, that of the model that comes with the package for `shapes`, else the snapshot
 * of the model of that name from the hub.
 */
export async function modelFolder(nameOrPath: string, options: DownloadOptions = {}): Promise<string> {
  const isFolder = await stat(nameOrPath).then(
    (stats) => stats.isDirectory(),
    () => false,
  );
  return isFolder ? nameOrPath : (shippedModel(nameOrPath) ?? downloadModel(nameOrPath, options));
}

/**
 * Fetches a model (`owner/name`): config, tokenizer, processor and weights, safetensors if there are both kinds. Returns the folder of
 * the snapshot. Every file's length and hash are checked before it appears there. Throws subclasses of `HubError`.
 */
export async function downloadModel(repo: string, options: DownloadOptions = {}): Promise<string> {
  const settings = await hubSettings(options.env ?? process.env);
  const revision = options.revision ?? "main";
  const cache = repoCache(settings.cache, repo, revision);
  const cached = await cachedSnapshot(cache, revision);
  if (settings.offline) {
    if (cached.folder) return cached.folder;
    throw new HubOfflineError(
      `${repo} (${revision}): HF_HUB_OFFLINE is set and ${cached.problem}; unset it to fetch the model`,
    );
  }
  if (cached.folder && isCommit(revision)) return cached.folder;
  const { token, stallMs } = settings;
  const transport: Transport = {
    token,
    stallMs,
    retries: options.retries ?? 5,
    backoffMs: options.backoffMs ?? 1000,
    signal: options.signal,
  };
  let listing: Listing;
  try {
    listing = await fetchListing(repo, revision, settings, transport);
  } catch (error) {
    if (!(error instanceof HubNetworkError) || !cached.folder) throw error;
    options.onNotice?.(`${settings.endpoint} does not answer; using the copy of ${repo} in the cache`);
    return cached.folder;
  }
  const folder = cache.snapshot(listing.commit);
  await fetchSnapshot(repo, listing, cache, folder, transport, options);
  if (revision !== listing.commit) {
    await mkdir(dirname(cache.ref), { recursive: true });
    await writeFileAtomic(cache.ref, new TextEncoder().encode(listing.commit));
  }
  return folder;
}

const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

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

interface Listing {
  readonly commit: string;
  /** Files at the top of the repository, by name. */
  readonly files: ReadonlyMap<string, HubFile>;
}

async function fetchListing(
  repo: string,
  revision: string,
  settings: HubSettings,
  transport: Transport,
): Promise<Listing> {
  const what = `${repo} (${revision})`;
  const api = `${settings.endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const json = parseJsonObject(await getBytes(api, what, MAX_LISTING, transport), `${what}: the hub's listing`);
  const commit = json.get("sha");
  const siblings = json.get("siblings");
  if (typeof commit !== "string" || !isCommit(commit) || !Array.isArray(siblings))
    throw new HubError(`${what}: ${settings.endpoint} does not answer like the hub`);
  const files = new Map<string, HubFile>();
  for (const entry of siblings) {
    const file = listedFile(entry, `${settings.endpoint}/${repo}/resolve/${commit}`);
    if (file) files.set(file.name, file);
  }
  return { commit, files };
}

/** A file of the listing; null for one in a folder, and for one whose name cannot be a file's. */
function listedFile(entry: JsonValue, base: string): HubFile | null {
  if (!isJsonObject(entry)) return null;
  const name = entry.get("rfilename");
  // Names and hashes become parts of paths.
  if (typeof name !== "string" || !/^[^./\\\p{Cc}][^/\\\p{Cc}]*$/u.test(name) || name.length > 200) return null;
  const lfs = entry.get("lfs");
  const large: JsonObject | null = isJsonObject(lfs) ? lfs : null;
  const bytes = large?.get("size") ?? entry.get("size");
  const hash = large ? (large.get("sha256") ?? large.get("oid")) : entry.get("blobId");
  const isHash = typeof hash === "string" && (large ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/).test(hash);
  if (!isHash || typeof bytes !== "number" || !Number.isSafeInteger(bytes) || bytes < 0) {
    throw new HubError(`the hub tells no size or no hash of ${quote(name)}; without them it cannot be checked`);
  }
  return { name, url: `${base}/${encodeURIComponent(name)}`, bytes, hash };
}

async function fetchSnapshot(
  repo: string,
  listing: Listing,
  cache: RepoCache,
  folder: string,
  transport: Transport,
  options: DownloadOptions,
): Promise<void> {
  const names = [...listing.files.keys()];
  if (!listing.files.has("config.json"))
    throw new HubError(`${repo}: there is no config.json in it; it holds ${someOf(names)}`);
  const weights = chooseWeights(names, repo);
  await mkdir(folder, { recursive: true }).catch((error: unknown) => {
    throw fileError(error, folder);
  });
  const fetchOne = async (name: string, onBytes: (bytes: number) => void): Promise<void> => {
    const file = listing.files.get(name);
    if (!file) throw new HubError(`${repo}: ${quote(name)} is named by ${weights} but not there`);
    const blob = join(cache.blobs, file.hash);
    if ((await fileSize(blob)) !== file.bytes) await fetchFile(file, blob, transport, onBytes);
    await link(blob, join(folder, name), file.bytes);
    onBytes(file.bytes);
  };
  const isIndex = weights.endsWith(".json");
  if (isIndex) await fetchOne(weights, () => undefined);
  const large = isIndex ? await shardsOf(join(folder, weights)) : [weights];
  const side = names.filter(
    (name) => isSmall(name) && listing.files.get(name)!.bytes <= MAX_SIDE_FILE && !name.endsWith(".index.json"),
  );
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

/** Config, tokenizer, processors, template; not the pictures and papers of a repository. */
const isSmall = (name: string): boolean => /\.(json|jinja|txt)$|^LICEN[CS]E/i.test(name);

async function missingBytes(names: readonly string[], listing: Listing, cache: RepoCache): Promise<number> {
  let bytes = 0;
  for (const name of names) {
    const file = listing.files.get(name);
    if (!file) continue;
    const blob = join(cache.blobs, file.hash);
    if ((await fileSize(blob)) !== file.bytes)
      bytes += Math.max(0, file.bytes - ((await fileSize(`${blob}.incomplete`)) ?? 0));
  }
  return bytes;
}

/** `path` as a link to `blob`; a copy if links are not allowed (Windows without developer mode). */
async function link(blob: string, path: string, bytes: number): Promise<void> {
  if ((await fileSize(path)) === bytes) return;
  await rm(path, { force: true });
  await symlink(relative(dirname(path), blob), path)
    .catch(() => copyFile(blob, path))
    .catch((error: unknown) => {
      throw fileError(error, path);
    });
}
