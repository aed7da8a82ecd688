/** Common parts of runs of every stage: their start, and the state for resuming besides weights and moments. */
import { createHash } from "node:crypto";
import { ArgumentError } from "../../../engine/errors.ts";
import type { FileSource } from "../../../model/io/bytes.ts";
import { readWhole } from "../../../model/io/bytes.ts";
import { isSideFile } from "../../../model/janus/checkpoint/side_files.ts";
import { folderSource } from "../../../model/node/files.ts";
import { checkAnyConfig } from "../../config.ts";
import type { TokenizerConfig, TrainConfig } from "../../config.ts";
import { RunFolderError } from "./errors.ts";
import type { RunFolder } from "./run_folder.ts";

export const STATE = "state.json";
export const OPTIMIZER = "optimizer.safetensors";
/** File of stage 0 with adversarial losses: weights, moments and state of the discriminator. */
export const DISCRIMINATOR = "discriminator.safetensors";
/** More than the files take that are made at each save: settings, state, manifest. */
export const SMALL_FILES = 2 ** 20; // bytes
const MAX_STATE = 2 ** 28; // bytes; numbers of bad records are in it
const MAX_SIDE_FILE = 2 ** 26; // bytes

type AnyConfig = TrainConfig | TokenizerConfig;

/**
 * The folder of the newest checkpoint that verifies; null if the run has no checkpoint. Says which newer ones are damaged; throws `RunFolderError`
 * if all are.
 */
export async function newestOf(
  run: RunFolder,
  { onNotice, signal }: { readonly onNotice: (message: string) => void; readonly signal?: AbortSignal },
): Promise<string | null> {
  const { newest, skipped } = await run.newestVerified(signal && { signal });
  const damage = skipped.map(({ path, problems }) => `${path} is damaged: ${problems.join("; ")}`);
  if (!newest && damage.length)
    throw new RunFolderError(
      `${run.path}: at least one valid checkpoint is required, and all are damaged; restore one, or train in another folder:\n  ${damage.join("\n  ")}`,
    );
  for (const one of damage) onNotice(`${one}; it is skipped`);
  return newest?.path ?? null;
}

/** Settings that may change when a run resumes: they affect its end and its costs, not what it computes. */
const FREE: readonly string[] = [
  "bad",
  "save",
  "steps",
  "stopAt",
  "microRows",
  "microBatch",
  "recompute",
  "sharding",
  "report",
] satisfies (keyof TrainConfig | keyof TokenizerConfig)[];

/** True if the last steps of a run differ from earlier ones: the learning rate decays, or codes are retired. */
const endsOtherwise = (config: AnyConfig): boolean =>
  config.optimizer.cooldown > 0 || ("rateWeight" in config && config.rateWeight > 0);

/** True if images of one micro-batch affect each other: the discriminator has batch norm. */
const isBatched = (config: AnyConfig): boolean => "adversarial" in config && config.adversarial.weight > 0;

/** The settings that may not, by name. */
const boundSettings = (config: AnyConfig): Map<string, string> =>
  new Map(
    Object.entries(config)
      .filter(
        ([key]) =>
          !FREE.includes(key) ||
          (key === "steps" && endsOtherwise(config)) ||
          (key === "microBatch" && isBatched(config)),
      )
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => [key, JSON.stringify(value)]),
  );

/** SHA-256 in hex of those settings that a run that is resumed must have. */
export const configHash = (config: AnyConfig): string =>
  createHash("sha256")
    .update(JSON.stringify([...boundSettings(config)].sort(([a], [b]) => (a < b ? -1 : 1))))
    .digest("hex");

/** Paths of the settings in which two values differ. */
function differing(path: string, a: unknown, b: unknown): string[] {
  if (JSON.stringify(a) === JSON.stringify(b)) return [];
  const isGroup = (value: unknown): value is object =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  if (!isGroup(a) || !isGroup(b)) return [path];
  const [left, right] = [new Map(Object.entries(a)), new Map(Object.entries(b))];
  return [...new Set([...left.keys(), ...right.keys()])].flatMap((key) =>
    differing(`${path}.${key}`, left.get(key), right.get(key)),
  );
}

/** The state of a checkpoint. Throws `ArgumentError` if it is of a run with other settings than `config`. */
export async function readState(folder: string, config: AnyConfig): Promise<unknown> {
  const file = await folderSource(folder).open(STATE);
  try {
    const state = JSON.parse(new TextDecoder().decode(await readWhole(file, MAX_STATE))) as { config: unknown };
    const [now, before] = [boundSettings(config), boundSettings(checkAnyConfig(state.config, `${folder}/${STATE}`))];
    const names = [...new Set([...now.keys(), ...before.keys()])];
    const valueOf = (text: string | undefined): unknown => (text === undefined ? undefined : JSON.parse(text));
    const other = names.flatMap((key) => differing(key, valueOf(now.get(key)), valueOf(before.get(key))));
    if (other.length)
      throw new ArgumentError(
        `${folder} was trained with other settings (${other.join(", ")}); resume with the same ones, or begin a new run from its model`,
      );
    return state;
  } finally {
    await file.close?.();
  }
}

/** The file that `readState` reads. */
export const stateFile = (state: object): Uint8Array => new TextEncoder().encode(`${JSON.stringify(state, null, 2)}\n`);

/** Tokenizer, processor and other small files of a model's folder, by name. */
export async function sideFilesOf(source: FileSource): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>();
  for (const name of await source.list()) {
    if (!isSideFile(name)) continue;
    const file = await source.open(name);
    try {
      files.set(name, await readWhole(file, MAX_SIDE_FILE));
    } finally {
      await file.close?.();
    }
  }
  return files;
}
