/** Source and cache of models from the Hugging Face hub: the environment variables and the cache folder that its own tools use. */
import { readFile, readdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { IoError, quote } from "../io/errors.ts";

/** A model that could not be fetched from the hub. Base of the errors below. */
export class HubError extends IoError {}

/** No such model, revision or file. */
export class HubNotFoundError extends HubError {}

/** The hub wants a token, or another one. */
export class HubAccessError extends HubError {}

/** The hub cannot be reached, or the connection broke and did not come back. What was received is kept for the next try. */
export class HubNetworkError extends HubError {}

/** What came is not what the hub announced: another length or another hash. It was thrown away. */
export class HubIntegrityError extends HubError {}

/** Offline mode is on and the model is not, or not wholly, in the cache. */
export class HubOfflineError extends HubError {}

export type Environment = Readonly<Record<string, string | undefined>>;

export interface HubSettings {
  /** Without a slash at its end. */
  readonly endpoint: string;
  /** Folder that holds `models--owner--name`. */
  readonly cache: string;
  readonly token: string | undefined;
  readonly offline: boolean;
  /** Without a byte for so long, a connection counts as broken. */
  readonly stallMs: number;
}

const isOn = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "");

/** Settings from HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT and XDG_CACHE_HOME. */
export async function hubSettings(env: Environment): Promise<HubSettings> {
  const endpoint = (env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/.test(endpoint))
    throw new HubError(`HF_ENDPOINT is ${quote(endpoint)}; it must begin with http:// or https://`);
  const home = env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface");
  const seconds = Number(env.HF_HUB_DOWNLOAD_TIMEOUT);
  return {
    endpoint,
    cache: env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, "hub"),
    token:
      (
        env.HF_TOKEN ||
        env.HUGGING_FACE_HUB_TOKEN ||
        (await readText(env.HF_TOKEN_PATH || join(home, "token")))
      )?.trim() || undefined,
    offline: isOn(env.HF_HUB_OFFLINE) || isOn(env.TRANSFORMERS_OFFLINE),
    stallMs: seconds > 0 ? seconds * 1000 : 30_000,
  };
}

/** The text of a small file; null if there is none. */
export async function readText(path: string): Promise<string | null> {
  return readFile(path, "utf8").catch(() => null);
}

/** Names of a folder; none if it does not exist. */
export async function namesIn(path: string): Promise<string[]> {
  return readdir(path).catch(() => []);
}

/** Paths of one model in the cache. */
export interface RepoCache {
  readonly blobs: string;
  readonly ref: string;
  snapshot(commit: string): string;
}

/** Throws `HubError` for a name or revision that is none: they become parts of paths. */
export function repoCache(cache: string, repo: string, revision: string): RepoCache {
  const isName = /^[\w.-]+(\/[\w.-]+)?$/.test(repo) && !/\.\.|--/.test(repo) && !/(^|\/)[.-]/.test(repo);
  if (!isName || repo.length > 96)
    throw new HubError(`${quote(repo)} is neither a folder nor the name of a model on the hub (owner/name)`);
  if (!/^[\w.-]+(\/[\w.-]+)*$/.test(revision) || revision.includes(".."))
    throw new HubError(`${quote(revision)} is not the name of a revision`);
  const root = join(cache, `models--${repo.replace("/", "--")}`);
  return {
    blobs: join(root, "blobs"),
    ref: join(root, "refs", ...revision.split("/")),
    snapshot: (commit) => join(root, "snapshots", commit),
  };
}
