/** The Hugging Face hub's listing of a model: names, sizes and hashes of its files. Requests are node/hub_http.ts and web/transfer.ts. */
import { messageOf } from "../../engine/errors.ts";
import { quote } from "./errors.ts";
import { HubError } from "./hub_errors.ts";
import { isJsonObject, parseJsonObject } from "./json.ts";
import type { JsonObject, JsonValue } from "./json.ts";

export interface HubFile {
  readonly name: string;
  readonly url: string;
  readonly bytes: number;
  /** SHA-256 for large files, the SHA-1 of git's blob for small ones: the file's name in a cache. */
  readonly hash: string;
}

export interface Listing {
  readonly commit: string;
  /** Files at the top of the repository, by name. */
  readonly files: ReadonlyMap<string, HubFile>;
}

/** A model at a revision of a hub. */
export interface RepoAddress {
  readonly repo: string;
  /** Branch, tag or commit. */
  readonly revision: string;
  /** Without a slash at its end. */
  readonly endpoint: string;
}

/** Bytes of the longest listing. */
export const MAX_LISTING = 16 * 2 ** 20;
const MAX_SIDE_FILE = 64 * 2 ** 20;

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** Throws `HubError` for an invalid name or revision: they become parts of paths. */
export function requireRepoName(repo: string, revision: string): void {
  const isName = /^[\w.-]+(\/[\w.-]+)?$/.test(repo) && !/\.\.|--/.test(repo) && !/(^|\/)[.-]/.test(repo);
  if (!isName || repo.length > 96)
    throw new HubError(`${quote(repo)} is neither a folder nor the name of a model on the hub (owner/name)`);
  if (!/^[\w.-]+(\/[\w.-]+)*$/.test(revision) || revision.includes(".."))
    throw new HubError(`${quote(revision)} is not the name of a revision`);
}

/** Address of the listing. */
export const listingUrl = ({ repo, revision, endpoint }: RepoAddress): string =>
  `${endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;

/** Throws `HubError` for bytes that are no listing, or one of another commit. */
export function parseListing(bytes: Uint8Array, { repo, revision, endpoint }: RepoAddress): Listing {
  const what = `${repo} (${revision})`;
  const json = parseJson(bytes, what);
  const commit = json.get("sha");
  const siblings = json.get("siblings");
  if (typeof commit !== "string" || !isCommit(commit) || !Array.isArray(siblings))
    throw new HubError(`${what}: ${endpoint} does not answer like the hub; check HF_ENDPOINT`);
  if (isCommit(revision) && commit !== revision)
    throw new HubError(`${what}: the hub must answer for this commit; it answers for ${commit}. Check HF_ENDPOINT`);
  const files = new Map<string, HubFile>();
  for (const entry of siblings) {
    const file = listedFile(entry, `${endpoint}/${repo}/resolve/${commit}`);
    if (file) files.set(file.name, file);
  }
  return { commit, files };
}

function parseJson(bytes: Uint8Array, what: string): JsonObject {
  try {
    return parseJsonObject(bytes, "the listing");
  } catch (error) {
    throw new HubError(`${what}: the server does not answer like the hub (${messageOf(error)}); check HF_ENDPOINT`);
  }
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
    throw new HubError(`the hub gives no size or no hash of ${quote(name)}; without them it cannot be checked`);
  }
  return { name, url: `${base}/${encodeURIComponent(name)}`, bytes, hash };
}

/** Config, tokenizer, processors, template; not the images and papers of a repository. */
const isSmall = (name: string): boolean => /\.(json|jinja|txt)$|^LICEN[CS]E/i.test(name);

/** Names of the small files beside the weights that readers look for. */
export const sideFiles = ({ files }: Listing): string[] =>
  [...files.values()]
    .filter(({ name, bytes }) => isSmall(name) && bytes <= MAX_SIDE_FILE && !name.endsWith(".index.json"))
    .map(({ name }) => name);
