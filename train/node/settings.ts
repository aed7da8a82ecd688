/** Settings from presets and YAML files that a person can read, with changes on top of them. */
import { isUtf8 } from "node:buffer";
import { existsSync, readFileSync } from "node:fs";
import { parse } from "yaml";
import { z } from "zod";
import { TrainConfigError, checkAnyConfig, checkConfig } from "../config.ts";
import type { TokenizerConfig, TrainConfig } from "../config.ts";
import type { Machine } from "../scale.ts";
import { notContent } from "../../model/io/small_file.ts";
import { messageOf } from "../../engine/errors.ts";

export const PRESETS = ["stage0", "stage1", "stage2", "stage3", "stage3-7b", "dpo", "grpo"] as const;
export type Preset = (typeof PRESETS)[number];

/** Settings of a preset or a YAML file, not yet checked. */
export function readSettings(presetOrFile: string): Record<string, unknown> {
  const isPreset = (PRESETS as readonly string[]).includes(presetOrFile);
  return readYaml(isPreset ? new URL(`../presets/${presetOrFile}.yaml`, import.meta.url) : presetOrFile, presetOrFile);
}

function readYaml(file: string | URL, name: string): Record<string, unknown> {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    throw new TrainConfigError(
      `${name} is neither a preset (${PRESETS.join(", ")}) nor a file that can be read: ${messageOf(error)}`,
    );
  }
  const problem = notContent(bytes) ?? (isUtf8(bytes) ? null : "is not text in UTF-8; save it so");
  if (problem) throw new TrainConfigError(`${name} ${problem}`);
  let settings: unknown;
  try {
    settings = parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new TrainConfigError(`${name} is not YAML: ${messageOf(error)}`);
  }
  if (typeof settings !== "object" || settings === null || Array.isArray(settings))
    throw new TrainConfigError(`${name}: the top must be a mapping of keys to values`);
  return settings as Record<string, unknown>;
}

/** Applies changes of the form `optimizer.lr=2e-5` to `settings`; values are YAML. Throws `TrainConfigError` for a malformed one. */
export function withChanges(
  settings: Readonly<Record<string, unknown>>,
  changes: readonly string[],
): Record<string, unknown> {
  const changed = structuredClone(settings) as Record<string, unknown>;
  for (const change of changes) {
    const at = change.indexOf("=");
    const keys = change.slice(0, at).split(".");
    if (at < 1 || keys.some((key) => key === "" || key === "__proto__"))
      throw new TrainConfigError(`--set ${change}: write key=value, for example optimizer.lr=2e-5`);
    let open = changed;
    for (const key of keys.slice(0, -1)) {
      const next = (open[key] ??= {});
      if (typeof next !== "object" || next === null)
        throw new TrainConfigError(`--set ${change}: ${key} is a value and has no keys`);
      open = next as Record<string, unknown>;
    }
    try {
      open[keys.at(-1)!] = parse(change.slice(at + 1)) as unknown;
    } catch (error) {
      throw new TrainConfigError(`--set ${change}: the value is not YAML: ${messageOf(error)}`);
    }
  }
  return changed;
}

const positive = z.number().positive();
const machine = z.strictObject({
  flops: positive,
  efficiency: positive.max(1),
  memory: positive,
  memoryBandwidth: positive,
  gpus: positive.int(),
  shared: positive,
  network: positive,
  latency: z.number().min(0),
  message: z.number().min(0),
  readback: positive,
  upload: positive,
}) satisfies z.ZodType<Machine>;

/** A machine of presets/machines.yaml by name, or the only one of a YAML file. Throws `TrainConfigError` if there is none, or it is not complete. */
export function loadMachine(nameOrFile: string): Machine {
  const table = readYaml(new URL("../presets/machines.yaml", import.meta.url), "machines.yaml");
  const named = Object.hasOwn(table, nameOrFile) ? table[nameOrFile] : undefined;
  if (named === undefined && !existsSync(nameOrFile))
    throw new TrainConfigError(`--machine: must be one of ${Object.keys(table).join(", ")}, or a YAML file; got ${nameOrFile}. Copy a row of machines.yaml for another machine.`); // prettier-ignore
  const checked = machine.safeParse(named ?? readYaml(nameOrFile, nameOrFile));
  if (checked.success) return checked.data;
  const lines = checked.error.issues.map(({ path, message }) => `${path.join(".") || "the top"}: ${message}`);
  throw new TrainConfigError(
    `${nameOrFile}: a machine must have the keys of machines.yaml; got:\n  ${lines.join("\n  ")}`,
  );
}

/** A preset or a YAML file of stages 1 to 3 with changes on top, checked. */
export const loadConfig = (presetOrFile: string, changes: readonly string[] = []): TrainConfig =>
  checkConfig(withChanges(readSettings(presetOrFile), changes), presetOrFile);

/** Settings with changes on top, checked again. */
export const changeSettings = (settings: TrainConfig, changes: readonly string[]): TrainConfig =>
  checkConfig(withChanges(settings, changes), "--set");

/** A preset or a YAML file of any stage with changes on top, checked. */
export const loadAnyConfig = (presetOrFile: string, changes: readonly string[] = []): TrainConfig | TokenizerConfig =>
  checkAnyConfig(withChanges(readSettings(presetOrFile), changes), presetOrFile);
