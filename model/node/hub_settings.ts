/** Source and cache of models from the Hugging Face hub: the environment variables and the cache folder that its own tools use. */
import { readFile, readdir } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { quote } from "../io/errors.ts";
import { HubAccessError, HubError } from "../io/hub_errors.ts";
import { requireRepoName } from "../io/hub_listing.ts";

export * from "../io/hub_errors.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

export interface HubSettings {
  /** Without a slash at its end. */
  readonly endpoint: string;
  /** Folder of the `models--owner--name` folders. */
  readonly cache: string;
  readonly token: string | undefined;
  /** The variable or file of the token, or those that have none: for messages. */
  readonly tokenFrom: string;
  readonly offline: boolean;
  /** A connection counts as broken after so long without a byte. */
  readonly stallMs: number;
}

const isOn = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "");

/**
 * Settings from HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE,
 * HF_HUB_DOWNLOAD_TIMEOUT and XDG_CACHE_HOME. Throws `HubError` for values that cannot be obeyed.
 * @param cache cache folder instead of that of the environment
 */
export async function hubSettings(env: Environment, cache?: string): Promise<HubSettings> {
  const endpoint = (env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/]/.test(endpoint) || !URL.canParse(endpoint))
    throw new HubError(`HF_ENDPOINT is ${quote(endpoint)}; it must be an address that begins with http:// or https://`);
  if (new URL(endpoint).username || new URL(endpoint).password)
    throw new HubError(
      "HF_ENDPOINT must have no name and password; got an address with them. Give a token by HF_TOKEN",
    );
  const home =
    pathOf(env, "HF_HOME") ?? join(pathOf(env, "XDG_CACHE_HOME") ?? join(homedir(), ".cache"), "huggingface");
  const given = cache === undefined ? undefined : expandPath(cache, env, "the cache folder");
  return {
    endpoint,
    cache: given ?? pathOf(env, "HF_HUB_CACHE") ?? pathOf(env, "HUGGINGFACE_HUB_CACHE") ?? join(home, "hub"),
    ...(await tokenOf(env, home)),
    offline: isOn(env.HF_HUB_OFFLINE) || isOn(env.TRANSFORMERS_OFFLINE),
    stallMs: 1000 * secondsOf(env, "HF_HUB_DOWNLOAD_TIMEOUT", 30),
  };
}

function secondsOf(env: Environment, name: string, otherwise: number): number {
  const text = env[name];
  if (!text) return otherwise;
  const seconds = Number(text);
  if (!(seconds > 0 && seconds < Infinity))
    throw new HubError(`${name} is ${quote(text)}; it must be a number of seconds above 0`);
  return seconds;
}

/** Returns the path in a variable, with `~` and variables expanded; undefined if there is none. */
const pathOf = (env: Environment, name: string): string | undefined =>
  env[name] ? expandPath(env[name], env, name) : undefined;

/** Expands `~`, `$NAME` and `${NAME}`, as the hub's own tools do. `what` names the path in errors. */
export function expandPath(text: string, env: Environment, what: string): string {
  const fromHome = text.replace(/^~(?=$|[/\\])/, () => env.HOME || homedir());
  if (/^~[^/\\]/.test(fromHome))
    throw new HubError(
      `${what} is ${quote(text)}; the home folder of another user is not looked up, write the whole path`,
    );
  return fromHome.replace(/\$(?:(\w+)|\{(\w+)\})/g, (_, bare?: string, braced?: string) => {
    const name = bare ?? braced!;
    const value = env[name];
    if (!value)
      throw new HubError(`${what} is ${quote(text)}, and the variable ${name} is not set; write the whole path`);
    return value;
  });
}

const TOKEN_VARIABLES = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

async function tokenOf(env: Environment, home: string): Promise<Pick<HubSettings, "token" | "tokenFrom">> {
  for (const name of TOKEN_VARIABLES) {
    const token = env[name]?.trim();
    if (token) return { token, tokenFrom: name };
  }
  const path = pathOf(env, "HF_TOKEN_PATH") ?? join(home, "token");
  if (isOn(env.HF_HUB_DISABLE_IMPLICIT_TOKEN))
    return { token: undefined, tokenFrom: "HF_TOKEN (HF_HUB_DISABLE_IMPLICIT_TOKEN is set)" };
  const token = (await readText(path))?.trim();
  return token ? { token, tokenFrom: path } : { token: undefined, tokenFrom: `HF_TOKEN or ${path}` };
}

/** Throws `HubAccessError` for a token that no hub gives out: it would be refused, or could not be sent at all. */
export function requireToken({ token, tokenFrom }: Pick<HubSettings, "token" | "tokenFrom">): void {
  const strange = /[^\x21-\x7e]/u.exec(token ?? "");
  if (!strange) return;
  const code = strange[0].codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0");
  throw new HubAccessError(
    `${tokenFrom}: a token has printable ASCII characters only; got U+${code} at position ${strange.index + 1}. Copy the token again`,
  );
}

/** Returns the text of a small file; null if there is none. */
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
  /** Empty files that say which files a commit does not have. */
  absent(commit: string): string;
}

/** Throws `HubError` for an invalid name or revision: they become parts of paths. */
export function repoCache(cache: string, repo: string, revision: string): RepoCache {
  requireRepoName(repo, revision);
  const root = join(cache, `models--${repo.replace("/", "--")}`);
  return {
    blobs: join(root, "blobs"),
    ref: join(root, "refs", ...revision.split("/")),
    snapshot: (commit) => join(root, "snapshots", commit),
    absent: (commit) => join(root, ".no_exist", commit),
  };
}
