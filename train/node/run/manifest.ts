/**
 * MANIFEST.json of a checkpoint: its step, and size and sha256 of each of its files. It is written last, so that a folder with a manifest is
 * one that was finished. It also owns the names of checkpoint folders: `step-00000020`.
 */
import { ArgumentError } from "../../../engine/errors.ts";
import { quote } from "../../../model/io/errors.ts";
import { isJsonObject, parseJsonObject } from "../../../model/io/json.ts";
import { RunFolderError } from "./errors.ts";

export const MANIFEST = "MANIFEST.json";
export const MAX_MANIFEST = 16 * 2 ** 20; // bytes
const FORMAT = "janus-webgpu checkpoint";
const VERSION = 1;

export interface ManifestEntry {
  readonly bytes: number;
  /** In hex. */
  readonly sha256: string;
}

export interface Manifest {
  readonly step: number;
  /** Files by path in the folder, `/` between its parts. */
  readonly files: ReadonlyMap<string, ManifestEntry>;
}

/** Formats a manifest. The same files give the same bytes, in whatever order they were written. */
export function encodeManifest({ step, files }: Manifest): Uint8Array {
  const sorted = [...files].sort(([a], [b]) => (a < b ? -1 : 1));
  const json = { format: FORMAT, version: VERSION, step, files: Object.fromEntries(sorted) };
  return new TextEncoder().encode(`${JSON.stringify(json, null, 2)}\n`);
}

/** Parses a manifest. Throws `JsonError` or `RunFolderError` if it is not a manifest of this version. `name` begins messages. */
export function parseManifest(bytes: Uint8Array, name: string): Manifest {
  const json = parseJsonObject(bytes, name);
  const fail = (message: string): never => {
    throw new RunFolderError(`${name}: ${message}`);
  };
  if (json.get("format") !== FORMAT) fail("it is not the manifest of a checkpoint");
  const version = json.get("version");
  if (version !== VERSION)
    fail(
      `version ${typeof version === "number" ? version : "of another kind"} is not known, this program reads ${VERSION}; use a newer one`,
    );
  const step = json.get("step");
  const list = json.get("files");
  if (!isWhole(step)) return fail("step must be a whole number");
  if (!isJsonObject(list)) return fail("files must be an object");
  const files = new Map<string, ManifestEntry>();
  for (const [path, entry] of list) {
    const problem = pathProblem(path);
    if (problem) return fail(`${quote(path)} ${problem}`);
    if (!isJsonObject(entry)) return fail(`the entry of ${quote(path)} must be an object`);
    const [size, sha256] = [entry.get("bytes"), entry.get("sha256")];
    if (!isWhole(size)) return fail(`bytes of ${quote(path)} must be a whole number`);
    if (typeof sha256 !== "string" || !/^[0-9a-f]{64}$/.test(sha256))
      return fail(`sha256 of ${quote(path)} must be 64 hexadecimal digits`);
    files.set(path, { bytes: size, sha256 });
  }
  return { step, files };
}

const isWhole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** Why a file of a checkpoint may not have this path; null if it may. */
export function pathProblem(path: string): string | null {
  const parts = path.split("/");
  // oxlint-disable-next-line no-control-regex
  if (path.length > 1024 || /[\\\u0000-\u001f]/.test(path) || parts.some((part) => part === "" || part.startsWith(".")))
    return "is not a path inside a checkpoint; names are relative, with / between them, and none is hidden";
  if (/^[A-Za-z]:/.test(path)) return "names a drive";
  return path === MANIFEST ? "is written by the run folder itself" : null;
}

export function requireStep(step: number): number {
  if (!isWhole(step)) throw new ArgumentError(`step ${step}; a whole number of at least 0`);
  return step;
}

/** `step-00000020` */
export const stepName = (step: number): string => `step-${String(step).padStart(8, "0")}`;

/** Returns the step of a checkpoint's folder; null if the name is not that of a checkpoint. */
export function stepOf(name: string): number | null {
  const step = /^step-(\d{8,})$/.test(name) ? Number(name.slice(5)) : NaN;
  return isWhole(step) && stepName(step) === name ? step : null;
}
