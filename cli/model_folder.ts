/** From what a person names to the folder of a model: a folder on this machine, the package's own, or one on the hub, fetched with a bar. */
import { stat } from "node:fs/promises";
import { shippedModel } from "../model/janus/node/shipped.ts";
import type { Context } from "./context.ts";

/** For the help of commands that take a model. */
export const MODEL_ARGUMENT =
  "a model's folder, the name of a model on the hub (owner/name), or shapes, which comes with the package";

const isHubName = (text: string): boolean => /^[^./~\\][^/\\]*\/[^/\\]+$/.test(text);

/** The folder of a model. Throws `FileError` for a path that is none, `HubError` for a model that cannot be fetched. */
export async function resolveModel(nameOrPath: string, { out, signal }: Context): Promise<string> {
  const stats = await stat(nameOrPath).catch(() => null);
  if (stats?.isDirectory()) return nameOrPath;
  const shipped = stats ? undefined : shippedModel(nameOrPath);
  if (shipped) return shipped;
  if (stats || !isHubName(nameOrPath)) {
    const { FileError } = await import("../model/node/files.ts");
    throw stats
      ? new FileError(`${nameOrPath} is not a folder; name the one that holds config.json and the weights`, "ENOTDIR")
      : new FileError(
          `there is no folder ${nameOrPath}; models on the hub are named owner/name; shapes comes with the package`,
          "ENOENT",
        );
  }
  out.note(`${nameOrPath} is no folder here; asking the hub`);
  const { modelFolder } = await import("../model/janus/node/hub.ts");
  using progress = out.progress("bytes");
  return await modelFolder(nameOrPath, {
    signal,
    onNotice: (message) => out.warn(message),
    onProgress: ({ file, bytes, totalBytes }) =>
      progress.report({ done: bytes, total: totalBytes, label: `fetching ${file}` }),
  });
}
