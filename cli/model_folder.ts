/** Resolves the name of a model: a folder on this machine, the package's own model, or one on the hub, downloaded with a progress bar. */
import { stat } from "node:fs/promises";
import type { Command } from "commander";
import type { FileSource } from "../model/io/bytes.ts";
import type { DownloadOptions } from "../model/janus/node/hub.ts";
import { shippedModel } from "../model/janus/node/shipped.ts";
import type { Context } from "./context.ts";
import { UsageError } from "./errors.ts";

/** For the help of commands that take a model. */
export const MODEL_ARGUMENT =
  "a model: its folder, its name on the hub (owner/name), or shapes, which comes with the package";

export interface HubFlags {
  readonly revision?: string;
  readonly cacheDir?: string;
}

/** Options of every command that may fetch a model. */
export const addHubOptions = (command: Command): Command =>
  command
    .option("--revision <name>", "fetch this branch, tag or commit of a model on the hub (default: main)")
    .option("--cache-dir <folder>", "keep models of the hub in this folder (default: HF_HUB_CACHE, else HF_HOME/hub)");

const isHubName = (text: string): boolean => /^[^./~\\][^/\\]*\/[^/\\]+$/.test(text);

/** The first word about a hub that does not answer comes this early. */
const SILENT_MS = 3000;
const WITHOUT_NETWORK = "the demo's model needs no network: --model shapes";

/** Returns the folder of a model. Throws `FileError` if the path is not a folder, `HubError` if the model cannot be downloaded. */
export async function resolveModel(nameOrPath: string, context: Context, flags: HubFlags = {}): Promise<string> {
  return (
    (await folderHere(nameOrPath, flags)) ??
    askHub(nameOrPath, { context, flags, ask: (hub, options) => hub.modelFolder(nameOrPath, options) })
  );
}

/** Returns the files of a model for reading headers: files on the hub are not downloaded completely. Throws as `resolveModel` does. */
export async function resolveSource(nameOrPath: string, context: Context, flags: HubFlags = {}): Promise<FileSource> {
  const folder = await folderHere(nameOrPath, flags);
  if (folder === null)
    return askHub(nameOrPath, { context, flags, ask: (hub, options) => hub.modelSource(nameOrPath, options) });
  const { folderSource } = await import("../model/node/files.ts");
  return folderSource(folder);
}

/** The folder of a model on this machine; null for a name on the hub. */
async function folderHere(nameOrPath: string, { revision, cacheDir }: HubFlags): Promise<string | null> {
  const stats = await stat(nameOrPath).catch(() => null);
  const folder = stats?.isDirectory() ? nameOrPath : stats ? undefined : shippedModel(nameOrPath);
  const useless = revision !== undefined ? "--revision" : cacheDir !== undefined ? "--cache-dir" : null;
  if (folder !== undefined && useless !== null)
    throw new UsageError(`${useless} is for models on the hub; ${nameOrPath} is on this machine. Leave it out`);
  if (folder !== undefined) return folder;
  if (cacheDir?.trim() === "")
    throw new UsageError('--cache-dir: a folder is required; got "". Leave it out for that of HF_HUB_CACHE or HF_HOME');
  if (!stats && isHubName(nameOrPath)) return null;
  const { FileError } = await import("../model/node/files.ts");
  throw stats
    ? new FileError(
        /\.gguf$/i.test(nameOrPath)
          ? `${nameOrPath} is not a folder; put it into one with the tokenizer.json of its model, and name that`
          : `${nameOrPath} is not a folder; name the one with config.json and the weights`,
        "ENOTDIR",
      )
    : new FileError(
        `there is no folder ${nameOrPath}; models on the hub are named owner/name; shapes comes with the package`,
        "ENOENT",
      );
}

interface Question<T> {
  readonly context: Context;
  readonly flags: HubFlags;
  readonly ask: (hub: typeof import("../model/janus/node/hub.ts"), options: DownloadOptions) => Promise<T>;
}

async function askHub<T>(name: string, { context, flags, ask }: Question<T>): Promise<T> {
  const { out, signal } = context;
  out.note(`there is no folder ${name} here; asking the hub`);
  const hub = await import("../model/janus/node/hub.ts");
  const timer = setTimeout(() => out.note(`still waiting for the hub; ${WITHOUT_NETWORK}`), SILENT_MS);
  using progress = out.progress("bytes");
  try {
    return await ask(hub, {
      ...(flags.revision !== undefined && { revision: flags.revision }),
      ...(flags.cacheDir !== undefined && { cache: flags.cacheDir }),
      signal,
      onNotice: (message) => out.warn(message),
      onProgress: ({ file, bytes, totalBytes }) => {
        clearTimeout(timer);
        progress.report({ done: bytes, total: totalBytes, label: `fetching ${file}` });
      },
    });
  } catch (error) {
    if (error instanceof hub.HubNetworkError || error instanceof hub.HubOfflineError) out.note(WITHOUT_NETWORK);
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
