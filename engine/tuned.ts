/**
 * Tables of kernel variants that were measured on a device (`janus tune`): plain data, chosen by adapter and driver when a device is created.
 * Nothing is searched at run time. A user's own table comes before those of this file.
 */
import { DeviceError, messageOf } from "./errors.ts";
import { readUserFile } from "./platform.ts";

/** Names of variants by kernel family and class of problem, as the families of `kernels/` name them. */
export type TunedVariants = Readonly<Record<string, Readonly<Record<string, string>>>>;

/** What identifies an adapter and its driver. */
export interface AdapterId {
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  /** The driver with its version. */
  readonly driver: string;
}

export interface TunedTable {
  readonly format: 1;
  readonly adapter: AdapterId;
  /** ISO 8601. */
  readonly date: string;
  /** Version of the package that measured it. */
  readonly version: string;
  readonly variants: TunedVariants;
}

/** A table and where it comes from: a file, or "the package". */
export interface FoundTable {
  readonly from: string;
  readonly table: TunedTable;
}

/** Tables by adapter family that come with the package: measured by `janus tune --submit`. They fit any driver of their vendor and architecture. */
export const COMMITTED: readonly TunedTable[] = [];

/** On Vulkan, Dawn's `device` is the name of the GPU and its `description` the driver with its version. */
export const adapterId = (info: GPUAdapterInfo): AdapterId => ({
  name: info.device || info.description || info.vendor || "unknown adapter",
  vendor: info.vendor,
  architecture: info.architecture,
  driver: info.description || info.device || info.vendor || "unknown driver",
});

/** A name for files and folders: letters, digits, dots and dashes of the adapter and its driver. */
export const adapterFolder = ({ name, driver }: Pick<AdapterId, "name" | "driver">): string =>
  `${name === driver ? name : `${name} ${driver}`}`
    .toLowerCase()
    .replace(/[^a-z0-9.]+/g, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 120);

/** Name of an adapter's table in the user's cache. */
export const tunedFile = (id: Pick<AdapterId, "name" | "driver">): string => `tuned/${adapterFolder(id)}.json`;

/** The table for an adapter: the user's, or one of the package; null if there is none. Throws `DeviceError` for a file that is no such table. */
export function findTuned(info: GPUAdapterInfo): FoundTable | null {
  const id = adapterId(info);
  const file = readTable(tunedFile(id));
  if (file) return { from: file.path, table: parseTuned(file.text, file.path) };
  const known = COMMITTED.find(
    ({ adapter }) => adapter.vendor === id.vendor && adapter.architecture === id.architecture,
  );
  return known ? { from: "the package", table: known } : null;
}

function readTable(name: string): ReturnType<typeof readUserFile> {
  try {
    return readUserFile(name);
  } catch (error) {
    throw new DeviceError(
      `Device.create: the table of janus tune, ${name} in the user's cache, must be readable; got ${messageOf(error)}. Remove it, or pass tuned: false.`,
    );
  }
}

/** Reads a table. Throws `DeviceError` with what is wrong and what to do. */
export function parseTuned(text: string, path: string): TunedTable {
  const fail = (got: string): never => {
    throw new DeviceError(
      `Device.create: ${path} must be a table of janus tune, format 1; got ${got}. Remove it, or run janus tune.`,
    );
  };
  let table: unknown;
  try {
    table = JSON.parse(text);
  } catch {
    fail("a text that is not JSON");
  }
  if (!isRecord(table) || table["format"] !== 1) fail("another format");
  const { variants, adapter } = table as unknown as TunedTable;
  if (!isRecord(adapter)) fail("no adapter");
  checkVariants(variants, fail);
  return table as unknown as TunedTable;
}

/** Calls `fail` unless `variants` has names by family and class. */
export function checkVariants(variants: unknown, fail: (got: string) => never): void {
  if (!isRecord(variants)) return fail("no variants");
  for (const [family, names] of Object.entries(variants))
    if (!isRecord(names) || Object.values(names).some((name) => typeof name !== "string"))
      fail(`something else than names of variants for ${family}`);
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
